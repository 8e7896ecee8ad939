"""Find modules by their path in Lua (``modules[4]``) or by their name in Lua."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from dpnn_bridge.base.arguments import checks_arguments
from dpnn_bridge.base.display import LONGEST_LINE, shortened
from dpnn_bridge.base.graph import format_path, given_name, parse_path
from dpnn_bridge.base.similar import did_you_mean
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.lua_context import LuaConversion
from dpnn_bridge.errors import ModelNotFoundError
from dpnn_bridge.objects import LuaObject, LuaTable


@checks_arguments
def model_at(model: nn.Module, place: str) -> nn.Module:
    """Return the module at a Lua path, with a name that was given in Lua, or with a PyTorch name.

    Args:
        model: a converted model.
        place: a Lua path, such as ``"modules[4].modules[1]"``; a name from the Lua field ``name`` or from an nngraph
            annotation, such as ``"relu4_1"``; or a name of ``named_modules``, such as ``"3.0"``.

    Raises:
        ModelNotFoundError: the model has no such module; the message suggests similar names.

    Examples:
        >>> vgg = dpnn_bridge.load("vgg_normalised.t7")        # doctest: +SKIP
        >>> model_at(vgg, "relu4_1"), model_at(vgg, "modules[31]")   # doctest: +SKIP
    """
    names = lua_names(model)
    if place in names:
        return names[place]
    objects, keys = _objects(model), parse_path(place)
    value: Any = None if keys is None else objects[0][1]
    for key in keys or ():
        value = value.get(key) if isinstance(value, (LuaTable, LuaObject)) else None
    found = next((module for module, obj in objects if obj is value), None) if value is not None else None
    if found is not None:
        return found
    try:
        return model.get_submodule(place)
    except AttributeError:
        known = [*names, *(path for path, _ in lua_paths(model)), *(name for name, _ in model.named_modules())]
        hint = did_you_mean(place, known, "dpnn_bridge.lua_names and lua_paths list all", count=3)
        hint = "indices in a path start at 1, as in Lua" if 0 in (keys or ()) else hint
        raise ModelNotFoundError(f"no module at {place!r}; {hint}") from None


@checks_arguments
def lua_names(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules that have a name in Lua, by name: the field ``name`` (loadcaffe) or an nngraph annotation."""
    found: dict[str, nn.Module] = {}
    for name, module in _given_names(model):
        found.setdefault(name, module)
    return found


def module_names(model: nn.Module) -> dict[int, str]:
    """Return the names of modules in Lua, by ``id`` of the module, for display: long names are shortened.

    Unlike in :func:`lua_names`, several modules may have the same name, as nodes of a graph do.
    """
    found: dict[int, str] = {}
    for name, module in _given_names(model):
        found.setdefault(id(module), shortened(name, LONGEST_LINE))
    return found


def _given_names(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for module in model.modules():
        record = record_of(module)
        if record and (name := given_name(record.fields)):
            yield name, module
        for node in getattr(module, "nodes", ()):
            label, child = getattr(node, "label", ""), getattr(node, "module", None)
            if label and child is not None:
                yield label, module.get_submodule(child)


@checks_arguments
def lua_paths(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the path of each module in Torch7 and the module, which is listed once; the path of the model is empty."""
    objects = _objects(model)
    modules = {id(obj): module for module, obj in objects}
    seen: set[int] = set()
    stack: list[tuple[Any, tuple[Any, ...]]] = [(objects[0][1], ())]
    while stack:
        value, path = stack.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if id(value) in modules:
            yield format_path(list(path)), modules[id(value)]
        if isinstance(value, (LuaTable, LuaObject)):
            fields = value.fields if isinstance(value, LuaObject) else value
            inner = [(v, (*path, k)) for k, v in fields.items() if isinstance(v, (LuaTable, LuaObject))]
            inner.sort(key=lambda step: step[1][-1] != "modules")  # paths through `modules` before other paths
            stack.extend(reversed(inner))


def _objects(model: nn.Module) -> list[tuple[nn.Module, LuaObject]]:
    """Convert a model to Lua objects and return every module with its object, the model first.

    An object in Lua that has no module of its own, such as ``nll`` of a ``CrossEntropyCriterion``, is not listed.
    """
    context = LuaConversion(gradients=False, compose=False)
    context.to_lua(model)
    modules = {id(module) for module in model.modules()}
    return [(module, obj) for module, obj in context.pairs() if id(module) in modules]
