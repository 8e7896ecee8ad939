"""Lua objects of the clones that a step module has for its time steps."""

from __future__ import annotations

from itertools import islice
from typing import Any

from dpnn_bridge.base.display import shortened
from dpnn_bridge.base.graph import without_entries
from dpnn_bridge.conversion import registry
from dpnn_bridge.conversion.contexts import TorchContext
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor

#: number of modules of a recurrent module's clones that are compared, because many recurrent modules may share clones
_MOST_MODULES = 200


def clone_of(obj: Any, step: int) -> LuaObject | None:
    """Return the clone of a time step; None in files after ``clearState`` or from before March 20, 2015."""
    clones = obj.get("sharedClones")
    clone = clones.get(step) if isinstance(clones, LuaTable) else None
    return clone if isinstance(clone, LuaObject) else None


def note_clones(obj: LuaObject, ctx: TorchContext) -> None:
    """Add a note if a setting of a clone differs from the step module, with which PyTorch computes all steps.

    Somebody has changed one of them: Torch7 finds the modules of a model without the clones of the steps.

    Args:
        obj: the recurrent module.
        ctx: the conversion.
    """
    clones, module = obj.get("sharedClones"), obj.get("recurrentModule")
    steps = islice(clones.items(), _MOST_MODULES) if isinstance(clones, LuaTable) else ()
    left = _MOST_MODULES
    for step, clone in steps:
        stack = [(module, clone, "")]
        while stack and left:
            left -= 1
            here, there, path = stack.pop()
            if here is there or not isinstance(here, LuaObject) or not isinstance(there, LuaObject):
                continue
            if difference := _difference(here, there):
                ctx.note(
                    f"sharedClones[{step}]{path}{difference[0]} differs from recurrentModule{path}{difference[0]} "
                    f"({difference[1]}); in training Torch7 uses the clone for its step, PyTorch uses recurrentModule "
                    "for all steps"
                )
                return
            inner, other = here.get("modules"), there.get("modules")
            if isinstance(inner, LuaTable) and isinstance(other, LuaTable):
                last = min(len(inner), left)
                stack += [(inner.get(k), other.get(k), f"{path}.modules[{k}]") for k in range(last, 0, -1)]


def _difference(here: LuaObject, there: LuaObject) -> tuple[str, str] | None:
    """Return the first setting in which two objects differ, with a dot before it, and its values; None if none does."""
    if here.class_name != there.class_name:
        return "", f"{shortened(there.class_name)} and {shortened(here.class_name)}"
    mapping = registry.find(here)
    for names in mapping.scalars if mapping is not None else ():
        for name in names if isinstance(names, tuple) else (names,):
            a, b = here.get(name), there.get(name)
            if isinstance(a, (int, float, str)) and isinstance(b, (int, float, str)) and a != b:
                return f".{name}", f"{shortened(repr(b))} and {shortened(repr(a))}"
    return None


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
