"""Reading .t7: bytes -> Lua values. Iterative, every size checked before anything is allocated."""

from __future__ import annotations

import gc
import os
import re
from typing import Any

from ..errors import T7FormatError
from ..objects import _BOOLEAN_KEYS, LuaFunction, LuaObject, LuaStorage, LuaTable, LuaTensor, element_dtype
from .framings import FRAMINGS, Follow
from .source import BytesSource, FileSource, Source
from .stream import BinaryStream

NIL, NUMBER, STRING, TABLE, TORCH, BOOLEAN, FUNCTION_6, FUNCTION_7, FUNCTION_8 = range(9)
_NO_KEY = object()
_VERSION = re.compile(rb"V (.*)", re.DOTALL)


def read_t7(path: str | os.PathLike[str], *, lazy: bool = True) -> Any:
    """Read the first object of a .t7 file.

    Args:
        path: the file.
        lazy: leave the elements of storages in the file, which stays open, until they are used.

    Returns:
        A Lua value, see :mod:`dpnn_bridge.objects`.
    """
    return _read(FileSource(path), lazy)


def loads(data: bytes | bytearray | memoryview) -> Any:
    """Read the first object of a serialized string, as ``torch.deserialize`` does."""
    return _read(BytesSource(data), lazy=False)


def _read(source: Source, lazy: bool) -> Any:
    reader = Reader(BinaryStream(source))
    collecting = gc.isenabled()
    gc.disable()
    try:
        value = reader.read()
    finally:
        if collecting:
            gc.enable()
    if not lazy:
        for storage in reader.storages:
            storage.numpy()
    return value


class Reader:
    """Reads objects one after the other; references reach back over all of them."""

    def __init__(self, stream: BinaryStream, *, referenced: bool = True) -> None:
        self.stream, self.referenced = stream, referenced
        self.storages: list[LuaStorage] = []
        self._memo: dict[int, Any] = {}
        self._strings: dict[bytes, str] = {}
        self._classes: dict[bytes, tuple[str, float | None]] = {}

    def read(self) -> Any:
        """The next object of the stream."""
        stream, memo, strings = self.stream, self._memo, self._strings
        next_int, next_double = stream.int, stream.double
        root: dict[Any, Any] = {}
        stack: list[tuple] = []
        entries, left, key, numbered, finish = root, 1, 1, True, None
        while True:
            follow = None
            code = next_int()
            if code == STRING:
                raw = stream.string()
                value = strings.get(raw)
                if value is None:
                    value = raw.decode("utf-8", "surrogateescape")
                    if len(raw) < 64:
                        strings[raw] = value
            elif code == NUMBER:
                value = next_double()
                if value.is_integer() and -9007199254740992 <= value <= 9007199254740992:
                    value = int(value) if value else (0 if str(value) == "0.0" else value)
            elif code == TABLE:
                index = next_int()
                value = memo.get(index)
                if value is None:
                    value = memo[index] = LuaTable()
                    count = next_int()
                    if not 0 <= count <= stream.remaining // 12:
                        self._fail(f"table of {count} entries, but only {stream.remaining} bytes are left")
                    follow = Follow(value.entries, count, numbered=False)
            elif code == TORCH:
                index = next_int()
                value = memo.get(index)
                if value is None:
                    value, follow = self._torch(index)
            elif code == NIL:
                value = None
            elif code == BOOLEAN:
                value = next_int() == 1
            elif FUNCTION_6 <= code <= FUNCTION_8:
                index = 0 if code == FUNCTION_6 else next_int()
                value = memo.get(index)
                if value is None:
                    value = LuaFunction(stream.string(), type_code=code)
                    if index:
                        memo[index] = value
                    follow = Follow({}, 1, finish=lambda v, f=value: setattr(f, "upvalues", v[1]))
            else:
                self._fail(f"unknown type code {code}")

            if key is _NO_KEY:
                if value is None or value != value:
                    self._fail("a table key is nil or nan")
                key = _BOOLEAN_KEYS[value] if isinstance(value, bool) else value
            else:
                if value is not None or numbered:
                    entries[key] = value
                key = key + 1 if numbered else _NO_KEY
                left -= 1
            if follow is not None:
                stack.append((entries, left, key, numbered, finish))
                entries, left, numbered, finish = follow.entries, follow.count, follow.numbered, follow.finish
                key = 1 if numbered else _NO_KEY
            while left == 0:
                if finish is not None:
                    finish(entries)
                if not stack:
                    return root[1]
                entries, left, key, numbered, finish = stack.pop()

    def _torch(self, index: int) -> tuple[Any, Follow | None]:
        stream, memo = self.stream, self._memo
        class_name, version = self._class()
        if element_dtype(class_name) is not None:
            if class_name.endswith("Storage"):
                value = memo[index] = stream.storage(class_name)
                self.storages.append(value)
            else:
                value = memo[index] = self._tensor(class_name)
            return value, None
        value = memo[index] = LuaObject(class_name, None, version=version)
        framing = FRAMINGS.get(class_name)
        if framing is not None:
            return value, framing.read(value, stream)
        return value, Follow({}, 1, finish=lambda v: setattr(value, "payload", v[1]))

    def _class(self) -> tuple[str, Any]:
        raw, version = self.stream.string(), 0
        match = _VERSION.fullmatch(raw)
        if match:
            try:
                number = float(match[1])
            except ValueError:
                pass
            else:
                version = int(number) if number.is_integer() else number
                raw = self.stream.string()
        return raw.decode("utf-8", "surrogateescape"), version

    def _tensor(self, class_name: str) -> LuaTensor:
        stream = self.stream
        ndim = stream.int()
        if not 0 <= ndim < 64:
            self._fail(f"{class_name} of {ndim} dimensions")
        shape, stride = stream.longs(ndim), stream.longs(ndim)
        offset = stream.long() - 1
        code, storage = stream.int(), None
        if code == TORCH:
            index = stream.int()
            storage = self._memo.get(index)
            if storage is None:
                storage, _ = self._torch(index)
        elif code != NIL:
            self._fail(f"the storage of a {class_name} has type code {code}")
        if storage is not None and not isinstance(storage, LuaStorage):
            self._fail(f"the storage of a {class_name} is {storage!r}")
        tensor = LuaTensor(class_name, shape, stride, offset, storage)
        self._check_view(tensor)
        return tensor

    def _check_view(self, tensor: LuaTensor) -> None:
        if any(s < 0 for s in tensor.shape) or any(s < 0 for s in tensor.stride):
            self._fail(f"{tensor.class_name} with sizes {tensor.shape} and strides {tensor.stride}")
        if not tensor.size:
            return
        if tensor.storage is None:
            self._fail(f"{tensor.class_name} with sizes {tensor.shape} and no storage")
        last = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride, strict=True))
        if tensor.offset < 0 or last >= tensor.storage.size:
            self._fail(
                f"{tensor.class_name} with sizes {tensor.shape}, strides {tensor.stride} and offset {tensor.offset} "
                f"reaches beyond its storage of {tensor.storage.size} elements"
            )

    def _fail(self, message: str) -> None:
        raise T7FormatError(message, offset=self.stream.position, source=self.stream.source.name)
