"""Sizes and zeros of the output before the first time step of a recurrence: tensors, or nested lists of them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, takewhile
from typing import Any

import torch

from dpnn_bridge.modules.nn.reshape import sizes_of
from dpnn_bridge.objects import LuaStorage, LuaTable


def zeros(size: list[Any], batch: list[int], dtype: torch.dtype, device: torch.device) -> Any:
    """Return zeros of the sizes of one element, or nested lists of them, with the batch size in front.

    A nested function that calls itself would be a reference cycle with the input, freed only by Python's collector.
    """
    if size and isinstance(size[0], list):
        return [zeros(s, batch, dtype, device) for s in size]
    return torch.zeros(batch + size, dtype=dtype, device=device)


#: maximum number of tables, storages and numbers in a field ``outputSize``; shared tables count each time
_MAX_VALUES = 256


def sizes_from_lua(value: Any) -> Any:
    """Convert the Lua field ``outputSize``: a storage, or nested tables of storages.

    Raises:
        ValueError: the tables are too large, or share tables too often.
    """
    return _sizes(value, iter(range(_MAX_VALUES)))


def _sizes(value: Any, left: Iterator[int]) -> Any:
    if next(left, None) is None:
        raise ValueError(f"the sizes of the output are more than {_MAX_VALUES:,} values")
    if isinstance(value, LuaStorage):
        return [*sizes_of(value)]
    if not isinstance(value, LuaTable):
        return value
    return [_sizes(value[i], left) for i in takewhile(value.__contains__, count(1))]


def sizes_to_lua(value: Any) -> Any:
    """Convert sizes to the Lua field ``outputSize``."""
    return LuaTable.from_list(sizes_to_lua(v) for v in value) if isinstance(value, list) else value
