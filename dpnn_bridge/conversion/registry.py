"""The one place that knows which Lua class is which PyTorch module.

A class is declared once, in its family's file under :mod:`dpnn_bridge.modules` or :mod:`dpnn_bridge.zoo`. A module of
this project has an inner class ``Lua``, its mapping; the mapping of a layer of PyTorch stands alone::

    @lua_class("nn.Threshold", "nn.ReLU")
    class Threshold(LuaClass):
        torch_type = nn.Threshold
        scalars = {"threshold": "threshold", "val": "value"}


    @lua_class("nn.Cosine")
    class Cosine(nn.Module):
        ...

        class Lua(LuaClass):
            tensors = ("weight",)
            sizes = {"weight": ("out_features", "in_features")}

Both directions follow from the declaration: Lua fields -> constructor arguments, parameters and buffers;
attributes, parameters and buffers -> Lua fields. ``arguments``, ``build`` or ``to_lua`` are overridden only where the
mapping is more than renaming.
"""

from __future__ import annotations

import difflib
import importlib
import os
import pkgutil
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Any, TypeVar

from torch import nn

from dpnn_bridge.base.boundary import wrap_errors
from dpnn_bridge.base.display import type_name
from dpnn_bridge.base.exclusive import Exclusive
from dpnn_bridge.conversion.constructor import settings_repr
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.lua_class import LuaClass, ParameterSite, PlainModule, torch_types
from dpnn_bridge.conversion.stock import PREFIX, StockLayer
from dpnn_bridge.conversion.tracing import record_as_leaf
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.objects import LuaObject

#: entry-point group through which other packages register Lua classes
ENTRY_POINTS = "dpnn_bridge.classes"

#: packages with the mappings, which import this module; each is imported, in this order, when a lookup in the previous
#: ones finds no class
CORE, ZOO = "dpnn_bridge.modules", "dpnn_bridge.zoo"


# ---------------------------------------------------------------------- registration
_BY_NAME: dict[str, list[type[LuaClass]]] = {}
_BY_TYPE: dict[type[nn.Module], list[type[LuaClass]]] = {}
_loaded: set[str] = set()

ClassT = TypeVar("ClassT", bound=type)


def lua_class(*names: str) -> Callable[[ClassT], ClassT]:
    """Register a class mapping, or a module class with an inner class ``Lua``, under its Lua names, canonical first.

    A module class without an inner class ``Lua`` has the mapping of its base class; without that it has no fields. A
    module class without an ``extra_repr`` shows the arguments of its constructor.

    A mapping of a user takes precedence over a built-in mapping of the same Lua name. The export uses it for modules
    created in PyTorch only if no built-in mapping has their type, or if it matches every object of a Lua name of such a
    mapping. So stock layers keep their Lua class. A mapping that is defined again, as in a notebook, replaces itself.

    Raises:
        TypeError: There are no names, the decorated class is no module class or mapping, or its inner class ``Lua`` is
            no mapping.
        ValueError: Two built-in mappings, or two mappings of users, have the same name without ``matches``, or the same
            torch type without ``represents``.
    """
    if not names or not all(isinstance(name, str) for name in names):
        found = ", ".join(repr(name) for name in names) or "none"
        raise TypeError(f'lua_class: expected Lua class names, found {found}; write @lua_class("my.Layer")')

    def declare(cls: ClassT) -> ClassT:
        with Exclusive(lua_class):
            _register(_mapping_of(cls), names)
        return cls

    return declare


def _mapping_of(cls: Any) -> type[LuaClass]:
    """Return a mapping, or the inner class ``Lua`` of a module class; without one of its own, that of its base class.

    Raises:
        TypeError: It is neither, or the mapping has no module class.
    """
    if not isinstance(cls, type) or not issubclass(cls, (LuaClass, nn.Module)):
        raise TypeError(f"lua_class: expected a subclass of torch.nn.Module or LuaClass, found {cls!r:.80}")
    place = f"{cls.__module__}.{cls.__qualname__}"
    mapping = cls if issubclass(cls, LuaClass) else _inner_mapping(cls, place)
    types = torch_types(mapping)
    known = [t for t in types if isinstance(t, type) and issubclass(t, nn.Module)]
    if len(known) < len(types) or (nn.Module in known and mapping.build.__func__ is LuaClass.build.__func__):  # type: ignore[attr-defined]
        raise TypeError(f"{place}: torch_type is {mapping.torch_type!r}; expected a module class, or a tuple of them")
    return mapping


def _inner_mapping(module: type[nn.Module], place: str) -> type[LuaClass]:
    mapping, own = getattr(module, "Lua", LuaClass), "Lua" in vars(module)
    other = next((n for n, v in vars(module).items() if isinstance(v, type) and issubclass(v, LuaClass)), None)
    if not own and other is not None:
        raise TypeError(f"{place}: its mapping is called {other}; name it Lua: class Lua(LuaClass)")
    if not isinstance(mapping, type) or not issubclass(mapping, LuaClass):
        raise TypeError(f"{place}.Lua is no mapping; make it a subclass of LuaClass: class Lua(LuaClass)")
    if not own:
        names = {"__module__": module.__module__, "__qualname__": f"{module.__qualname__}.Lua"}
        mapping = module.Lua = type("Lua", (mapping,), names)  # type: ignore[attr-defined]
    others = [t for t in torch_types(mapping) if t is not module] if "torch_type" in vars(mapping) else []
    mapping.torch_type = (module, *others) if others else module
    if module.extra_repr is nn.Module.extra_repr:
        module.extra_repr = settings_repr  # type: ignore[method-assign, assignment]
    return mapping


def _register(cls: type[LuaClass], names: tuple[str, ...]) -> None:
    """Register a mapping, completely or not at all.

    The lists are replaced, not changed: another thread may be looking through them.
    """
    by_name: dict[str, list[type[LuaClass]]] = {}
    by_type: dict[type[nn.Module], list[type[LuaClass]]] = {}
    declared, cls.names = cls.names, names
    try:
        _place(cls, by_name, by_type)
    except ValueError:
        cls.names = declared
        raise
    _BY_NAME.update(by_name)
    _BY_TYPE.update(by_type)
    for torch_type in torch_types(cls):
        _add_lua_names(torch_type, cls)
        record_as_leaf(torch_type)


def _place(
    cls: type[LuaClass], by_name: dict[str, list[type[LuaClass]]], by_type: dict[type[nn.Module], list[type[LuaClass]]]
) -> None:
    """Add the lists of mappings with this one, for each of its Lua names and torch types.

    Raises:
        ValueError: Another mapping takes every object of a name, or every module of a type, too.
    """
    for name in cls.names:
        known = _without(_BY_NAME.get(name, []), cls)
        rival = next((c for c in known if _takes_every_object(c) and is_built_in(c) == is_built_in(cls)), None)
        if rival is not None and _takes_every_object(cls):
            raise ValueError(f"{name} is registered in {rival.__module__} and in {cls.__module__}")
        by_name[name] = sorted([*known, cls], key=lambda c: (is_built_in(c), _takes_every_object(c)))
    for torch_type in () if cls.import_only else torch_types(cls):
        same_type = _without(_BY_TYPE.get(torch_type, []), cls)
        rival = next((c for c in same_type if _takes_every_module(c) and is_built_in(c) == is_built_in(cls)), None)
        if rival is not None and _takes_every_module(cls):
            raise ValueError(
                f"{torch_type.__name__} is the torch_type of {rival.__qualname__} in {rival.__module__} and of "
                f"{cls.__qualname__} in {cls.__module__}: one has to override `represents` or say `import_only`"
            )
        by_type[torch_type] = _by_precedence([*same_type, cls])


def _without(known: list[type[LuaClass]], cls: type[LuaClass]) -> list[type[LuaClass]]:
    """Return the mappings without an earlier definition of ``cls``; built-in mappings always stay."""
    place = (cls.__module__, cls.__qualname__)
    return [c for c in known if is_built_in(c) or (c.__module__, c.__qualname__) != place]


def unregister(module: str) -> None:
    """Forget the mappings that a module registered, except for modules of its own classes, which may exist."""
    with Exclusive(lua_class):
        for name, known in list(_BY_NAME.items()):
            _BY_NAME[name] = [c for c in known if c.__module__ != module]
            if not _BY_NAME[name]:
                del _BY_NAME[name]
        for torch_type, known in list(_BY_TYPE.items()):
            if torch_type.__module__ != module:
                _BY_TYPE[torch_type] = [c for c in known if c.__module__ != module]


def _by_precedence(same_type: list[type[LuaClass]]) -> list[type[LuaClass]]:
    """Return the mappings of one torch type in the order in which the export tries them."""
    own = {name for c in same_type if is_built_in(c) for name in c.names}

    def key(c: type[LuaClass]) -> tuple[bool, bool, bool]:
        replaces = not is_built_in(c) and _takes_every_object(c) and not own.isdisjoint(c.names)
        return not replaces, _takes_every_module(c), not is_built_in(c)

    return sorted(same_type, key=key)


def _add_lua_names(torch_type: type[nn.Module], cls: type[LuaClass]) -> None:
    """Let a scalar of a module of this project be read and set by its Lua name too: ``ncem.logsoftmax = True``."""
    if torch_type.__module__.startswith("torch."):
        return
    for name, attribute in cls.scalars.items():
        if isinstance(name, str) and name != attribute and name.isidentifier() and not hasattr(torch_type, name):
            setattr(torch_type, name, _alias(attribute))


def _alias(attribute: str) -> property:
    def write(module: nn.Module, value: object) -> None:
        setattr(module, attribute, value)

    return property(lambda module: getattr(module, attribute), write, doc=f"Lua's name of ``{attribute}``.")


#: writes a layer of PyTorch as a composition of Lua objects; None if one of the registered classes is it
Composition = Callable[[Any, Any], "LuaObject | None"]

_COMPOSITIONS: dict[type[nn.Module], Composition] = {}


def composition(*types: type[nn.Module]) -> Callable[[Composition], Composition]:
    """Register ``function(module, ctx)``, which writes layers of exactly these types that came from no file."""

    def register(function: Composition) -> Composition:
        _COMPOSITIONS.update(dict.fromkeys(types, function))
        return function

    return register


def composition_of(module: nn.Module) -> Composition | None:
    """Return the function that exports a PyTorch layer as a composition of Lua classes."""
    discover()
    return _COMPOSITIONS.get(type(module))


def _takes_every_object(cls: type[LuaClass]) -> bool:
    """Return whether a mapping takes every object of its Lua names."""
    return cls.matches.__func__ is LuaClass.matches.__func__  # type: ignore[attr-defined]


def _takes_every_module(cls: type[LuaClass]) -> bool:
    """Return whether a mapping takes every module of its torch type."""
    return cls.represents.__func__ is LuaClass.represents.__func__  # type: ignore[attr-defined]


def is_registered(torch_type: type) -> bool:
    """Return whether a mapping is registered for a class of modules itself."""
    discover(ZOO)
    return torch_type in _BY_TYPE


def is_built_in(cls: type[LuaClass]) -> bool:
    """Return whether a mapping is the project's own."""
    return cls.__module__.startswith("dpnn_bridge.")


def files_of_users() -> list[str]:
    """Return the files that registered the mappings of users; an empty name for a cell of a notebook."""
    names = {c.__module__ for known in list(_BY_NAME.values()) for c in known if not is_built_in(c)}
    return sorted({getattr(sys.modules.get(name), "__file__", None) or "" for name in names})


# ---------------------------------------------------------------------- lookup
def discover(package: str = CORE) -> None:
    """Import the files of a package of mappings and those before it, and first every installed plugin, once."""
    if package in _loaded:
        return
    if package == CORE:
        _import_files(CORE)
        for entry_point in entry_points(group=ENTRY_POINTS):
            wrap_errors(ConversionError, f"loading the plugin {entry_point.name} ({entry_point.value})")(
                entry_point.load
            )()
    else:
        discover(CORE)
        _import_files(package)
    _loaded.add(package)  # at the end: a family that fails to import fails every time, not only the first


def _packages() -> tuple[str, ...]:
    """Return the packages to search. A package is imported completely or not at all."""
    return (ZOO,) if ZOO in sys.modules else (CORE, ZOO)


def _import_files(package: str) -> None:
    with Exclusive(package):  # the imports take only the lock of `_register`, which waits for no other
        for info in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            importlib.import_module(info.name)


def find(obj: LuaObject) -> type[LuaClass] | None:
    """Return the mapping for a Lua object, or None when its class (or this variant of it) is unknown."""
    if obj.class_name.startswith(PREFIX):
        return StockLayer
    for package in _packages():
        discover(package)
        for mapping in _BY_NAME.get(obj.class_name, ()):
            if mapping.matches(obj):
                return mapping
    return None


def takes_precedence(mapping: type[LuaClass], name: str) -> bool:
    """Return whether a mapping of a user takes precedence over a built-in one of the same Lua name."""
    if is_built_in(mapping):
        return False
    discover(ZOO)
    return any(map(is_built_in, _BY_NAME[name]))


def mapped_by(mapping: type[LuaClass]) -> str:
    """Return the name of a mapping of a user and its file or module, for messages; empty for a built-in mapping."""
    if is_built_in(mapping):
        return ""
    home = mapping.__module__
    file = getattr(sys.modules.get(home), "__file__", None)
    place = os.path.basename(file) if file and "." not in home else home
    return f"{mapping.__qualname__.removesuffix('.Lua')} of {place}"


def mapping_of(module: nn.Module) -> type[LuaClass]:
    """Return the mapping for a torch module: of its Lua class, else of its type, else :class:`PlainModule`."""
    record = record_of(module)
    for package in _packages():
        discover(package)
        for mapping in _BY_NAME.get(record.class_name, ()) if record else ():
            if isinstance(module, mapping.torch_type):
                return mapping
        candidates = (mapping for t in type(module).__mro__ if t is not nn.Module for mapping in _BY_TYPE.get(t, ()))
        found = next((mapping for mapping in candidates if mapping.represents(module)), None)
        if found is not None:
            return found
    return PlainModule


def parameters(module: nn.Module) -> Iterator[ParameterSite]:
    """Return every parameter of a module as ``(owner, Lua field, Field)`` in the order of Torch7's ``parameters()``."""
    return mapping_of(module).parameters(module, parameters)


def mappings_of(name: str) -> list[type[LuaClass]]:
    """Return the mappings that are registered under a Lua name, in the order in which they are tried."""
    for package in _packages():
        discover(package)
        if name in _BY_NAME:
            break
    return _BY_NAME.get(name, [])


def known_names() -> dict[str, list[type[LuaClass]]]:
    """Return all registered Lua names with their mappings, sorted."""
    discover(ZOO)
    return dict(sorted(_BY_NAME.items()))


def torch_name(mapping: type[LuaClass]) -> str:
    """Return the PyTorch classes of a mapping, for tables."""
    return ", ".join(dict.fromkeys(map(type_name, torch_types(mapping))))


def nearest_name(name: str) -> str | None:
    """Return the registered name most like ``name``, for error messages."""
    if len(name) > 100:
        return None
    known = known_names()
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    if close:
        return close[0]
    tail = name.rpartition(".")[2]
    return next((k for k in known if k.rpartition(".")[2] == tail), None)
