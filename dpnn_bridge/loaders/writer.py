"""Write Lua values to a stream as torch7's File.lua does, including shared values and cycles, without recursion."""

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

_DEFAULT_SERIALIZER = Serializer()


class Writer:
    """Writer of consecutive objects. References may refer to earlier objects.

    Args:
        sink: writer of the primitive values.
        referenced: False writes a copy of a shared object for each reference.
    """

    def __init__(self, sink: Any, *, referenced: bool) -> None:
        self.sink, self.referenced = sink, referenced
        self._indices: dict[int, int] = {}
        self._written: list[Any] = []  # keeps the objects alive, so that their ids stay unique
        self._count = 0

    def write(self, obj: Any) -> None:
        """Write one object with all objects in it.

        Raises:
            LuaValueError: a value is not a Lua value; a number is not exact as a double; a value contains itself, and
                ``referenced`` is False or it is a function of type 6; a size or an element does not fit into the
                ``long`` of the stream.
        """
        stack: list[tuple[Any, Iterator[Any]]] = [(None, iter((obj,)))]
        open_ids: set[int] = set()
        while stack:
            for value in stack[-1][1]:
                try:
                    children = self._begin(value)
                except LuaValueError as error:
                    path = _path([outer for outer, _ in stack[1:]], value)
                    raise LuaValueError(f"{path}: {error}" if path else str(error)) from None
                if children is not None:
                    if id(value) in open_ids:  # only possible without references, or in a function of type 6
                        advice = "set its type_code to 8" if self.referenced else "write it with referenced=True"
                        raise LuaValueError(f"{value!r} contains itself; {advice}")
                    open_ids.add(id(value))
                    stack.append((value, children))
                    break
            else:
                open_ids.discard(id(stack.pop()[0]))
        self.sink.flush()

    def _begin(self, value: Any) -> Iterator[Any] | None:
        """Write a value without its child values; return the child values, or None."""
        sink, cls = self.sink, value.__class__
        if cls is str:
            sink.int(STRING)
            sink.string(_bytes(value))
        elif cls is int or cls is float:
            self._number(value)
        elif cls is LuaTable:
            return self._table(value)
        elif cls is bool:
            sink.int(BOOLEAN)
            sink.int(1 if value else 0)
        elif cls is LuaTensor:
            return self._tensor(value)
        elif cls is LuaObject:
            if self._head(TORCH, value):
                self._class(value.class_name, value.version)
                return SERIALIZERS.get(value.class_name, _DEFAULT_SERIALIZER).write(value, sink)
        elif cls is LuaStorage:
            if self._head(TORCH, value):
                self._class(value.class_name, 1)
                sink.storage(value)
        elif cls is LuaFunction:
            return self._function(value)
        elif value is None:
            sink.int(NIL)
        elif (number := python_number(value)) is not value:
            return self._begin(number)
        else:
            raise LuaValueError(
                f"{cls.__module__}.{cls.__qualname__} is not a Lua value; expected a number, string, boolean, or a "
                "LuaTable, LuaTensor or LuaObject of dpnn_bridge.objects (dpnn_bridge.to_lua converts modules)"
            )
        return None

    def _number(self, value: int | float) -> None:
        try:
            number = float(value)
        except OverflowError:
            raise LuaValueError(f"an integer of {int(value).bit_length()} bits is too large for a Lua number") from None
        if number != value and value == value:
            raise LuaValueError(f"{value} is not exact as a Lua number, which is a double")
        self.sink.int(NUMBER)
        self.sink.double(number)

    def _head(self, code: int, value: Any) -> bool:
        """Write type code and index; return whether the content must follow."""
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
        if function.type_code == FUNCTION_6:  # the only compound value that has no index
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
    """Convert numbers and booleans of numpy and of subclasses to ``int``, ``float`` or ``bool``."""
    for python_type, numpy_type in ((bool, np.bool_), (int, np.integer), (float, np.floating)):
        if isinstance(value, (python_type, numpy_type)):
            return value if type(value) is python_type else python_type(value)
    return value


def _path(ancestors: list[Any], value: Any) -> str:
    """Return the path of a value, from the tables and objects that contain it, beginning with the outermost."""
    chain = [*ancestors, value]
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
            f"a string contains the surrogate U+{ord(text[error.start]):04X} at position {error.start}, which UTF-8 "
            "cannot encode; replace it by a complete character"
        ) from error
