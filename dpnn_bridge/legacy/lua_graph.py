"""Convert Python values of ``torch.legacy`` to the Lua values of a ``.t7`` file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from dpnn_bridge.conversion import registry
from dpnn_bridge.conversion.lua_class import constant_fields
from dpnn_bridge.legacy import fields
from dpnn_bridge.legacy.fields import size_storage
from dpnn_bridge.objects import LuaFunction, LuaObject, LuaStorage, LuaTable, LuaTensor


class LuaDescription(NamedTuple):
    """The Lua description of an object of ``torch.legacy``.

    Attributes:
        class_name: its Lua class.
        kind: the class of ``torch.legacy.nn`` whose fields it has.
        fields: its attributes.
        version: of the Lua class; None: the current one.
        header: values that the class writes before its fields.
        payload: the fields of a class with its own serializer.
    """

    class_name: str
    kind: str
    fields: dict[Any, Any]
    version: int | None = None
    header: tuple[Any, ...] = ()
    payload: Any = ...


def add_constants(obj: LuaObject) -> None:
    """Add the fields that Torch7 needs in an object and that ``torch.legacy.nn`` had not."""
    mapping = registry.find(obj)
    kind = obj.get("_type")
    kind = kind if isinstance(kind, str) else "torch.FloatTensor"
    for key, value in constant_fields(mapping, kind).items() if mapping is not None else ():
        obj.setdefault(key, value)


def class_version(obj: LuaObject) -> int:
    """Return the current version of an object's Lua class."""
    mapping = registry.find(obj)
    return 1 if mapping is None else mapping.version


class LuaGraph:
    """Converts values to Lua's, each object once; values that Lua lacks are omitted.

    Nesting uses memory, not stack: tables and objects wait until they are filled.
    """

    def __init__(self) -> None:
        self._done: dict[int, Any] = {}
        self._alive: list[Any] = []
        self._waiting: list[Callable[[], None]] = []

    def describe(self, value: Any) -> LuaDescription | None:
        """Return the Lua object of an object; None for other values."""
        raise NotImplementedError

    def tensor(self, value: Any) -> LuaTensor | LuaStorage | None:
        """Return the Lua tensor or storage of a value; None for other values."""
        return value if isinstance(value, (LuaTensor, LuaStorage)) else None

    def complete(self, value: Any, found: LuaDescription, obj: LuaObject) -> None:
        """Complete the Lua object of an object, whose fields are set."""

    def value(self, value: Any) -> Any:
        """Return the Lua value of a value with everything in it, None if there is none."""
        lua = self._begun(value)
        while self._waiting:
            self._waiting.pop()()
        return lua

    def _begun(self, value: Any) -> Any:
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
            if hasattr(value, "dumped"):  # a function, which is never run
                return None
            return self._table(value, enumerate(value, 1))
        described = self.describe(value)
        return None if described is None else self._object(value, described)

    def _table(self, value: Any, entries: Iterable[tuple[Any, Any]]) -> LuaTable:
        table = self._done[id(value)] = LuaTable()

        def fill() -> None:
            for key, entry in entries:
                if (key := self._begun(key)) is not None:
                    table[key] = self._begun(entry)

        self._waiting.append(fill)
        return table

    def _object(self, value: Any, found: LuaDescription) -> LuaObject:
        obj = LuaObject(found.class_name, header=tuple(map(self._begun, found.header)))
        self._done[id(value)] = obj

        def fill() -> None:
            if found.payload is not ...:
                obj.payload = self._begun(found.payload)
            else:
                for key, entry in fields.to_lua(found.kind, found.fields).items():
                    obj[self._begun(key)] = self._begun(entry)
            obj.version = class_version(obj) if found.version is None else found.version
            self.complete(value, found, obj)

        self._waiting.append(fill)
        return obj
