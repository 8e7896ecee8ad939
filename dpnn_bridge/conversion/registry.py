"""The one place that knows which Lua class is which PyTorch module.

A class is declared in one block, in its family's file under :mod:`dpnn_bridge.modules`::

    @lua_class("nn.Threshold", "nn.ReLU")
    class Threshold(LuaClass):
        torch_type = nn.Threshold
        scalars = {"threshold": "threshold", "val": "value"}

Both directions follow from the declaration: Lua fields -> constructor arguments, parameters and buffers;
attributes, parameters and buffers -> Lua fields. ``arguments``, ``build`` or ``to_lua`` are overridden only where the
mapping is more than renaming.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Any, TypeVar

from torch import nn

from dpnn_bridge.base.boundary import raises
from dpnn_bridge.base.display import type_name
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.lua_class import LuaClass, ParameterSite, PlainModule
from dpnn_bridge.conversion.stock import PREFIX, StockLayer
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.objects import LuaObject

#: entry-point group through which other packages register Lua classes
ENTRY_POINTS = "dpnn_bridge.classes"

#: the package whose families hold the blocks; found by name, since they import this module
MODULES = "dpnn_bridge.modules"


# ---------------------------------------------------------------------- lookup
_BY_NAME: dict[str, list[type[LuaClass]]] = {}
_BY_TYPE: dict[type[nn.Module], list[type[LuaClass]]] = {}
_families_imported = False
_discovered = False

SpecT = TypeVar("SpecT", bound=type[LuaClass])


def lua_class(*names: str) -> Callable[[SpecT], SpecT]:
    """Registers a :class:`LuaClass` under its Lua names, canonical first.

    A block from outside this project comes after the project's own, so that stock layers keep their Lua class.

    Raises:
        ValueError: a name is taken by a block that does not tell its variant apart with ``matches``, or a torch type by
            one that takes every module of it.
    """

    def register(cls: SpecT) -> SpecT:
        if not _is_own(cls):
            _import_families()
        cls.names = names
        for name in names:
            known = _BY_NAME.setdefault(name, [])
            general = [c for c in [*known, cls] if c.matches.__func__ is LuaClass.matches.__func__]  # type: ignore[attr-defined]
            if len(general) > 1:
                raise ValueError(f"{name} is registered in {known[-1].__module__} and in {cls.__module__}")
            known.append(cls)
            known.sort(key=lambda c: c in general)  # the block without `matches` is the last resort
        types = cls.torch_type if isinstance(cls.torch_type, tuple) else (cls.torch_type,)
        for torch_type in types:
            _add_lua_names(torch_type, cls)
            if cls.only_from_files:
                continue
            known_types = _BY_TYPE.setdefault(torch_type, [])
            rival = next(filter(_is_general, known_types), None) if _is_general(cls) else None
            if rival is not None and _is_own(rival) == _is_own(cls):
                raise ValueError(
                    f"{torch_type.__name__} is the torch_type of {rival.__name__} in {rival.__module__} and of "
                    f"{cls.__name__} in {cls.__module__}: one has to override `represents` or say `only_from_files`"
                )
            if rival is None:
                known_types.append(cls)
                known_types.sort(key=_is_general)  # in whatever order the families are imported
        return cls

    return register


def _add_lua_names(torch_type: type[nn.Module], cls: type[LuaClass]) -> None:
    """Lets a scalar of a module of this project be read and set by its Lua name too: ``ncem.logsoftmax = True``."""
    if torch_type.__module__.startswith("torch."):
        return
    for name, attribute in cls.scalars.items():
        if isinstance(name, str) and name != attribute and name.isidentifier() and not hasattr(torch_type, name):
            setattr(torch_type, name, _alias(attribute))


def _alias(attribute: str) -> property:
    def write(module: nn.Module, value: object) -> None:
        setattr(module, attribute, value)

    return property(lambda module: getattr(module, attribute), write, doc=f"Lua's name of ``{attribute}``.")


#: writes a layer of PyTorch as a composition of Lua objects; None where one of the registered classes is it
Composition = Callable[[Any, Any], "LuaObject | None"]

_COMPOSITIONS: dict[type[nn.Module], Composition] = {}


def composition(*types: type[nn.Module]) -> Callable[[Composition], Composition]:
    """Registers ``function(module, ctx)``, which writes layers of exactly these types that came from no file."""

    def register(function: Composition) -> Composition:
        _COMPOSITIONS.update(dict.fromkeys(types, function))
        return function

    return register


def composition_of(module: nn.Module) -> Composition | None:
    """How a layer of PyTorch is written, where that is more than one Lua class."""
    discover()
    return _COMPOSITIONS.get(type(module))


def _is_general(cls: type[LuaClass]) -> bool:
    """Whether a block takes every module of its torch type."""
    return cls.represents.__func__ is LuaClass.represents.__func__  # type: ignore[attr-defined]


def _is_own(cls: type[LuaClass]) -> bool:
    """Whether a block is the project's."""
    return cls.__module__.startswith("dpnn_bridge.")


def discover() -> None:
    """Imports every family under :data:`MODULES` and every installed plugin, once."""
    global _discovered
    if _discovered:
        return
    _import_families()
    for entry_point in entry_points(group=ENTRY_POINTS):
        raises(ConversionError, f"loading the plugin {entry_point.name} ({entry_point.value})")(entry_point.load)()
    _discovered = True  # at the end: a family that fails to import fails every time, not only the first


def _import_families() -> None:
    global _families_imported
    if _families_imported:
        return
    families = importlib.import_module(MODULES)
    for info in pkgutil.walk_packages(families.__path__, f"{MODULES}."):
        importlib.import_module(info.name)
    _families_imported = True


def find(obj: LuaObject) -> type[LuaClass] | None:
    """The block for a Lua object, or None when its class (or this variant of it) is unknown."""
    discover()
    if obj.class_name.startswith(PREFIX):
        return StockLayer
    return next((spec for spec in _BY_NAME.get(obj.class_name, ()) if spec.matches(obj)), None)


def spec_of(module: nn.Module) -> type[LuaClass]:
    """The block for a torch module: that of its Lua class, else that of its type, else :class:`PlainModule`."""
    discover()
    record = record_of(module)
    for spec in _BY_NAME.get(record.class_name, ()) if record else ():
        if isinstance(module, spec.torch_type):
            return spec
    candidates = (spec for t in type(module).__mro__ if t is not nn.Module for spec in _BY_TYPE.get(t, ()))
    return next((spec for spec in candidates if spec.represents(module)), PlainModule)


def parameters(module: nn.Module) -> Iterator[ParameterSite]:
    """Every parameter of a module as ``(owner, Lua field, Field)`` in the order of Torch7's ``parameters()``."""
    return spec_of(module).parameters(module, parameters)


def known_names() -> dict[str, list[type[LuaClass]]]:
    """All registered Lua names with their blocks, sorted."""
    discover()
    return dict(sorted(_BY_NAME.items()))


def torch_name(spec: type[LuaClass]) -> str:
    """What a block makes of its class, for tables."""
    types = spec.torch_type if isinstance(spec.torch_type, tuple) else (spec.torch_type,)
    return ", ".join(dict.fromkeys(map(type_name, types)))


def nearest_name(name: str) -> str | None:
    """The registered name most like ``name``, for error messages."""
    if len(name) > 100:
        return None
    known = known_names()
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    if close:
        return close[0]
    tail = name.rpartition(".")[2]
    return next((k for k in known if k.rpartition(".")[2] == tail), None)
