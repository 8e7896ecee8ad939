"""The reasons and notes that a report gives beyond the corpus of pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from corpus import randn
from test_layouts import Net, filled
from torch import Tensor, nn
from torch.nn import functional as F

import dpnn_bridge


def lua_normalize(x: Tensor) -> Tensor:
    """nn.Normalize(2) of Torch7."""
    return x / (x.square().sum(1, keepdim=True) + 1e-10).sqrt()


def with_norm(normalize: Callable[[Tensor], Tensor], last: bool) -> Net:
    layers = {"first": nn.Linear(6, 4, bias=False), **({"last": nn.Linear(4, 3)} if last else {})}
    return Net(lambda m, x: m.last(normalize(m.first(x))) if last else normalize(m.first(x)), **layers)


@pytest.mark.parametrize("last", [False, True], ids=["output", "inside"])
def test_a_small_constant_that_differs_is_named(last: bool) -> None:
    """F.normalize limits the norm, nn.Normalize adds to its square: a difference of 1e-10 for norms of about one."""
    source, target = filled(with_norm(lua_normalize, last), 0), with_norm(F.normalize, last)
    report = dpnn_bridge.port(source, target, lambda seed: randn(3, 6, seed=seed) / 20)
    assert report.first is not None
    assert "clamp_min(min=1e-12) here, add(constant=1e-10) in the source" in report.first.reason
    assert "differs by" in report.first.reason
    assert "test_reasons.py" in report.first.line


def test_a_small_constant_that_shows_on_the_second_input_only_is_named() -> None:
    source, target = filled(with_norm(lua_normalize, False), 0), with_norm(F.normalize, False)
    report = dpnn_bridge.port(source, target, lambda seed: randn(3, 6, seed=seed) / (5 if seed else 0.01))
    assert report.first is not None
    assert "add(constant=1e-10) in the source" in report.first.reason


def test_outputs_in_another_order_are_noted() -> None:
    layers = {"a": nn.Linear(6, 4), "b": nn.Linear(6, 3)}
    source = Net(lambda m, x: [m.a(x), m.b(x)], **layers)  # type: ignore[arg-type, return-value]
    target = Net(lambda m, x: [m.b(x), m.a(x)], a=nn.Linear(6, 4), b=nn.Linear(6, 3))  # type: ignore[arg-type, return-value]
    report = dpnn_bridge.port(filled(source, 0), target, lambda seed: randn(3, 6, seed=seed))
    assert report.equal
    assert report.notes == ["outputs in another order: the module returns the source's outputs 2, 1"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_that_half_precision_rounds_are_noted(dtype: torch.dtype) -> None:
    source, target = filled(nn.Linear(6, 4), 0), nn.Linear(6, 4).to(dtype)
    report = dpnn_bridge.port(source, target, lambda seed: randn(3, 6, seed=seed))
    assert report.equal
    (note,) = report.notes
    assert f"weights rounded to {str(dtype)[6:]}" in note


def test_a_weight_that_half_precision_does_not_hold_is_named() -> None:
    source, target = filled(nn.Sequential(nn.Linear(6, 4)), 0), nn.Sequential(nn.Linear(6, 4)).half()
    source[0].weight.data[1, 2] = 70000  # type: ignore[index, union-attr]
    report = dpnn_bridge.port(source, target, lambda seed: randn(3, 6, seed=seed))
    assert report.first is not None
    assert report.first.layer == "0"
    assert report.first.reason.startswith("0.weight contains 7e+04, too large for float16")
    assert bool(target.state_dict()["0.weight"].isfinite().all())


def test_the_activation_with_other_limits_is_named_not_what_comes_after_it() -> None:
    def net(activation: nn.Module) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 3), activation, nn.Conv2d(4, 4, 3), activation, nn.Conv2d(4, 2, 1))

    report = dpnn_bridge.port(filled(net(nn.ReLU6()), 0), net(nn.ReLU()), lambda seed: randn(2, 3, 8, 8, seed=seed))
    assert report.first is not None
    assert report.first.layer == "1"
    assert "relu here, hardtanh(min_val=0, max_val=6) in the source" in report.first.reason


def test_sequences_of_which_one_is_in_another_order_are_named_where_they_are_joined() -> None:
    def net(again: bool) -> Net:
        def run(m: Any, x: Tensor) -> Tensor:
            back = m.b(x.flip(0))[0]
            return m.l(torch.cat([m.f(x)[0], back.flip(0) if again else back], 2))

        return Net(run, f=nn.RNN(3, 4), b=nn.RNN(3, 4), l=nn.Linear(8, 2))

    report = dpnn_bridge.port(filled(net(True), 0), net(False), lambda seed: randn(5, 2, 3, seed=seed))
    assert report.first is not None
    assert report.first.layer == ""
    assert "concatenation (cat)" in report.first.reason
