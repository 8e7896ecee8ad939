"""Visit the elements of tensors for Lua's apply, map and map2, where LuaJIT does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dpnn_bridge.lua.tensor import Tensor, cast_number


class _Column:
    """The elements of one tensor in logical order. Elements of an overlapping view share their memory."""

    def __init__(self, t: Tensor) -> None:
        self._storage, self._ty = t.storage, t.ty
        self._places = t.places().tolist() if t.numel else []
        self._reach = max(self._places, default=-1)
        self._flat: Any = None
        self._memory: Any = None

    def _located(self) -> bool:
        """Return whether the memory, which a Lua function may have moved, has all elements."""
        assert self._storage is not None
        flat = self._storage.flat
        if flat is not self._flat:
            self._flat, self._memory = flat, flat.numpy()
        return self._reach < len(self._memory)

    def get(self, n: int) -> float | None:
        return self._memory[self._places[n]].item() if self._located() else None

    def put(self, n: int, value: float) -> None:
        if self._located():
            self._memory[self._places[n]] = cast_number(value, self._ty)


def visitor(*tensors: Tensor) -> Callable[..., Any]:
    """Return a function that takes a number, or None, for the element before, and returns the elements that follow.

    A number replaces the element of the first tensor, at once. Elements are None if Lua has made their storage smaller.
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
