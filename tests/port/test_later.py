"""The deviations after the first one."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dpnn_bridge
from dpnn_bridge.porting.explain import Repair
from dpnn_bridge.porting.later import later_deviations
from dpnn_bridge.porting.report import Deviation


def compute(wrong: bool, layers: Any, x: Tensor) -> Tensor:
    x = F.relu(layers["n0"](layers["c0"](x)))
    x = layers["n1"](layers["c1"](x))
    x = layers["n2"](layers["c2"](x if wrong else F.relu(x)))
    x = torch.tanh(x) if wrong else F.relu(x)
    x = F.avg_pool2d(x, 2) if wrong else F.max_pool2d(x, 2)
    return layers["l"](x.flatten(1))


class Net(nn.Module):
    def __init__(self, wrong: bool) -> None:
        super().__init__()
        torch.manual_seed(int(wrong))
        self.layers = nn.ModuleDict({f"c{i}": nn.Conv2d(6, 6, 3, padding=1, bias=False) for i in range(3)})
        self.layers.update({f"n{i}": nn.BatchNorm2d(6, eps=1e-3 if wrong and i == 2 else 1e-5) for i in range(3)})
        self.layers["l"] = nn.Linear(96, 5)
        self.compute = partial(compute, wrong)

    def forward(self, x: Tensor) -> Tensor:
        return self.compute(self.layers, x)


def images(seed: int) -> Tensor:
    return torch.randn(2, 6, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_each_deviation_is_listed_as_if_those_before_were_mended() -> None:
    report = dpnn_bridge.port(Net(False), Net(True), images, later=True)
    assert report.first is not None
    found = [report.first, *report.later]
    words = ["relu is missing here", "eps 0.001 here, 1e-05 in the source", "tanh here", "avg_pool2d"]
    assert len(found) == len(words)
    assert all(word in deviation.reason for word, deviation in zip(words, found, strict=True))
    assert found[1].layer == "layers.n2"
    assert str(report).count("if that is fixed, ") == 3
    assert len(report.to_dict()["later"]) == 3


def test_they_are_not_looked_for_unless_asked_for() -> None:
    report = dpnn_bridge.port(Net(False), Net(True), images)
    assert not report.equal
    assert report.later == []


class Ordered(nn.Module):
    """A convolution of single pixels and a mean, in either order: both give the same."""

    def __init__(self, *, pool_first: bool) -> None:
        super().__init__()
        self.first, self.second, self.pool_first = nn.Conv2d(6, 4, 3), nn.Conv2d(4, 3, 1), pool_first

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        return self.second(F.avg_pool2d(x, 2)) if self.pool_first else F.avg_pool2d(self.second(x), 2)


def test_two_operations_in_the_other_order_are_named_as_such() -> None:
    source = nn.Sequential(nn.Conv2d(6, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.AvgPool2d(2))
    assert dpnn_bridge.port(source, Ordered(pool_first=False), images(0)).equal
    first = dpnn_bridge.port(source, Ordered(pool_first=True), images(0)).first
    assert first is not None
    assert first.reason.endswith("convolution comes before avg_pool2d there, but after it here; swap them")


def test_a_value_that_later_operations_reject_ends_the_list() -> None:
    class FailingSearch:
        def run(self) -> None:
            torch.zeros(2).select(0, 5)  # an IndexError

    node = SimpleNamespace(index=0)
    source = SimpleNamespace(captured={0: torch.zeros(1)}, layers=[])
    explanation: Any = SimpleNamespace(repair=Repair(node, node), source=source)  # type: ignore[arg-type]
    restart: Any = lambda patches: FailingSearch()  # noqa: E731
    assert list(later_deviations(explanation, Deviation("", "", "", ""), lambda: None, restart)) == []
