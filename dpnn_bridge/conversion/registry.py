"""Register class mappings, and find them by Lua class or PyTorch module.

A mapping is declared in a file of :mod:`dpnn_bridge.modules` or :mod:`dpnn_bridge.zoo`. The mapping of a module class
of this project is its inner class ``Lua``. The mapping of a PyTorch layer is a separate class::

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

Both directions follow from the declaration: Lua fields -> constructor arguments, parameters and buffers; attributes,
parameters and buffers -> Lua fields. ``arguments``, ``build`` or ``to_lua`` are overridden where it is not enough.
"""

from __future__ import annotations

import difflib
import importlib
import os
import pkgutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import entry_points
from typing import Any, TypeVar

from torch import nn

from dpnn_bridge.base.boundary import wrap_errors
from dpnn_bridge.base.display import type_name
from dpnn_bridge.base.exclusive import Exclusive
from dpnn_bridge.base.lazy_exports import importing
from dpnn_bridge.conversion.constructor import settings_repr
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.in_lua import InLua
from dpnn_bridge.conversion.lua_class import LuaClass, ParameterSite, PlainModule, torch_types
from dpnn_bridge.conversion.placeholder import Placeholder
from dpnn_bridge.conversion.stock import PREFIX, StockLayer
from dpnn_bridge.conversion.tracing import record_as_leaf
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.objects import LuaObject

#: entry-point group through which other packages register Lua classes
ENTRY_POINTS = "dpnn_bridge.classes"

#: packages with the mappings, in the order of the search; a package is imported if the previous one has no mapping
CORE, ZOO = "dpnn_bridge.modules", "dpnn_bridge.zoo"


# ---------------------------------------------------------------------- registration
_BY_NAME: dict[str, list[type[LuaClass]]] = {}
_BY_TYPE: dict[type[nn.Module], list[type[LuaClass]]] = {}
_loaded: set[str] = set()

ClassT = TypeVar("ClassT", bound=type)


def lua_class(*names: str) -> Callable[[ClassT], ClassT]:
    """Register a class mapping, or a module class with an inner class ``Lua``, under its Lua names, canonical first.

    A module class without an inner class ``Lua`` inherits the mapping of its base class, or has a mapping without
    fields. A module class without an ``extra_repr`` gets one that shows the arguments of its constructor.

    A user's mapping takes precedence over a built-in mapping of the same Lua name. The export uses a user's mapping for
    modules created in PyTorch only if no built-in mapping has their type, or if the user's mapping replaces such a
    mapping for all objects of a Lua name. So stock layers keep their Lua class. A mapping that is defined again under
    the same Lua name, as in a notebook, replaces its earlier definition.

    Raises:
        TypeError: there are no names, the decorated class is not a module class or mapping, or its inner class ``Lua``
            is not a mapping.
        ValueError: two built-in mappings, or two mappings of users, have the same name without ``matches``, or the same
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
    """Return the mapping of a decorated class: the class itself, its inner class ``Lua``, or an inherited mapping.

    Raises:
        TypeError: the class is not a mapping or module class, or the mapping has no module class.
    """
    if not isinstance(cls, type) or not issubclass(cls, (LuaClass, nn.Module)):
        raise TypeError(f"lua_class: expected a subclass of torch.nn.Module or LuaClass, found {cls!r:.80}")
    name = f"{cls.__module__}.{cls.__qualname__}"
    mapping = cls if issubclass(cls, LuaClass) else _inner_mapping(cls, name)
    types = torch_types(mapping)
    known = [t for t in types if isinstance(t, type) and issubclass(t, nn.Module)]
    if len(known) < len(types) or (nn.Module in known and mapping.build.__func__ is LuaClass.build.__func__):  # type: ignore[attr-defined]
        raise TypeError(f"{name}: torch_type is {mapping.torch_type!r}; expected a module class or a tuple of them")
    return mapping


def _inner_mapping(module: type[nn.Module], module_name: str) -> type[LuaClass]:
    mapping, own = getattr(module, "Lua", LuaClass), "Lua" in vars(module)
    other = next((n for n, v in vars(module).items() if isinstance(v, type) and issubclass(v, LuaClass)), None)
    if not own and other is not None:
        raise TypeError(f"{module_name}: its mapping is called {other}; name it Lua: class Lua(LuaClass)")
    if not isinstance(mapping, type) or not issubclass(mapping, LuaClass):
        raise TypeError(f"{module_name}.Lua is not a mapping; make it a subclass of LuaClass: class Lua(LuaClass)")
    if not own:
        names = {"__module__": module.__module__, "__qualname__": f"{module.__qualname__}.Lua"}
        mapping = module.Lua = type("Lua", (mapping,), names)  # type: ignore[attr-defined]
    others = [t for t in torch_types(mapping) if t is not module] if "torch_type" in vars(mapping) else []
    mapping.torch_type = (module, *others) if others else module
    if module.extra_repr is nn.Module.extra_repr:
        module.extra_repr = settings_repr  # type: ignore[method-assign, assignment]
    return mapping


def _register(cls: type[LuaClass], names: tuple[str, ...]) -> None:
    """Register a mapping under all its names and types, or raise an error and register nothing.

    The lists of mappings are replaced, not changed, because another thread may be iterating over them.
    """
    by_name: dict[str, list[type[LuaClass]]] = {}
    by_type: dict[type[nn.Module], list[type[LuaClass]]] = {}
    declared, cls.names = cls.names, names
    try:
        _add_lists(cls, by_name, by_type)
    except ValueError:
        cls.names = declared
        raise
    _BY_NAME.update(by_name)
    _BY_TYPE.update(by_type)
    for torch_type in torch_types(cls):
        _add_lua_names(torch_type, cls)
        record_as_leaf(torch_type)


def _add_lists(
    cls: type[LuaClass], by_name: dict[str, list[type[LuaClass]]], by_type: dict[type[nn.Module], list[type[LuaClass]]]
) -> None:
    """Add new lists that include a mapping to ``by_name`` and ``by_type``, for each of its Lua names and torch types.

    Raises:
        ValueError: the mapping and another one both accept every object of a name, or every module of a type.
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
                f"{cls.__qualname__} in {cls.__module__}: override `represents` or set `import_only` in one of them"
            )
        by_type[torch_type] = _by_precedence([*same_type, cls])


def _without(known: list[type[LuaClass]], cls: type[LuaClass]) -> list[type[LuaClass]]:
    """Return ``known`` without an earlier definition of ``cls`` by a user; built-in mappings are kept."""
    name = (cls.__module__, cls.__qualname__)
    return [c for c in known if is_built_in(c) or (c.__module__, c.__qualname__) != name]


def unregister(module: str) -> None:
    """Remove the mappings that a Python module registered.

    Its own module classes keep their mapping for the export, because instances may exist.
    """
    with Exclusive(lua_class):
        for name, known in list(_BY_NAME.items()):
            _BY_NAME[name] = [c for c in known if c.__module__ != module]
            if not _BY_NAME[name]:
                del _BY_NAME[name]
        for torch_type, known in list(_BY_TYPE.items()):
            if torch_type.__module__ != module:
                _BY_TYPE[torch_type] = [c for c in known if c.__module__ != module]
                if not _BY_TYPE[torch_type]:
                    del _BY_TYPE[torch_type]


def _by_precedence(same_type: list[type[LuaClass]]) -> list[type[LuaClass]]:
    """Return the mappings of one torch type in the order in which the export tries them."""
    own = {name for c in same_type if is_built_in(c) for name in c.names}

    def key(c: type[LuaClass]) -> tuple[bool, bool, bool]:
        replaces = not is_built_in(c) and _takes_every_object(c) and not own.isdisjoint(c.names)
        return not replaces, _takes_every_module(c), not is_built_in(c)

    return sorted(same_type, key=key)


def _add_lua_names(torch_type: type[nn.Module], cls: type[LuaClass]) -> None:
    """Make the scalars of a module class accessible by their Lua names too, as in ``ncem.logsoftmax = True``."""
    if torch_type.__module__.startswith("torch."):
        return
    for name, attribute in cls.scalars.items():
        if isinstance(name, str) and name != attribute and name.isidentifier() and not hasattr(torch_type, name):
            setattr(torch_type, name, _alias(attribute))


def _alias(attribute: str) -> property:
    def write(module: nn.Module, value: object) -> None:
        setattr(module, attribute, value)

    return property(lambda module: getattr(module, attribute), write, doc=f"Lua's name of ``{attribute}``.")


#: function that converts a PyTorch layer to a composition of Lua objects; returns None if a mapping exports the layer
Composition = Callable[[Any, Any], "LuaObject | None"]

_COMPOSITIONS: dict[type[nn.Module], Composition] = {}


def composition(*types: type[nn.Module]) -> Callable[[Composition], Composition]:
    """Register a function ``function(module, ctx)`` that exports layers of these types, created in PyTorch.

    Layers of a subclass are not passed to the function.
    """

    def register(function: Composition) -> Composition:
        _COMPOSITIONS.update(dict.fromkeys(types, function))
        return function

    return register


def composition_of(torch_type: type) -> Composition | None:
    """Return the function that exports, or refuses, layers of exactly this class as a composition of Lua classes."""
    discover()
    return _COMPOSITIONS.get(torch_type)


def _takes_every_object(cls: type[LuaClass]) -> bool:
    """Return whether a mapping accepts every object of its Lua names."""
    return cls.matches.__func__ is LuaClass.matches.__func__  # type: ignore[attr-defined]


def _takes_every_module(cls: type[LuaClass]) -> bool:
    """Return whether a mapping accepts every module of its torch type."""
    return cls.represents.__func__ is LuaClass.represents.__func__  # type: ignore[attr-defined]


def is_registered(torch_type: type) -> bool:
    """Return whether a mapping is registered for exactly this module class, not only for a base class."""
    discover(ZOO)
    return torch_type in _BY_TYPE


def is_built_in(cls: type[LuaClass]) -> bool:
    """Return whether a mapping belongs to this package."""
    return cls.__module__.startswith("dpnn_bridge.")


def files_of_users() -> list[str]:
    """Return the files that registered mappings of users; an empty string for a cell of a notebook."""
    with suppress(ConversionError):  # the conversion of a model reports a plugin that fails; data need no plugin
        _load_entry_points()  # so that the result is the same before and after the first conversion
    names = {c.__module__ for known in list(_BY_NAME.values()) for c in known if not is_built_in(c)}
    return sorted({getattr(sys.modules.get(name), "__file__", None) or "" for name in names})


# ---------------------------------------------------------------------- lookup
def discover(package: str = CORE) -> None:
    """Import all files of a package of mappings once. ``ZOO`` also imports ``CORE``, which also loads the plugins."""
    if package in _loaded:
        return
    if package != CORE:
        discover(CORE)
    _import_files(package)
    _load_entry_points()
    _loaded.add(package)  # after the imports, so that an import that fails is tried again


def _load_entry_points() -> None:
    """Import the plugins of other packages once."""
    for point in () if ENTRY_POINTS in _loaded else entry_points(group=ENTRY_POINTS):
        wrap_errors(ConversionError, f"loading the plugin {point.name} ({point.value})")(point.load)()
    _loaded.add(ENTRY_POINTS)


def _packages() -> tuple[str, ...]:
    """Return the packages to search. ``ZOO`` alone includes ``CORE``, which :func:`discover` imports first."""
    return (ZOO,) if ZOO in sys.modules else (CORE, ZOO)


def _import_files(package: str) -> None:
    with importing():  # no deadlock: the imports take only the lock of `_register`, which takes no other lock
        for info in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            importlib.import_module(info.name)


def find(obj: LuaObject) -> type[LuaClass] | None:
    """Return the mapping for a Lua object, or None if no mapping accepts it."""
    if obj.class_name.startswith(PREFIX):
        return StockLayer
    for package in _packages():
        discover(package)
        for mapping in _BY_NAME.get(obj.class_name, ()):
            if mapping.matches(obj):
                return mapping
    return None


def is_known(name: str) -> bool:
    """Return whether a mapping has this Lua name; :func:`find` may reject an object of the name."""
    discover(ZOO)
    return name in _BY_NAME


def takes_precedence(mapping: type[LuaClass], name: str) -> bool:
    """Return whether a mapping is a user's and takes precedence over a built-in mapping of the same Lua name."""
    if is_built_in(mapping):
        return False
    discover(ZOO)
    return any(map(is_built_in, _BY_NAME[name]))


def mapped_by(mapping: type[LuaClass]) -> str:
    """Return the name of a user's mapping and its file or module, for messages; empty for a built-in mapping."""
    if is_built_in(mapping):
        return ""
    module = mapping.__module__
    file = getattr(sys.modules.get(module), "__file__", None)
    source = os.path.basename(file) if file and "." not in module else module
    return f"{mapping.__qualname__.removesuffix('.Lua')} of {source}"


def mapping_of(module: nn.Module) -> type[LuaClass]:
    """Return the mapping of a PyTorch module: by its Lua class, else by its type, else :class:`PlainModule`."""
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
    return InLua if isinstance(module, Placeholder) else PlainModule


def parameters(module: nn.Module) -> Iterator[ParameterSite]:
    """Return every parameter of a module as ``(owner, Lua field, Field)`` in the order of Torch7's ``parameters()``."""
    return mapping_of(module).parameters(module, parameters)


def hidden_parameters(module: nn.Module) -> Iterator[ParameterSite]:
    """Return the parameters of a module and its submodules that only dpnn's ``getParameters()`` includes."""
    mapping = mapping_of(module)
    yield from mapping.hidden_parameters(module)
    for child in mapping.children(module):
        yield from hidden_parameters(child)


def mappings_of(name: str) -> list[type[LuaClass]]:
    """Return the mappings that are registered under a Lua name, in the order of the search."""
    for package in _packages():
        discover(package)
        if name in _BY_NAME:
            break
    return _BY_NAME.get(name, [])


def known_names() -> dict[str, list[type[LuaClass]]]:
    """Return all registered Lua names with their mappings, sorted by name."""
    discover(ZOO)
    return dict(sorted(_BY_NAME.items()))


def torch_name(mapping: type[LuaClass]) -> str:
    """Return the names of a mapping's PyTorch classes, separated by commas."""
    return ", ".join(dict.fromkeys(map(type_name, torch_types(mapping))))


def nearest_name(name: str) -> str | None:
    """Return the registered Lua name most similar to ``name``, for error messages; None if none is similar."""
    known = known_names() if len(name) <= 100 else {}
    if close := difflib.get_close_matches(name, known, n=1, cutoff=0.75):
        return close[0]
    tail = name.rpartition(".")[2]
    return next((k for k in known if k.rpartition(".")[2] == tail), None)
