"""Read the primitive values of an ASCII .t7 stream.

The sequence of values is that of binary mode. Each value is on a separate line, and an array is one line of numbers
separated by spaces. Strings and the elements of Byte and Char storages are raw bytes, followed by a newline unless they
are empty.
"""

from __future__ import annotations

import re

import numpy as np

from dpnn_bridge.errors import T7FormatError
from dpnn_bridge.loaders.source import Source
from dpnn_bridge.loaders.stream import Stream, StreamError
from dpnn_bridge.objects import LuaStorage, element_dtype

_TOKEN = re.compile(rb"\s*(\S+)")
#: Maximum number of characters of a number and the following space. It limits the search for the end of a line, so that
#: the total time is linear.
_LONGEST_NUMBER = 64
_LONGEST_TOKEN = 4096
_INTEGER = re.compile(rb"[+-]?\d{1,19}")


class AsciiStream(Stream):
    """Stream in ASCII mode.

    The complete text is in memory while the structure is read. Elements of storages are parsed when they are used.
    """

    #: minimum number of bytes of a table entry: an empty string as key, nil as value
    least_pair = 6

    def __init__(self, source: Source) -> None:
        self.source, self.size = source, source.size
        self._text = source.read(0, source.size)
        #: byte offset of the next value
        self.position = 0

    @property
    def remaining(self) -> int:
        return self.size - self.position

    def _token(self) -> bytes:
        """Return the next word, and skip a newline after it."""
        match = _TOKEN.match(self._text, self.position)
        if match is None:
            raise StreamError("truncated: expected a number, found the end of the file")
        stop = match.end()
        if stop == self.size:
            raise StreamError(f"truncated: the file ends in the number {_quoted(match[1])}")
        self.position = stop + 1 if self._text[stop : stop + 1] == b"\n" else stop
        return match[1]

    def int(self) -> int:
        """Return a C ``int``."""
        start = self.position
        stop = self._text.find(b"\n", start, start + 10)
        line = self._text[start:stop]
        if stop >= 0 and line.isdigit():  # the format that Torch7 writes
            self.position = stop + 1
            return int(line)
        return self._integer(31)

    def long(self) -> int:
        """Return a C ``long``."""
        return self._integer(63)

    def _integer(self, bits: int) -> int:
        token = self._token()
        value = int(token) if _INTEGER.fullmatch(token) else 1 << bits
        if not -(1 << bits) <= value < 1 << bits:
            raise StreamError(f"expected an integer, found {_quoted(token)}")
        return value

    def longs(self, count: int) -> tuple[int, ...]:
        """Return ``count`` C longs."""
        return tuple([self.long() for _ in range(count)])

    def double(self) -> float:
        """Return a C ``double``."""
        token = self._token()
        try:
            if b"_" in token:  # only Python accepts underscores
                raise ValueError
            return float(token)
        except ValueError:
            raise StreamError(f"expected a number, found {_quoted(token)}") from None

    def bytes(self, count: int) -> bytes:
        """Return ``count`` raw bytes."""
        if count < 0:
            raise StreamError(f"negative length {count}")
        if count > self.remaining:
            raise StreamError(f"truncated: expected {count} bytes, found {self.remaining}")
        start, stop = self.position, self.position + count
        self.position = stop + 1 if count and self._text[stop : stop + 1] == b"\n" else stop
        return self._text[start:stop]

    def string(self) -> bytes:
        """Read a length, and return that many bytes."""
        return self.bytes(self.int())

    def peek(self, count: int) -> bytes:
        """Return the next ``count`` bytes without moving the position."""
        start = self.position
        data = self.bytes(count)
        self.position = start
        return data

    def peek_int(self) -> int:
        """Return the next C ``int`` without moving the position."""
        start = self.position
        value = self.int()
        self.position = start
        return value

    def count(self, least: int) -> int:
        """Read a long that is the number of following values.

        Args:
            least: minimum number of bytes of each value in binary mode; half of that is the minimum in ASCII mode.
        """
        return self.check_count(self.long(), least // 2)

    def storage(self, class_name: str) -> LuaStorage:
        """Read the header of a storage; the elements stay in the source until they are used."""
        dtype = element_dtype(class_name)
        assert dtype is not None
        count = self.long()
        self.check_size(count, f"{class_name} of {count} elements")
        source, start = self.source, self.position
        if dtype.itemsize == 1:
            self.bytes(count)
            return LuaStorage(class_name, count, lambda: source.load(start, dtype, count))
        stop = self._end_of_numbers(count)
        return LuaStorage(class_name, count, lambda: _parse(source, start, stop, dtype, count))

    def _end_of_numbers(self, count: int) -> int:
        """Return the end of ``count`` numbers, and move the position behind the following newline."""
        text, start = self._text, self.position
        stop = text.find(b"\n", start, start + _LONGEST_NUMBER * count)
        if count and (stop < 0 or text.count(b" ", start, stop) != count - 1):  # another format than Torch7 writes
            stop = start
            for i in range(count):
                match = _TOKEN.match(text, stop)
                if match is None:
                    raise StreamError(f"truncated: expected {count} numbers, found {i}")
                stop = match.end()
        elif not count:
            return start
        if stop == self.size:
            raise StreamError("truncated: the file ends in the last number of a storage")
        self.position = min(stop + 1, self.size)
        return stop


def _quoted(token: bytes) -> str:
    return repr(token[:40].decode("latin-1"))


def _is_complete(text: bytes, values: np.ndarray) -> bool:
    """Return whether a text was parsed to its end: its last word is the last of the values."""
    if not len(values):
        return not text.strip()
    try:
        last = values.dtype.type(text[-_LONGEST_TOKEN:].split()[-1].decode("ascii"))
    except (ValueError, OverflowError, IndexError):
        return False
    return bool(last == values[-1] or last != last)


def _parse(source: Source, start: int, stop: int, dtype: np.dtype, count: int) -> np.ndarray:
    """Parse the elements of a storage."""
    wide = np.dtype(np.int64 if dtype.kind == "i" else np.float64)
    text = source.read(start, stop - start)
    try:
        values = np.fromstring(text, wide, sep=" ")
    except (ValueError, DeprecationWarning):
        values = np.empty(0)
    # until version 2.2, numpy only warns about an invalid number; catching warnings would affect other threads
    if len(values) == count and _is_complete(text, values):
        if b"-nan" in text:  # numpy ignores the sign
            values[[i for i, word in enumerate(text.split()) if word == b"-nan"]] = np.copysign(np.nan, -1)
        with np.errstate(over="ignore"):
            array = values.astype(dtype)
        if wide.kind == "f" or np.array_equal(array, values):
            return array
    raise T7FormatError(f"expected {count} elements of type {dtype}", offset=start, source=source.name)
