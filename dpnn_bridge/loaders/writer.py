"""Write Lua values to a stream like torch7's File.lua, without recursion, with sharing and cycles."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from dpnn_bridge.base.graph import format_path
from dpnn_bridge.errors import LuaValueError
from dpnn_bridge.loaders.primitives import BOOLEAN, FUNCTION_6, NIL, NUMBER, STRING, TABLE, TORCH
from dpnn_bridge.loaders.serializers import SERIALIZERS, Serializer
from dpnn_bridge.objects import LuaFunction, LuaObject, LuaStorage, LuaTable, LuaTensor

_PLAIN = Serializer()


class Writer:
    """Writes objects one after the other; references reach back over all of them.

    Args:
        sink: where the primitive values go.
        referenced: False writes every object in full wherever it occurs.
    """

    def __init__(self, sink: Any, *, referenced: bool = True) -> None:
        self.sink, self.referenced = sink, referenced
        self._indices: dict[int, int] = {}
        self._written: list[Any] = []  # an identity belongs to an object only as long as it lives
        self._count = 0

    def write(self, obj: Any) -> None:
        """Write one object and all that it refers to.

        Raises:
            LuaValueError: a value is no Lua value; a number is not exact in a double; a cycle, without references; a
                size or an element does not fit into the ``long`` of the stream.
        """
        stack: list[tuple[Any, Iterator[Any]]] = [(None, iter((obj,)))]
        open_ids: set[int] = set()
        while stack:
            for value in stack[-1][1]:
                try:
                    parts = self._begin(value)
                except LuaValueError as error:
                    place = _place([outer for outer, _ in stack[1:]], value)
                    raise LuaValueError(f"{place}: {error}" if place else str(error)) from None
                if parts is not None:
                    if id(value) in open_ids:  # only possible where nothing refers back
                        raise LuaValueError(f"{value!r} contains itself; writing it needs references")
                    open_ids.add(id(value))
                    stack.append((value, parts))
                    break
            else:
                open_ids.discard(id(stack.pop()[0]))
        self.sink.flush()

    def _begin(self, value: Any) -> Iterator[Any] | None:
        """Write a value as far as it contains no other; return those that it contains."""
        sink, kind = self.sink, value.__class__
        if kind is str:
            sink.int(STRING)
            sink.string(_bytes(value))
        elif kind is int or kind is float:
            self._number(value)
        elif kind is LuaTable:
            return self._table(value)
        elif kind is bool:
            sink.int(BOOLEAN)
            sink.int(1 if value else 0)
        elif kind is LuaTensor:
            return self._tensor(value)
        elif kind is LuaObject:
            if self._head(TORCH, value):
                self._class(value.class_name, value.version)
                return SERIALIZERS.get(value.class_name, _PLAIN).write(value, sink)
        elif kind is LuaStorage:
            if self._head(TORCH, value):
                self._class(value.class_name, 1)
                sink.storage(value)
        elif kind is LuaFunction:
            return self._function(value)
        elif value is None:
            sink.int(NIL)
        elif (number := python_number(value)) is not value:
            return self._begin(number)
        else:
            raise LuaValueError(
                f"{kind.__module__}.{kind.__qualname__} is not a Lua value; expected a number, string, boolean, or a "
                "LuaTable, LuaTensor or LuaObject of dpnn_bridge.objects (dpnn_bridge.to_lua converts modules)"
            )
        return None

    def _number(self, value: int | float) -> None:
        number = float(value)
        if number != value and value == value:
            raise LuaValueError(f"{value} is not exact as a Lua number, which is a double")
        self.sink.int(NUMBER)
        self.sink.double(number)

    def _head(self, code: int, value: Any) -> bool:
        """Write type code and index; whether the body follows."""
        sink = self.sink
        sink.int(code)
        index = self._indices.get(id(value))
        if index is not None:
            sink.int(index)
            return False
        self._count += 1
        sink.int(self._count)
        if self.referenced:
            self._indices[id(value)] = self._count
            self._written.append(value)
        return True

    def _class(self, class_name: str, version: int | float) -> None:
        self.sink.string(f"V {version}".encode())
        self.sink.string(_bytes(class_name))

    def _table(self, table: LuaTable) -> Iterator[Any] | None:
        if not self._head(TABLE, table):
            return None
        pairs = [pair for pair in table.items() if pair[1] is not None]
        if any(key is None or key != key for key, _ in pairs):
            raise LuaValueError("a table has a key that is nil or nan, which Lua does not allow")
        self.sink.int(len(pairs))
        return (part for pair in pairs for part in pair)

    def _function(self, function: LuaFunction) -> Iterator[Any] | None:
        if function.type_code == FUNCTION_6:
            self.sink.int(FUNCTION_6)
        elif not self._head(function.type_code, function):
            return None
        self.sink.string(function.bytecode)
        return iter((function.upvalues,))

    def _tensor(self, tensor: LuaTensor) -> Iterator[Any] | None:
        if not self._head(TORCH, tensor):
            return None
        self._class(tensor.class_name, 1)
        self.sink.int(tensor.ndim)
        self.sink.longs(tensor.shape)
        self.sink.longs(tensor.stride)
        self.sink.long(tensor.offset + 1)
        return iter((tensor.storage,))


def python_number(value: Any) -> Any:
    """Return a number or boolean of numpy or of a subclass as Python's own; any other value unchanged."""
    for kind, others in ((bool, np.bool_), (int, np.integer), (float, np.floating)):
        if isinstance(value, (kind, others)):
            return value if type(value) is kind else kind(value)
    return value


def _place(above: list[Any], value: Any) -> str:
    """Return the path of a value, from the tables and objects that contain it, the outermost first."""
    chain = [*above, value]
    keys = [
        next((key for key, part in outer.items() if part is inner), None)
        for outer, inner in pairwise(chain)
        if isinstance(outer, LuaTable)
    ]
    return format_path([key for key in keys if key is not None])


def _bytes(text: str) -> bytes:
    """Return the bytes of a Lua string, see :func:`dpnn_bridge.loaders.primitives.text`."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise LuaValueError(
            f"a string has half of a character, U+{ord(text[error.start]):04X} at position {error.start}, which UTF-8 "
            "cannot store; write the whole character"
        ) from error
