"""Share parameters between modules that run in Lua and other modules, in both directions of the conversion."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import nn

from dpnn_bridge.conversion.fields import Field, grad_field, record_of
from dpnn_bridge.conversion.lua_class import ParameterSite, PlainModule
from dpnn_bridge.conversion.placeholder import Placeholder
from dpnn_bridge.conversion.sharing import Sharing
from dpnn_bridge.conversion.ties import Site
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor


class InLua(PlainModule):
    """The mapping for modules that run in Lua, and for placeholders."""

    @classmethod
    def parameters(
        cls, module: nn.Module, inner: Callable[[nn.Module], Iterator[ParameterSite]]
    ) -> Iterator[ParameterSite]:
        names = module.listed_names if isinstance(module, Placeholder) else ()
        return ((module, name, Field(name)) for name in names or cls.fields_of(module))


def check_calls(module: nn.Module, first: Sequence[str], other: Sequence[str]) -> None:
    """Raise an error if a layer in Lua inside ``module`` runs by other methods in another place of the module.

    Args:
        module: the module.
        first, other: classes of the containers around the module, in both places.
    """
    for name, inner in module.named_modules():
        if isinstance(inner, Placeholder):
            between = _containers(module, name)
            inner.check_calls([*first, *between], [*other, *between])


def _containers(module: nn.Module, name: str) -> list[str]:
    """Return the Lua classes of a module and of those inside it that contain the module ``name``."""
    parts = name.split(".") if name else []
    records = (record_of(module.get_submodule(".".join(parts[:i]))) for i in range(len(parts)))
    return [record.class_name for record in records if record is not None]


def share_parameters(module: Placeholder, obj: LuaObject, sharing: Sharing) -> None:
    """Give a module that was created from ``obj`` the parameters of other modules that view the same elements."""
    for leaf, path in module._lua_fields.items():
        found = _owner_of(obj, path)
        parameter = module._parameters[leaf]
        if found is None or parameter is None or found[0][found[1]].shape != tuple(parameter.shape):
            continue
        owner, name = found
        site, gradient = Site(module, name, Field(leaf), module, leaf), owner.get(grad_field(name, leaf))
        module._gradients[leaf] = sharing.join(site, owner[name], gradient)


def with_gradient_in_lua(root: nn.Module) -> set[int]:
    """Return the IDs of parameters whose gradient modules that run in Lua share with other modules.

    A file without gradients contains these, because a module in Lua always has gradients.
    """
    modules = [m for m in root.modules() if isinstance(m, Placeholder)]
    return {id(m._parameters[name]) for m in modules for name in m.shared_names if not m._gradients.get(name)}


def link_tensors(module: Placeholder, obj: LuaObject, tensors: dict[tuple[Any, ...], LuaTensor]) -> None:
    """Give the object of a module that runs in Lua the tensors of other objects for the same parameters.

    Args:
        module: the module.
        obj: its object, which is changed.
        tensors: the tensors of all parameters, by the keys of :class:`~.lua_context.LuaConversion`.
    """
    for leaf, path in module._lua_fields.items():
        parameter, found = module._parameters[leaf], _owner_of(obj, path)
        if parameter is None or found is None:
            continue
        owner, name = found
        for field, number in ((name, 0), (grad_field(name, leaf), module._gradients.get(leaf, 0))):
            own = owner.get(field)
            if isinstance(own, LuaTensor) and own.shape == tuple(parameter.shape):
                key = id(parameter), None, own.class_name, field != name, number
                owner[field] = tensors.setdefault((key, own.shape), own)


def _owner_of(obj: LuaObject, path: str) -> tuple[LuaObject | LuaTable, str] | None:
    """Return the object or table with the tensor at a path of Lua fields, such as ``modules.1.weight``, and its field.

    Return None if the value at the path is not a tensor.
    """
    *outer, name = path.split(".")
    owner: Any = obj
    for key in outer:
        owner = owner.get(int(key) if key.isdigit() else key) if isinstance(owner, (LuaObject, LuaTable)) else None
    found = isinstance(owner, (LuaObject, LuaTable)) and isinstance(owner.get(name), LuaTensor)
    return (owner, name) if found else None
