"""Stored random numbers of Torch7's modules."""

from __future__ import annotations

import pytest
import torch

from dpnn_bridge.conversion.noise import noise_of
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.objects import LuaObject, LuaTable


@pytest.mark.parametrize("fields", [{}, {"noise": 3}])
def test_noise_that_is_no_tensor_is_named(fields: dict[str, object]) -> None:
    with pytest.raises(ConversionError, match="'noise'"):
        noise_of(LuaObject("nn.Dropout", LuaTable(fields.items())), "noise", torch.ones(2))
