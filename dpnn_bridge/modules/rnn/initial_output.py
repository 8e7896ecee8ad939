"""Sizes and zeros of the output before the first time step of a recurrence: tensors, or nested lists of them."""

from __future__ import annotations

from typing import Any

import torch

from dpnn_bridge.objects import LuaStorage, LuaTable


def zeros(size: list[Any], batch: list[int], dtype: torch.dtype, device: torch.device) -> Any:
    """Return zeros of the sizes of one element, or nested lists of them, with the batch size in front.

    A nested function that calls itself would be a reference cycle with the input, freed only by Python's collector.
    """
    if size and isinstance(size[0], list):
        return [zeros(s, batch, dtype, device) for s in size]
    return torch.zeros(batch + size, dtype=dtype, device=device)


def sizes_from_lua(value: Any) -> Any:
    """Convert the Lua field ``outputSize``: a storage, or nested tables of storages."""
    if isinstance(value, LuaStorage):
        return [int(n) for n in value.numpy()]
    return [sizes_from_lua(v) for v in value.as_list()] if isinstance(value, LuaTable) else value


def sizes_to_lua(value: Any) -> Any:
    """Convert sizes to the Lua field ``outputSize``."""
    return LuaTable.from_list(sizes_to_lua(v) for v in value) if isinstance(value, list) else value
