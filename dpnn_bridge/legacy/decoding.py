"""Convert the content of a ``.t7`` file to the objects that PyTorch 0.4's ``load_lua`` returned."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple

import torch

import dpnn_bridge.legacy.nn as nn
from dpnn_bridge.base.boundary import wrap_errors
from dpnn_bridge.base.graph import is_criterion, is_module
from dpnn_bridge.conversion import registry
from dpnn_bridge.conversion.options import Options
from dpnn_bridge.conversion.torch_context import TorchConversion
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.legacy.fields import FieldConverter
from dpnn_bridge.legacy.legacy_object import LegacyObject
from dpnn_bridge.legacy.lua_graph import class_version
from dpnn_bridge.legacy.module import Container, Criterion, Module
from dpnn_bridge.legacy.running import parameters_of
from dpnn_bridge.legacy.views import Views
from dpnn_bridge.objects import LuaFunction as Function
from dpnn_bridge.objects import LuaObject, LuaStorage, LuaTable, LuaTensor
from dpnn_bridge.torchfile import LuaFunction

#: name of a class -> name of the equivalent class in ``torch.legacy.nn``
SAME = {"SpatialConvolutionMM": "SpatialConvolution"}


class hashable_uniq_dict(dict):  # noqa: N801 - PyTorch 0.4's name
    """A hashable dict that is compared by identity. Its keys are attributes; other attributes are None."""

    __hash__ = object.__hash__  # pyright: ignore[reportAssignmentType]

    def __getattr__(self, key: str) -> Any:
        if key.startswith("__"):  # copy, pickle and numpy look up special methods
            raise AttributeError(key)
        return self.get(key)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other


class TorchObject(Module):
    """An object of a class that ``torch.legacy.nn`` did not have.

    ``obj.name`` and ``obj["name"]`` return a field, or None if the field is missing. ``forward`` works if dpnn_bridge
    supports the class.
    """

    def __init__(self, typename: str, obj: Any, version_number: int = 1, header: tuple[Any, ...] = ()) -> None:
        self.__dict__.update(_typename=typename, _obj=obj, _version_number=version_number, _header=header)

    @property
    def _fields(self) -> dict[Any, Any]:
        fields = self.__dict__.get("_obj")
        return fields if isinstance(fields, dict) else {}

    @property
    def _lua_class(self) -> str:  # type: ignore[override]
        return self._typename

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("_call", "_graph"):
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, name: Any) -> Any:
        return self._fields.get(name)

    def torch_typename(self) -> str:
        """Return the name of the Lua class."""
        return self._typename

    def __repr__(self) -> str:
        return f"TorchObject({self._typename}, {self._obj!r})"

    def __dir__(self) -> list[str]:
        return [*map(str, self._fields), "torch_typename"]


def class_of(obj: LuaObject) -> type[LegacyObject]:
    """Return the Python class for a Lua class: a class of ``torch.legacy.nn``, or else a new class."""
    namespace, _, name = obj.class_name.rpartition(".")
    name = SAME.get(name, name)
    if namespace == "nn" and name in nn.CLASSES:
        return nn.CLASSES[name]
    mapping = registry.find(obj)
    canonical = mapping.names[0].rpartition(".")[2] if mapping is not None else ""
    general = Criterion if is_criterion(f"nn.{name}") else Container if "modules" in obj else Module
    return created_class(obj.class_name, nn.CLASSES.get(name) or nn.CLASSES.get(canonical) or general)


@cache
def created_class(class_name: str, base: type[LegacyObject]) -> type[LegacyObject]:
    """Create a subclass for a Lua class that ``torch.legacy.nn`` did not have."""
    namespace, _, name = class_name.rpartition(".")
    body: dict[str, Any] = {"__module__": f"torch.legacy.{namespace}", "__reduce_ex__": _reduced}
    if base in (Module, Container):
        # a container may have parameters of its own, as nn.WeightNorm has
        body |= {name: vars(Module)[name] for name in ("updateParameters", "zeroGradParameters")}
        body |= {"_legacy_class": name, "parameters": parameters_of}
    return type(name, (base,), body, lua_class=class_name)  # pyright: ignore[reportReturnType]


def _reduced(self: Any, protocol: int) -> tuple[Any, ...]:
    return _made, (self._lua_class, type(self).__base__), self.__dict__


def _made(class_name: str, base: type[LegacyObject]) -> LegacyObject:
    cls = created_class(class_name, base)
    return cls.__new__(cls)


class _Place(NamedTuple):
    """Where a value is in a file.

    Attributes:
        outer: place of the table or object that contains the value; None for the root.
        key: key of the value in it.
        in_module: whether a module contains the value.
    """

    outer: _Place | None = None
    key: Any = None
    in_module: bool = False

    @property
    def path(self) -> list[Any]:
        """The keys that lead to the value; of more than 100 only the last ones."""
        keys: list[Any] = []
        place = self
        while place.outer is not None and len(keys) < 100:
            keys.append(place.key)
            place = place.outer
        return [*(["…"] if place.outer is not None else []), *reversed(keys)]


class Decoder:
    """Converter of the Lua values of one file to Python values. Each object is converted once.

    Nested values are not converted recursively: new lists and objects are filled later, from a list.

    Args:
        unknown_classes: whether objects of classes that ``torch.legacy.nn`` did not have become a :class:`TorchObject`.
        lists: whether tables with the keys 1, 2, … become lists.
        ints: whether integral numbers become ints.
    """

    def __init__(self, unknown_classes: bool = False, lists: bool = True, ints: bool = True) -> None:
        self.unknown_classes, self.lists, self.ints = unknown_classes, lists, ints
        self._fields = FieldConverter()
        self._done: dict[int, Any] = {}
        self._alive: list[Any] = []
        self._to_fill: list[tuple[Callable[..., None], Any, Any, _Place]] = []

    @wrap_errors(ConversionError, "loading")
    def decode(self, root: Any) -> Any:
        """Convert one object of a file.

        Raises:
            UnsupportedClassError: the object contains modules of unknown classes, and ``unknown_classes`` is False.
        """
        self._context = TorchConversion(Options())
        self._context.sharing = Views()
        value = self._start(root, _Place())
        while self._to_fill:
            fill, target, source, place = self._to_fill.pop()
            count = len(self._to_fill)
            fill(target, source, place)
            self._to_fill[count:] = reversed(self._to_fill[count:])  # in the order of the file
        self._context.finish()
        return value

    def _start(self, value: Any, place: _Place, *key: Any) -> Any:
        """Convert a value at a place, or at a key in it; the content of lists and objects is converted later."""
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return value if self.ints else float(value)
        if not isinstance(value, (LuaTable, LuaObject, LuaTensor, LuaStorage, Function)):
            return value
        if id(value) not in self._done:
            self._alive.append(value)
            self._done[id(value)] = self._new(value, _Place(place, key[0], place.in_module) if key else place)
        return self._done[id(value)]

    def _new(self, value: Any, place: _Place) -> Any:
        if isinstance(value, LuaTable):
            return self._table(value, place)
        if isinstance(value, LuaTensor):
            return value.torch()
        if isinstance(value, LuaStorage):
            elements = value.torch()
            return torch.storage.TypedStorage(
                wrap_storage=elements.untyped_storage(), dtype=elements.dtype, _internal=True
            )
        if isinstance(value, Function):
            return LuaFunction(len(value.bytecode), value.bytecode, self._start(value.upvalues, place, "upvalues"))
        if value.class_name in ("tds.Vec", "tds.Hash") and isinstance(value.payload, LuaTable):
            return self._start(value.payload, place)
        return self._object(value, place)

    def _check(self, obj: LuaObject, path: list[Any]) -> None:
        """Record the unknown classes of a model, for the error that :func:`dpnn_bridge.load` would raise."""
        with suppress(ConversionError):  # the model cannot run, but its fields can be read
            self._context.to_torch(obj, *path)

    def _table(self, table: LuaTable, place: _Place) -> Any:
        array = table.as_list()
        if self.lists and self.ints and len(array) == len(table):
            listed: list[Any] = []
            self._to_fill.append((self._fill_list, listed, array, place))
            return listed
        entries = hashable_uniq_dict()
        self._to_fill.append((self._fill_dict, entries, table, place))
        return entries

    def _fill_list(self, listed: list[Any], array: list[Any], place: _Place) -> None:
        listed.extend(self._start(value, place, i) for i, value in enumerate(array, 1))

    def _fill_dict(self, entries: dict[Any, Any], table: LuaTable, place: _Place) -> None:
        for key, value in table.items():
            name = self._start(key, place)
            entries[key if isinstance(name, (list, tuple)) else name] = self._start(value, place, key)

    def _object(self, obj: LuaObject, place: _Place) -> Any:
        if is_module(obj) and not place.in_module:
            if not self.unknown_classes:
                self._check(obj, place.path)
            place = place._replace(in_module=True)
        in_legacy = obj.class_name.startswith("nn.") and obj.class_name[3:] in nn.CLASSES
        supported = in_legacy or (not self.unknown_classes and registry.find(obj) is not None)
        if not is_module(obj) or not supported:
            header = tuple(self._start(h, place) for h in obj.header)
            torch_object = TorchObject(obj.class_name, None, obj.version, header)
            self._to_fill.append((self._fill_torch_object, torch_object, obj, place))
            return torch_object
        cls = class_of(obj)
        module = cls.__new__(cls)
        self._to_fill.append((self._fill_module, module, obj, place))
        return module

    def _fill_torch_object(self, torch_object: TorchObject, obj: LuaObject, place: _Place) -> None:
        torch_object.__dict__["_obj"] = self._start(obj.payload, place)

    def _fill_module(self, module: LegacyObject, obj: LuaObject, place: _Place) -> None:
        for key, entry in self._fields.to_legacy(module._legacy_class, dict(obj.items())).items():
            is_size = isinstance(entry, tuple)
            module.__dict__[key] = self._fields.once(torch.Size, entry) if is_size else self._start(entry, place, key)
        _reshape_weights(module)
        upgraded = obj.version < 2 and _upgraded(module)
        if isinstance(module.__dict__.get("_type"), str):
            module.__dict__["_type"] = module._type.replace("torch.Cuda", "torch.").replace(
                "torch.Tensor", "torch.FloatTensor"
            )
        if obj.version != class_version(obj) and not upgraded:
            module.__dict__["_version"] = obj.version
        if obj.header:
            module.__dict__["_header"] = tuple(self._start(h, place) for h in obj.header)


def _upgraded(module: LegacyObject) -> bool:
    """Update an object of version 1 of its class as Torch7 and PyTorch 0.4 did; return whether it was updated."""
    if module._lua_class == "nn.GradientReversal":
        module._fields["lambd"] = 1
    elif module._lua_class == "nn.VolumetricMaxPooling":
        module._fields["ceil_mode"] = False
    elif isinstance(module, nn.BatchNormalization) and module._lua_class == f"nn.{module._legacy_class}":
        inverse_deviation = module._fields.pop("running_std", None)
        if isinstance(inverse_deviation, torch.Tensor):
            module._fields["running_var"] = inverse_deviation.pow(-2).sub(module.eps)
    else:
        return False
    return True


def _reshape_weights(module: LegacyObject) -> None:
    """Reshape 2-D weights of a convolution, which older files contain, to 4-D as PyTorch 0.4 did."""
    if isinstance(module, nn.SpatialConvolution):
        for name in ("weight", "gradWeight"):
            weight = module._fields.get(name)
            if isinstance(weight, torch.Tensor) and weight.dim() == 2:
                sizes = (module.nOutputPlane, module.nInputPlane, module.kH, module.kW)
                module._fields[name] = weight.view(sizes) if weight.is_contiguous() else weight.reshape(sizes)
