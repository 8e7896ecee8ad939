"""Blocks of gates in another order: by a copy, and in place."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from dpnn_bridge.modules.rnn.lstm import TORCH_ORDER, _reorder_in_place, reordered

ORDERS = ["".join(order) for order in itertools.permutations(TORCH_ORDER)]


@pytest.mark.parametrize(
    "value", [torch.randn(8, 3), torch.randn(3, 8).t(), torch.randn(8)], ids=["rows", "columns", "bias"]
)
def test_gates_in_any_order(value: Tensor) -> None:
    for order, wanted in itertools.product(ORDERS, ORDERS):
        expected = torch.cat([value.chunk(4)[order.index(name)] for name in wanted])
        (copied,) = reordered([value], order, wanted)
        assert copied.is_contiguous()
        assert torch.equal(copied, expected)
        assert torch.equal(_reorder_in_place(value.contiguous().clone(), order, wanted), expected)
