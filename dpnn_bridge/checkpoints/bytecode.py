"""Read the header of Lua bytecode: Lua version, name and line of the source. The bytecode is never executed."""

from __future__ import annotations

import struct
from dataclasses import dataclass


@dataclass(frozen=True)
class Bytecode:
    """Properties of a Lua function that ``string.dump`` serialized.

    Attributes:
        dialect: Lua version, such as ``"LuaJIT 2"`` or ``"Lua 5.1"``; ``"unknown"`` for another header.
        size: number of bytes.
        source: name of the source: ``@file.lua`` for a file, or the Lua code itself if it came from a string. None if
            the name was stripped or cannot be read.
        first_line: line in the source where the function is defined, or None.
    """

    dialect: str
    size: int
    source: str | None = None
    first_line: int | None = None

    def __str__(self) -> str:
        text = f"{self.dialect} bytecode, {self.size} bytes"
        if self.source is not None:
            name = self.source.split("\n", 1)[0]
            name = name[1:] if name[:1] in ("@", "=") else f"[string {name[:60]!r}]"
            text += f", {name}" + (f":{self.first_line}" if self.first_line is not None else "")
        return text


def describe_bytecode(data: bytes) -> Bytecode:
    """Read the header of ``data``. Damaged data raise no error."""
    if data[:3] == b"\x1bLJ":
        dialect, read = f"LuaJIT {data[3]}" if len(data) > 3 else "LuaJIT", _luajit
    elif data[:4] == b"\x1bLua" and len(data) > 4:
        dialect = f"Lua {data[4] >> 4}.{data[4] & 15}"
        read = {0x51: _lua51, 0x53: _lua53}.get(data[4], _no_source)
    else:
        dialect, read = "unknown", _no_source
    try:
        source, line = read(data)
    except (IndexError, struct.error, _DamagedError):
        source, line = None, None
    return Bytecode(dialect, len(data), source, line)


class _DamagedError(Exception):
    pass


class _Cursor:
    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def bytes(self, count: int) -> bytes:
        if not 0 <= count <= len(self.data) - self.at:
            raise _DamagedError
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, size: int, order: str = "<") -> int:
        return int.from_bytes(self.bytes(size), "little" if order == "<" else "big")

    def uleb128(self) -> int:
        value = shift = 0
        while shift < 64:
            byte = self.byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
        raise _DamagedError


def _no_source(data: bytes) -> tuple[str | None, int | None]:
    return None, None


def _luajit(data: bytes) -> tuple[str | None, int | None]:
    cursor = _Cursor(data, 4)
    if cursor.uleb128() & 2:  # stripped
        return None, None
    source = cursor.bytes(cursor.uleb128()).decode("utf-8", "replace")
    line = None
    while length := cursor.uleb128():  # nested functions, then the function itself
        stop = cursor.at + length
        cursor.bytes(4)
        for _ in range(3):
            cursor.uleb128()
        line = cursor.uleb128() if cursor.uleb128() else None  # without debug information there is no line
        cursor.at = stop
    return source, line


def _lua51(data: bytes) -> tuple[str | None, int | None]:
    order, int_size, size_size = "<" if data[6] else ">", data[7], data[8]
    cursor = _Cursor(data, 12)
    source = cursor.bytes(cursor.number(size_size, order))[:-1].decode("utf-8", "replace")
    return source or None, cursor.number(int_size, order)


def _lua53(data: bytes) -> tuple[str | None, int | None]:
    order = "<" if data[17:19] == b"\x78\x56" else ">"  # LUAC_INT, 0x5678
    cursor = _Cursor(data, 12 + data[15] + data[16] + 6)
    length = cursor.byte()
    length = cursor.number(data[13], order) if length == 255 else length
    source = cursor.bytes(length - 1).decode("utf-8", "replace") if length else None
    return source, cursor.number(data[12], order)
