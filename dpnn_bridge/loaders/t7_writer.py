"""Writing .t7: Lua values -> bytes that Torch7 reads. Iterative; follows torch7's File.lua."""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from ..objects import LuaFunction, LuaObject, LuaStorage, LuaTable, LuaTensor
from .framings import FRAMINGS
from .reader import BOOLEAN, FUNCTION_6, NIL, NUMBER, STRING, TABLE, TORCH


def write_t7(path: str | os.PathLike[str], obj: Any) -> None:
    """Write a Lua value to a .t7 file. The file appears complete or not at all.

    Args:
        path: the file, replaced when it exists.
        obj: a Lua value, see :mod:`dpnn_bridge.objects`.
    """
    path = os.fspath(path)
    descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(path) or ".", prefix=os.path.basename(path) + ".")
    try:
        with os.fdopen(descriptor, "wb") as file:
            Writer(BinarySink(file)).write(obj)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def dumps(obj: Any) -> bytes:
    """A Lua value as a serialized string, what ``torch.serialize`` gives."""
    import io

    file = io.BytesIO()
    Writer(BinarySink(file)).write(obj)
    return file.getvalue()


class BinarySink:
    """The primitive values of a binary stream, written."""

    def __init__(self, file: BinaryIO, *, long_size: int = 8, big_endian: bool = False) -> None:
        self._file, self.order = file, ">" if big_endian else "<"
        self._long = "q" if long_size == 8 else "i"
        self._pack_int = struct.Struct(self.order + "i").pack
        self._pack_double = struct.Struct(self.order + "d").pack

    def int(self, value: int) -> None:
        self._file.write(self._pack_int(value))

    def double(self, value: float) -> None:
        self._file.write(self._pack_double(value))

    def long(self, value: int) -> None:
        self.longs((value,))

    def longs(self, values: tuple[int, ...]) -> None:
        self._file.write(struct.pack(f"{self.order}{len(values)}{self._long}", *values))

    def bytes(self, value: bytes) -> None:
        self._file.write(value)

    def string(self, value: bytes) -> None:
        self.int(len(value))
        self._file.write(value)

    def storage(self, storage: LuaStorage) -> None:
        self.long(storage.size)
        array = np.ascontiguousarray(storage.numpy(), storage.dtype.newbyteorder(self.order))
        self._file.write(array.data)


class Writer:
    """Writes objects one after the other; references reach back over all of them."""

    def __init__(self, sink: BinarySink, *, referenced: bool = True) -> None:
        self.sink, self.referenced = sink, referenced
        self._indices: dict[int, int] = {}
        self._alive: list[Any] = []  # identities stay unique only while the objects live
        self._count = 0

    def write(self, obj: Any) -> None:
        """Write one object and all that it refers to."""
        stack: list[Iterator[Any]] = [iter((obj,))]
        while stack:
            for value in stack[-1]:
                follow = self._value(value)
                if follow is not None:
                    stack.append(follow)
                    break
            else:
                stack.pop()

    def _value(self, value: Any) -> Iterator[Any] | None:
        sink = self.sink
        if value is None:
            sink.int(NIL)
        elif isinstance(value, bool):
            sink.int(BOOLEAN)
            sink.int(int(value))
        elif isinstance(value, (int, float, np.number)):
            sink.int(NUMBER)
            sink.double(float(value))
        elif isinstance(value, str):
            sink.int(STRING)
            sink.string(value.encode("utf-8", "surrogateescape"))
        elif isinstance(value, LuaTable):
            if self._begin(TABLE, value):
                sink.int(len(value))
                return (x for pair in value.items() for x in pair)
        elif isinstance(value, LuaFunction):
            if value.type_code == FUNCTION_6:
                sink.int(FUNCTION_6)
            elif not self._begin(value.type_code, value):
                return None
            sink.string(value.bytecode)
            return iter((value.upvalues,))
        elif isinstance(value, LuaTensor):
            if self._begin(TORCH, value):
                self._class(value.class_name, 1)
                sink.int(value.ndim)
                sink.longs(value.shape)
                sink.longs(value.stride)
                sink.long(value.offset + 1)
                return iter((value.storage,))
        elif isinstance(value, LuaStorage):
            if self._begin(TORCH, value):
                self._class(value.class_name, 1)
                sink.storage(value)
        elif isinstance(value, LuaObject):
            if self._begin(TORCH, value):
                self._class(value.class_name, value.version)
                framing = FRAMINGS.get(value.class_name)
                return iter((value.payload,) if framing is None else framing.write(value, sink))
        else:
            raise TypeError(f"{type(value).__name__} is not a Lua value")
        return None

    def _begin(self, code: int, value: Any) -> bool:
        """Write type code and index; whether the body must follow."""
        self.sink.int(code)
        index = self._indices.get(id(value)) if self.referenced else None
        if index is not None:
            self.sink.int(index)
            return False
        self._count += 1
        self.sink.int(self._count)
        if self.referenced:
            self._indices[id(value)] = self._count
            self._alive.append(value)
        return True

    def _class(self, class_name: str, version: Any) -> None:
        self.sink.string(f"V {version}".encode())
        self.sink.string(class_name.encode("utf-8", "surrogateescape"))
