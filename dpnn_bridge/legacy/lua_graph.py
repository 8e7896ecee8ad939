"""Convert Python values of ``torch.legacy`` to the Lua values of a ``.t7`` file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from dpnn_bridge.conversion import registry
from dpnn_bridge.conversion.lua_class import constant_fields
from dpnn_bridge.legacy.fields import FieldConverter, size_storage
from dpnn_bridge.objects import LuaFunction, LuaObject, LuaStorage, LuaTable, LuaTensor


class LuaDescription(NamedTuple):
    """The content of the Lua object for an object of ``torch.legacy``.

    Attributes:
        class_name: Lua class.
        legacy_class: name of the class of ``torch.legacy.nn`` that defines the fields.
        fields: attributes of the Python object.
        version: version of the Lua class; None for the current version.
        header: values that the class writes before its fields.
        payload: the fields of a class with its own serializer.
    """

    class_name: str
    legacy_class: str
    fields: dict[Any, Any]
    version: int | None = None
    header: tuple[Any, ...] = ()
    payload: Any = ...


def add_constants(obj: LuaObject) -> None:
    """Add the fields that Torch7 needs in an object and that ``torch.legacy.nn`` did not have."""
    mapping = registry.find(obj)
    tensor_type = obj.get("_type")
    tensor_type = tensor_type if isinstance(tensor_type, str) else "torch.FloatTensor"
    for key, value in constant_fields(mapping, tensor_type).items() if mapping is not None else ():
        obj.setdefault(key, value)


def class_version(obj: LuaObject) -> int:
    """Return the current version of an object's Lua class."""
    mapping = registry.find(obj)
    return 1 if mapping is None else mapping.version


class LuaGraph:
    """Converter of Python values to Lua values. Each object is converted once; values without a Lua type are omitted.

    Nested values are not converted recursively: new tables and objects are filled later, from a list.
    """

    def __init__(self) -> None:
        self._fields = FieldConverter()
        self._done: dict[int, Any] = {}
        self._alive: list[Any] = []
        self._to_fill: list[Callable[[], None]] = []

    def describe(self, value: Any) -> LuaDescription | None:
        """Return the content of the Lua object for a Python object; None for other values."""
        raise NotImplementedError

    def tensor(self, value: Any) -> LuaTensor | LuaStorage | None:
        """Convert a tensor or storage; return None for other values."""
        return value if isinstance(value, (LuaTensor, LuaStorage)) else None

    def complete(self, value: Any, description: LuaDescription, obj: LuaObject) -> None:
        """Complete a Lua object after its fields were set; called for each object."""

    def value(self, value: Any) -> Any:
        """Convert a value with all values in it; return None if Lua has no such type."""
        lua = self._start(value)
        while self._to_fill:
            self._to_fill.pop()()
        return lua

    def _start(self, value: Any) -> Any:
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or isinstance(value, (bool, int, float, str, LuaFunction)):
            return value
        if id(value) in self._done:
            return self._done[id(value)]
        self._alive.append(value)
        if isinstance(value, bytes):
            text = self._done[id(value)] = value.decode("utf-8", "surrogateescape")
            return text
        if (tensor := self.tensor(value)) is not None:
            self._done[id(value)] = tensor
            return tensor
        if isinstance(value, dict):
            return self._table(value, ((k, v) for k, v in value.items()))
        if isinstance(value, (list, tuple)):
            if type(value).__name__ == "Size":
                return size_storage(value)
            if hasattr(value, "dumped"):  # a Lua function
                return None
            return self._table(value, enumerate(value, 1))
        description = self.describe(value)
        return None if description is None else self._object(value, description)

    def _table(self, value: Any, entries: Iterable[tuple[Any, Any]]) -> LuaTable:
        table = self._done[id(value)] = LuaTable()

        def fill() -> None:
            for key, entry in entries:
                if (key := self._start(key)) is not None:
                    table[key] = self._start(entry)

        self._to_fill.append(fill)
        return table

    def _object(self, value: Any, description: LuaDescription) -> LuaObject:
        obj = self._done[id(value)] = LuaObject(description.class_name)

        def fill() -> None:
            obj.header = tuple(map(self._start, description.header))
            if description.payload is not ...:
                obj.payload = self._start(description.payload)
            else:
                for key, entry in self._fields.to_lua(description.legacy_class, description.fields).items():
                    obj[self._start(key)] = self._start(entry)
            obj.version = class_version(obj) if description.version is None else description.version
            self.complete(value, description, obj)

        self._to_fill.append(fill)
        return obj
