"""Read the primitive values of a binary .t7 stream: int, long, double, bytes, string, storage elements."""

from __future__ import annotations

import struct
from typing import Any, Literal

import numpy as np

from dpnn_bridge.loaders.source import Source
from dpnn_bridge.objects import LuaStorage, element_dtype

#: Size of the window in bytes: at the beginning and after skipped bytes, and the maximum while reading is sequential.
_FIRST_WINDOW, _LARGEST_WINDOW = 1 << 16, 1 << 21
#: Zeros after the last byte of the source, so that reading ahead needs no check.
PADDING = bytes(512)
#: Maximum size in bytes of a storage that is copied from the window instead of being read from the source later.
_SMALL = 4096


class StreamError(Exception):
    """A stream is malformed. The reader adds file, path and offset."""


class LimitError(StreamError):
    """A stream exceeds a limit of the caller."""


class Stream:
    """Checks of the sizes in a file, for binary and ASCII mode."""

    @property
    def remaining(self) -> int:
        """Number of bytes from the current position to the end."""
        raise NotImplementedError

    def check_size(self, size: int, what: str) -> None:
        """Raise an error if fewer than ``size`` bytes are left for ``what``."""
        if not 0 <= size <= self.remaining:
            raise StreamError(f"truncated or damaged: {what}, but only {self.remaining} bytes are left")

    def check_count(self, count: int, least: int) -> int:
        """Return ``count``; raise an error if the file is too short for as many values of at least ``least`` bytes."""
        self.check_size(count * least, f"{count} entries")
        return count


class BinaryStream(Stream):
    """Stream in binary mode. The buffer is a window that moves over the source.

    Args:
        source: the bytes.
        long_size: bytes of a C ``long``, 4 or 8.
        big_endian: byte order of the file.
    """

    #: minimum number of bytes of a table entry: an empty string as key, nil as value
    least_pair = 12

    def __init__(self, source: Source, *, long_size: int = 8, big_endian: bool = False) -> None:
        self.source, self.size, self.long_size = source, source.size, long_size
        self.order: Literal["<", ">"] = ">" if big_endian else "<"
        self._int = struct.Struct(self.order + "i").unpack_from
        self._double = struct.Struct(self.order + "d").unpack_from
        self._longs = [struct.Struct(f"{self.order}{n}{'q' if long_size == 8 else 'i'}") for n in range(66)]
        # bytes of the window, number of bytes from the source, offset of the window, reading position in the window
        self.buffer, self.filled, self.base, self.at = PADDING, 0, 0, 0
        self._window = _FIRST_WINDOW

    @property
    def position(self) -> int:
        """Byte offset of the next value."""
        return self.base + self.at

    @property
    def remaining(self) -> int:
        return self.size - self.base - self.at

    def refill(self, count: int) -> None:
        """Move the window so that it begins at the current position and contains at least ``count`` bytes.

        Raises:
            StreamError: fewer than ``count`` bytes are left.
        """
        if count > self.remaining:
            raise StreamError(f"truncated: expected {count} bytes, found {max(0, self.remaining)}")
        self._move(count)

    def head(self, unpack: Any) -> tuple[int, int]:
        """Return the next eight bytes as two ints without moving the position; zeros after the end."""
        if self.at + 8 > self.filled:
            self._move(8)
        return unpack(self.buffer, self.at)

    def _move(self, count: int) -> None:
        sequential = self.at <= self.filled and self.filled
        self._window = min(2 * self._window, _LARGEST_WINDOW) if sequential else _FIRST_WINDOW
        position = self.base + self.at
        data = self.source.read(position, max(count + len(PADDING), self._window))
        self.filled = len(data)
        self.buffer = data + PADDING if position + len(data) >= self.size else data
        self.base, self.at = position, 0

    def int(self) -> int:
        """Return a C ``int``."""
        if self.at + 4 > self.filled:
            self.refill(4)
        value = self._int(self.buffer, self.at)[0]
        self.at += 4
        return value

    def double(self) -> float:
        """Return a C ``double``."""
        if self.at + 8 > self.filled:
            self.refill(8)
        value = self._double(self.buffer, self.at)[0]
        self.at += 8
        return value

    def long(self) -> int:
        """Return a C ``long``."""
        return self.longs(1)[0]

    def longs(self, count: int) -> tuple[int, ...]:
        """Return ``count`` C longs, at most 65."""
        longs = self._longs[count]
        if self.at + longs.size > self.filled:
            self.refill(longs.size)
        values = longs.unpack_from(self.buffer, self.at)
        self.at += longs.size
        return values

    def bytes(self, count: int) -> bytes:
        """Return ``count`` raw bytes."""
        if count < 0:
            raise StreamError(f"negative length {count}")
        if self.at + count > self.filled:
            self.refill(count)
        start = self.at
        self.at += count
        return self.buffer[start : self.at]

    def peek(self, count: int) -> bytes:
        """Return the next ``count`` bytes without moving the position."""
        data = self.bytes(count)
        self.at -= count
        return data

    def peek_int(self) -> int:
        """Return the next C ``int`` without moving the position."""
        value = self.int()
        self.at -= 4
        return value

    def string(self) -> bytes:
        """Read a length, and return that many bytes."""
        return self.bytes(self.int())

    def count(self, least: int) -> int:
        """Read a long that is the number of following values.

        Args:
            least: minimum number of bytes of each value.
        """
        return self.check_count(self.long(), least)

    def storage(self, class_name: str) -> LuaStorage:
        """Read the header of a storage; the elements stay in the source until they are used."""
        dtype = element_dtype(class_name)
        assert dtype is not None
        item = np.dtype(f"i{self.long_size}") if dtype == np.int64 and "Long" in class_name else dtype
        item = item.newbyteorder(self.order)
        count = self.long()
        self.check_size(count * item.itemsize, f"{class_name} of {count} elements")
        start, stop = self.at, self.at + count * item.itemsize
        self.at = stop
        if stop - start <= _SMALL and stop <= self.filled:
            data = self.buffer[start:stop]
            return LuaStorage(class_name, count, lambda: np.frombuffer(data, item).astype(dtype))
        source, begin = self.source, self.base + start
        if stop > self.filled:
            self.base, self.at, self.buffer, self.filled = self.base + stop, 0, PADDING, 0

        def load_range(start: int, stop: int) -> np.ndarray:
            return source.load(begin + start * item.itemsize, item, stop - start).astype(dtype, copy=False)

        return LuaStorage(class_name, count, lambda: load_range(0, count), load_range)
