"""The primitive values of a .t7 stream: int, double, string, longs, raw elements."""

from __future__ import annotations

import struct

import numpy as np

from ..errors import T7FormatError
from ..objects import LuaStorage, element_dtype
from .source import Source

#: A window starts with this many bytes and grows while reading goes on without a jump.
_FIRST_WINDOW, _LARGEST_WINDOW = 1 << 16, 1 << 21


class BinaryStream:
    """Binary mode, seen through a window that moves over the source.

    Args:
        source: the bytes.
        long_size: bytes of a C ``long``, 4 or 8.
        big_endian: byte order of the machine that wrote the file.
        start: byte to begin at.
    """

    def __init__(self, source: Source, *, long_size: int = 8, big_endian: bool = False, start: int = 0) -> None:
        self.source, self.size = source, source.size
        self.order = ">" if big_endian else "<"
        self.long_size, self._long = long_size, "q" if long_size == 8 else "i"
        self._int = struct.Struct(self.order + "i").unpack_from
        self._double = struct.Struct(self.order + "d").unpack_from
        self._longs = [struct.Struct(f"{self.order}{n}{self._long}") for n in range(64)]
        self._buffer, self._base, self._at, self._window = b"", start, 0, _FIRST_WINDOW

    @property
    def position(self) -> int:
        """Byte offset of the next value."""
        return self._base + self._at

    @property
    def remaining(self) -> int:
        return self.size - self._base - self._at

    def _refill(self, count: int) -> None:
        """Move the window so that ``count`` bytes from here are in it."""
        position = self.position
        if count > self.size - position:
            raise T7FormatError(
                f"the file is truncated: {count} bytes wanted, {self.size - position} left", offset=position
            )
        self._window = min(2 * self._window, _LARGEST_WINDOW) if self._at == len(self._buffer) else _FIRST_WINDOW
        self._buffer = self.source.read(position, max(count, self._window))
        self._base, self._at = position, 0
        if len(self._buffer) < count:
            raise T7FormatError("the file was truncated while it was read", offset=position)

    def int(self) -> int:
        """A C ``int``."""
        try:
            value = self._int(self._buffer, self._at)[0]
        except struct.error:
            self._refill(4)
            value = self._int(self._buffer, 0)[0]
        self._at += 4
        return value

    def double(self) -> float:
        """A C ``double``."""
        try:
            value = self._double(self._buffer, self._at)[0]
        except struct.error:
            self._refill(8)
            value = self._double(self._buffer, 0)[0]
        self._at += 8
        return value

    def long(self) -> int:
        """A C ``long``."""
        return self.longs(1)[0]

    def longs(self, count: int) -> tuple[int, ...]:
        """``count`` C longs, count < 64."""
        reader = self._longs[count]
        if self._at + reader.size > len(self._buffer):
            self._refill(reader.size)
        values = reader.unpack_from(self._buffer, self._at)
        self._at += reader.size
        return values

    def bytes(self, count: int) -> bytes:
        """``count`` raw bytes."""
        if count < 0:
            raise T7FormatError(f"negative length {count}", offset=self.position)
        stop = self._at + count
        if stop > len(self._buffer):
            self._refill(count)
            stop = count
        value = self._buffer[self._at : stop]
        self._at = stop
        return value

    def string(self) -> bytes:
        """A length and that many bytes."""
        return self.bytes(self.int())

    def storage(self, class_name: str) -> LuaStorage:
        """A count and that many elements, which stay in the source until they are used."""
        dtype = element_dtype(class_name)
        assert dtype is not None
        count = self.long()
        if count < 0 or count * dtype.itemsize > self.remaining:
            raise T7FormatError(
                f"{class_name} of {count} elements, but only {self.remaining} bytes are left", offset=self.position
            )
        start, source = self.position, self.source
        item = dtype.newbyteorder(self.order)
        self._at += count * dtype.itemsize
        if self._at > len(self._buffer):
            self._buffer, self._base, self._at = b"", self.position, 0
        return LuaStorage(class_name, count, lambda: source.load(start, item, count))
