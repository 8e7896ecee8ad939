"""Read the primitive values of an ASCII .t7 stream.

The values are those of binary mode. Each is on its own line, and an array is one line of numbers with spaces between
them. Strings and the elements of Byte and Char storages are raw bytes, followed by a newline if there are any.
"""

from __future__ import annotations

import re

import numpy as np

from dpnn_bridge.errors import T7FormatError
from dpnn_bridge.loaders.source import Source
from dpnn_bridge.loaders.stream import Stream, StreamError
from dpnn_bridge.objects import LuaStorage, element_dtype

_TOKEN = re.compile(rb"\s*(\S+)")
#: Characters of a number and the blank after it; a longer search for the end of a line would not be linear.
_LONGEST_NUMBER = 64
_LONGEST_TOKEN = 4096
_INTEGER = re.compile(rb"[+-]?\d{1,19}")


class AsciiStream(Stream):
    """ASCII mode. The text is in memory while the structure is read; the elements of storages are parsed when used."""

    #: bytes that a pair of a table takes at least: an empty string as key, nil as value
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
        """Return the next word, wherever it ends, and the newline after it."""
        match = _TOKEN.match(self._text, self.position)
        if match is None:
            raise StreamError("truncated: a number expected, none left")
        stop = match.end()
        if stop == self.size:
            raise StreamError(f"truncated: the file ends in the number {_shown(match[1])}")
        self.position = stop + 1 if self._text[stop : stop + 1] == b"\n" else stop
        return match[1]

    def int(self) -> int:
        """Return a C ``int``."""
        start = self.position
        stop = self._text.find(b"\n", start, start + 10)
        line = self._text[start:stop]
        if stop >= 0 and line.isdigit():  # as Torch7 lays it out
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
            raise StreamError(f"{_shown(token)} where an integer is expected")
        return value

    def longs(self, count: int) -> tuple[int, ...]:
        """Return ``count`` C longs."""
        return tuple([self.long() for _ in range(count)])

    def double(self) -> float:
        """Return a C ``double``."""
        token = self._token()
        try:
            if b"_" in token:  # Python's own
                raise ValueError
            return float(token)
        except ValueError:
            raise StreamError(f"{_shown(token)} where a number is expected") from None

    def bytes(self, count: int) -> bytes:
        """Return ``count`` raw bytes."""
        if count < 0:
            raise StreamError(f"negative length {count}")
        if count > self.remaining:
            raise StreamError(f"truncated: {count} bytes expected, {self.remaining} left")
        start, stop = self.position, self.position + count
        self.position = stop + 1 if count and self._text[stop : stop + 1] == b"\n" else stop
        return self._text[start:stop]

    def string(self) -> bytes:
        """Read a length, and return that many bytes."""
        return self.bytes(self.int())

    def peek(self, count: int) -> bytes:
        """Return the next ``count`` bytes, to be read again."""
        start = self.position
        data = self.bytes(count)
        self.position = start
        return data

    def peek_int(self) -> int:
        """Return the next C ``int``, to be read again."""
        start = self.position
        value = self.int()
        self.position = start
        return value

    def count(self, least: int) -> int:
        """Read a long that counts things of at least ``least`` bytes each in binary mode, half of that here."""
        return self.check_count(self.long(), least // 2)

    def storage(self, class_name: str) -> LuaStorage:
        """Read a count, and return that many elements, which stay in the source until they are used."""
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
        """Return the end of ``count`` numbers; reading continues after the following newline."""
        text, start = self._text, self.position
        stop = text.find(b"\n", start, start + _LONGEST_NUMBER * count)
        if count and (stop < 0 or text.count(b" ", start, stop) != count - 1):  # not as Torch7 lays them out
            stop = start
            for i in range(count):
                match = _TOKEN.match(text, stop)
                if match is None:
                    raise StreamError(f"truncated: {count} numbers expected, {i} left")
                stop = match.end()
        elif not count:
            return start
        if stop == self.size:
            raise StreamError("truncated: the file ends in the last number of a storage")
        self.position = min(stop + 1, self.size)
        return stop


def _shown(token: bytes) -> str:
    return repr(token[:40].decode("latin-1"))


def _is_read(text: bytes, values: np.ndarray) -> bool:
    """Return whether the last number of a text is the last of these values, and not only begins with it."""
    if not len(values):
        return not text.strip()
    try:
        last = values.dtype.type(text[-_LONGEST_TOKEN:].split()[-1].decode("ascii"))
    except (ValueError, OverflowError, IndexError):
        return False
    return bool(last == values[-1] or last != last)


def _parse(source: Source, start: int, stop: int, dtype: np.dtype, count: int) -> np.ndarray:
    """Return the elements of a storage from their text."""
    wide = np.dtype(np.int64 if dtype.kind == "i" else np.float64)
    text = source.read(start, stop - start)
    try:
        values = np.fromstring(text, wide, sep=" ")
    except (ValueError, DeprecationWarning):
        values = np.empty(0)
    # numpy to 2.2 stops with a warning if it cannot continue; catching warnings would affect other threads
    if len(values) == count and _is_read(text, values):
        if b"-nan" in text:  # numpy drops its sign
            values[[i for i, word in enumerate(text.split()) if word == b"-nan"]] = np.copysign(np.nan, -1)
        with np.errstate(over="ignore"):
            array = values.astype(dtype)
        if wide.kind == "f" or np.array_equal(array, values):
            return array
    raise T7FormatError(f"{count} elements of type {dtype} expected", offset=start, source=source.name)
