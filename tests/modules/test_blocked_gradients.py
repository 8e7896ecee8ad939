"""Gradients that Torch7 fills with zeros also replace infinity and NaN; the absolute value of -0.0 is 0.0."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dpnn_bridge.modules.nn.elementwise import Abs
from dpnn_bridge.modules.nn.passthrough import GradientReversal, L1Penalty, ZeroGrad
from dpnn_bridge.zoo.binary_networks import BinActiveZ

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (ZeroGrad(), [0.0, 0, 0]),
        (L1Penalty(0.5, provide_output=False), [0.5, -0.5, 0]),
        (GradientReversal(0), [NAN, NAN, NAN]),  # multiplies, in Torch7 too
        (BinActiveZ(), [0.0, 0, NAN]),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else "",
)
def test_zeros_do_not_depend_on_the_gradient(module: nn.Module, expected: list[float]) -> None:
    x = torch.tensor([1.0, -2, 0], requires_grad=True)
    module(x).backward(torch.tensor([INF, -INF, NAN]))
    torch.testing.assert_close(x.grad, torch.tensor(expected), equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_absolute_value_of_negative_zero_is_zero(dtype: torch.dtype) -> None:
    x: Any = torch.tensor([-0.0, 0.0, -1.0], dtype=dtype, requires_grad=True)
    y = Abs()(x)
    y.sum().backward()
    assert not y.signbit().any()
    assert x.grad.tolist() == [1, 1, -1]
    assert Abs()(torch.tensor([-3])).tolist() == [3]
