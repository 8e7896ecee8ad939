"""Share parameters between modules that run in Lua and other modules, in both directions of the conversion."""

from __future__ import annotations

from typing import Any

from dpnn_bridge.conversion.fields import Field, grad_field
from dpnn_bridge.conversion.placeholder import Placeholder
from dpnn_bridge.conversion.sharing import Sharing
from dpnn_bridge.conversion.ties import Site
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor


def share_parameters(module: Placeholder, obj: LuaObject, sharing: Sharing) -> None:
    """Let a module that was made of ``obj`` have the parameters that other modules have on the same elements."""
    for leaf, path in module._lua_fields.items():
        found = _holder(obj, path)
        parameter = module._parameters[leaf]
        if found is None or parameter is None or found[0][found[1]].shape != tuple(parameter.shape):
            continue
        holder, name = found
        site, gradient = Site(module, name, Field(leaf), module, leaf), holder.get(grad_field(name, leaf))
        module._gradients[leaf] = sharing.join(site, holder[name], gradient)


def link_tensors(module: Placeholder, obj: LuaObject, tensors: dict[tuple[Any, ...], LuaTensor]) -> None:
    """Let the object of a module that runs in Lua have the tensors that other objects have for its parameters.

    Args:
        module: The module.
        obj: Its object, which is changed.
        tensors: The tensors of all parameters, by the keys of :class:`~.lua_context.LuaConversion`.
    """
    for leaf, path in module._lua_fields.items():
        parameter, found = module._parameters[leaf], _holder(obj, path)
        if parameter is None or found is None:
            continue
        holder, name = found
        for field, number in ((name, 0), (grad_field(name, leaf), module._gradients.get(leaf, 0))):
            own = holder.get(field)
            if isinstance(own, LuaTensor) and own.shape == tuple(parameter.shape):
                key = id(parameter), None, own.class_name, field != name, number
                holder[field] = tensors.setdefault((key, own.shape), own)


def _holder(obj: LuaObject, path: str) -> tuple[LuaObject | LuaTable, str] | None:
    """Return the object with the tensor at a path of Lua fields, such as ``modules.1.weight``, and its field."""
    *outer, name = path.split(".")
    holder: Any = obj
    for key in outer:
        holder = holder.get(int(key) if key.isdigit() else key) if isinstance(holder, (LuaObject, LuaTable)) else None
    held = isinstance(holder, (LuaObject, LuaTable)) and isinstance(holder.get(name), LuaTensor)
    return (holder, name) if held else None
