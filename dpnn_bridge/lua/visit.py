"""Visit the elements of tensors for apply, map and map2, if LuaJIT does not do that itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dpnn_bridge.lua.tensor import Tensor, cast_number


class _Column:
    """The elements of a tensor in logical order."""

    def __init__(self, t: Tensor) -> None:
        self._storage, self._ty = t.storage, t.ty
        self._indices = t.storage_indices().tolist() if t.numel else []
        self._last = max(self._indices, default=-1)
        self._flat: Any = None
        self._memory: Any = None

    def _has_memory(self) -> bool:
        """Update the memory, which a Lua function may have moved; return whether it still contains all elements."""
        assert self._storage is not None
        flat = self._storage.flat
        if flat is not self._flat:
            self._flat, self._memory = flat, flat.numpy()
        return self._last < len(self._memory)

    def get(self, n: int) -> float | None:
        return self._memory[self._indices[n]].item() if self._has_memory() else None

    def put(self, n: int, value: float) -> None:
        if self._has_memory():
            self._memory[self._indices[n]] = cast_number(value, self._ty)


def visitor(*tensors: Tensor) -> Callable[..., Any]:
    """Return a function that returns the next element of each tensor, and None after the last elements.

    Its argument replaces the previous element of the first tensor, unless it is None. If Lua has shrunk the storage of
    a tensor, its elements are None.
    """
    columns = [_Column(t) for t in tensors]
    count, at = tensors[0].numel, -1

    def step(value: float | None = None) -> Any:
        nonlocal at
        if value is not None:
            columns[0].put(at, value)
        at += 1
        return tuple(column.get(at) for column in columns) if at < count else None

    return step
