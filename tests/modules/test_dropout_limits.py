"""Dropout with probabilities that Torch7's constructor refuses and its files may have."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from formula import converted, lua

from dpnn_bridge import to_lua

VERSION_1, LAZY = {"v2": False}, {"v2": True, "lazy": True}


@pytest.mark.parametrize("fields", [{"v2": True}, VERSION_1, LAZY, {**VERSION_1, "mono": True}], ids=str)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("p", [1, -0.5])
def test_a_probability_of_one_or_below_zero(p: float, fields: dict[str, Any], training: bool) -> None:
    module = converted(lua("nn.Dropout", p=p, train=training, **fields))
    x = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    kept = p < 0 or (fields["v2"] and not training)
    expected = x if kept else x * 0 / (1 - p if fields["v2"] else 1)  # NaN: Torch7 divides 0 by 0
    torch.testing.assert_close(module(x), expected, equal_nan=True)
    assert to_lua(module)["p"] == p


def test_a_variational_dropout_with_a_probability_below_zero_returns_its_input() -> None:
    module = converted(lua("onmt.VariationalDropout", p=-0.5, train=True))
    x = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    torch.testing.assert_close(module(x), x)
