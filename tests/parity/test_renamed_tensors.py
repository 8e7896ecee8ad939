"""Tensors that a traced graph names differently than the model, or has multiplied with others."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dpnn_bridge.outputs.written import Written
from dpnn_bridge.parity.converted import _compare_tensors
from dpnn_bridge.parity.folded import _folded, compare_folded
from dpnn_bridge.parity.layers import tree
from dpnn_bridge.parity.named_layers import NamedLayers, failed
from dpnn_bridge.parity.renamed import RenamedTensors
from dpnn_bridge.parity.verification import Layer, Verification


@contextmanager
def counted_calls() -> Iterator[list[int]]:
    """Count the calls of functions, also of those that are not in Python."""
    count = [0]

    def called(frame: Any, event: str, argument: Any) -> None:
        count[0] += event in ("call", "c_call")

    sys.setprofile(called)
    try:
        yield count
    finally:
        sys.setprofile(None)


@pytest.mark.parametrize(
    ("ours", "renamed", "found"),
    [
        ([0.0, 1, 0, 0], [[0.0, 0, 0, 0]], "named"),  # one of two equal biases is kept; zeros of another layer
        ([0.0, 1, 2, 0], [[0.0, 0, 0, 0]], None),
        ([0.0, 1, 2, 3], [[0.0, 1, 2, 5]], "renamed"),
        ([0.0, 0, 0, 0], [[0.0, 0, 0, 1]], None),
        ([0.0, 0, 0, 0], [[0.0, 0, 0, 0]], "renamed"),
    ],
    ids=["shared", "other", "changed", "constant", "the same constant"],
)
def test_a_weight_under_another_name_is_not_taken_for_a_constant(
    ours: list[float], renamed: list[list[float]], found: str | None
) -> None:
    named = torch.tensor([0.0, 1, 0, 0])
    given = tuple(torch.tensor(values) for values in renamed)
    written = Written({"other.bias": named}, renamed=given, complete=False)
    taken = RenamedTensors(written).find(torch.tensor(ours))
    assert (None if taken is None else taken.tolist()) == {None: None, "named": [0.0, 1, 0, 0], "renamed": renamed[0]}[
        found
    ]


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("changed", [0, 1, 14, 40])
def test_a_matrix_is_found_by_most_of_its_elements(changed: int, transposed: bool) -> None:
    torch.manual_seed(0)
    ours = torch.randn(5, 6)
    theirs = (ours.t() if transposed else ours).clone(memory_format=torch.contiguous_format)
    theirs.view(-1)[:changed] += 1
    found = RenamedTensors(Written({}, renamed=(torch.randn(30), theirs, torch.randn(6, 5)))).find(ours)
    if changed > 15:
        assert found is None
    else:
        assert found is not None
        assert torch.equal(found, theirs.t() if transposed else theirs)


def test_the_most_similar_of_several_tensors_is_found() -> None:
    ours = torch.arange(20.0)
    near, far = ours.clone(), ours.clone()
    near[3], far[3:8] = 7, 7
    found = RenamedTensors(Written({}, renamed=(far, near))).find(ours)
    assert found is not None
    assert torch.equal(found, near)


@pytest.mark.parametrize("changed", [0.0, 1e-3, 1.0], ids=["the same", "one element differs", "all differ"])
def test_a_search_takes_no_longer_among_more_tensors(changed: float) -> None:
    torch.manual_seed(0)

    def calls(count: int) -> int:
        model = [torch.randn(4, 4) for _ in range(count)]
        other = [t + changed * (torch.arange(16) < (1 if changed < 1 else 16)).view(4, 4) for t in model]
        renamed = RenamedTensors(Written({}, renamed=tuple(other)))
        with counted_calls() as counted:
            found = [renamed.find(t) for t in model]
        assert all((f is None) == (changed == 1) for f in found)
        return counted[0]

    few = calls(20)
    assert calls(40) < 2.5 * few


def normalized(layers: int) -> nn.Sequential:
    net = nn.Sequential(*(m for _ in range(layers) for m in (nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)))).eval()
    for norm in (m for m in net if isinstance(m, nn.BatchNorm2d)):
        nn.init.normal_(norm.weight, 1, 0.1)
        nn.init.normal_(norm.running_mean)  # type: ignore[arg-type]
    return net


def test_more_folded_layers_take_time_for_each_alone() -> None:
    torch.manual_seed(0)

    def calls(count: int) -> int:
        net = normalized(count)
        found: dict[str, Tensor] = {}
        for i in range(0, 2 * count, 2):
            for leaf, (value, _) in _folded(net[i], net[i + 1]).items():  # type: ignore[arg-type]
                found[f"{i}.{leaf}"] = value.float()
        result = Verification("", "", "", "", "", "eval", "cpu", "")
        result.layers = [Layer(n.path, n.depth, "", "", 0) for n in tree(net)]
        layers = NamedLayers(result, net)
        for i in range(0, 2 * count, 2):
            layers.of(str(i)).converted = [failed(leaf, "differs") for leaf in ("weight", "bias")]
        with counted_calls() as counted:
            assert len(list(compare_folded(layers, net, Written(found, complete=False)))) == 6 * count
        assert all(d.ok for layer in result.layers for d in layer.converted)
        return counted[0]

    calls(1)  # imports
    few = calls(4)
    assert calls(8) < 2.5 * few


@pytest.mark.parametrize(("change", "equal"), [(0, True), (4, True), (1000, False)])
def test_a_weight_that_an_exporter_computed_may_be_rounded(change: int, equal: bool) -> None:
    torch.manual_seed(0)
    net = nn.Linear(5, 6)
    computed = net.weight.detach().clone()
    computed[0] *= 1 + change * torch.finfo(torch.float32).eps
    result = Verification("", "", "", "", "", "eval", "cpu", "")
    result.layers = [Layer(n.path, n.depth, "", "", 0) for n in tree(net)]
    written = Written({"bias": net.bias}, renamed=(computed,), complete=False)
    assert not _compare_tensors(NamedLayers(result, net), net, written)
    assert [d.ok for layer in result.layers for d in layer.converted if d.name == "weight"] == [equal]
