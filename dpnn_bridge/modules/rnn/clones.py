"""Lua objects of the clones that a step module has for its time steps."""

from __future__ import annotations

from typing import Any

from dpnn_bridge.base.graph import without_entries
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor


def clone_of(obj: Any, step: int) -> LuaObject | None:
    """Return the clone of a time step; None in files after ``clearState`` or from before March 20, 2015."""
    clones = obj.get("sharedClones")
    clone = clones.get(step) if isinstance(clones, LuaTable) else None
    return clone if isinstance(clone, LuaObject) else None


def shared_clone(value: Any, memo: dict[int, Any] | None = None) -> Any:
    """Copy a Lua object; the tensors of the copy share the storages of the original.

    Args:
        value: the object.
        memo: ``id`` of an object inside -> its copy. Objects that are their own copies are not copied.
    """
    memo = {} if memo is None else memo
    if id(value) in memo:
        return memo[id(value)]
    if isinstance(value, LuaTensor):
        copy: Any = LuaTensor(value.class_name, value.shape, value.stride, value.offset, value.storage)
    elif isinstance(value, (LuaObject, LuaTable)):
        copy = without_entries(value)
    else:
        return value
    memo[id(value)] = copy
    if isinstance(value, (LuaObject, LuaTable)):
        for k, v in value.items():
            copy[shared_clone(k, memo)] = shared_clone(v, memo)
    return copy
