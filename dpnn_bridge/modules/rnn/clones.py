"""Lua objects of the clones that a step module has for its time steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from dpnn_bridge.base.display import shortened
from dpnn_bridge.base.graph import without_entries
from dpnn_bridge.conversion import registry
from dpnn_bridge.conversion.contexts import TorchContext
from dpnn_bridge.conversion.fields import grad_field
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor


def clone_of(obj: Any, step: int) -> LuaObject | None:
    """Return the clone of a time step; None in files after ``clearState`` or from before March 20, 2015."""
    clones = obj.get("sharedClones")
    clone = clones.get(step) if isinstance(clones, LuaTable) else None
    return clone if isinstance(clone, LuaObject) else None


def note_clones(obj: LuaObject, ctx: TorchContext) -> None:
    """Add a note if a clone differs from the step module, with which PyTorch computes all steps.

    Somebody has changed one of them: Torch7 finds the modules of a model without the clones of the steps.

    Args:
        obj: the recurrent module.
        ctx: the conversion.
    """
    clones, module = obj.get("sharedClones"), obj.get("recurrentModule")
    for step, clone in clones.items() if isinstance(clones, LuaTable) else ():
        for path, here, there in _deviations(module, clone, "", set()):
            values = "" if isinstance(here, LuaTensor) else f" ({_shown(there)} and {_shown(here)})"
            ctx.note(
                f"sharedClones[{step}]{path} differs from recurrentModule{path}{values}; in training Torch7 uses the "
                "clone for its step, PyTorch uses recurrentModule for all steps"
            )
            return


def _deviations(here: Any, there: Any, path: str, seen: set[tuple[int, int]]) -> Iterator[tuple[str, Any, Any]]:
    """Yield path and values of each setting and parameter in which two Lua objects of one structure differ."""
    if here is there or (id(here), id(there)) in seen or type(here) is not type(there):
        return
    seen.add((id(here), id(there)))
    if isinstance(here, LuaTable):
        for key, value in here.items():
            yield from _deviations(value, there.get(key), f"{path}[{key}]", seen)
        return
    if not isinstance(here, LuaObject):
        return
    if here.class_name != there.class_name:
        yield path, here, there
        return
    mapping = registry.find(here)
    settings = [] if mapping is None else [n for names in mapping.scalars for n in _names(names)]
    parameters = (
        {} if mapping is None else {n: s for n, s in mapping.tensors.items() if grad_field(n, s) in here.fields}
    )
    skipped = {*settings, *parameters, *(() if mapping is None else mapping.scratch)}
    for name in settings:
        a, b = here.get(name), there.get(name)
        if isinstance(a, (int, float, str)) and isinstance(b, (int, float, str)) and a != b:
            yield f"{path}.{name}", a, b
    for name in parameters:
        a, b = here.get(name), there.get(name)
        if isinstance(a, LuaTensor) and isinstance(b, LuaTensor) and not _same(a, b):
            yield f"{path}.{name}", a, b
    for name, value in here.items():
        if name not in skipped and isinstance(value, (LuaObject, LuaTable)):
            yield from _deviations(value, there.get(name), f"{path}.{name}", seen)


def _names(names: Any) -> tuple[str, ...]:
    return names if isinstance(names, tuple) else (names,)


def _same(a: LuaTensor, b: LuaTensor) -> bool:
    if a.storage is b.storage and (a.offset, a.shape, a.stride) == (b.offset, b.shape, b.stride):
        return True
    return a.shape == b.shape and np.array_equal(a.numpy(), b.numpy(), equal_nan=True)


def _shown(value: Any) -> str:
    return value.class_name if isinstance(value, LuaObject) else shortened(repr(value))


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
