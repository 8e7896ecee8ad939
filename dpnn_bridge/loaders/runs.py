"""Read long tables of strings, numbers and booleans with numpy, such as vocabularies, counts and lists of file names.

A run is a sequence of pairs in which all keys have one type and all values have one type. If all pairs have the same
number of bytes, numpy reads them as one array. If strings have several lengths, numpy searches for all positions where
a string of less than 256 bytes may begin. The strings that follow each other without a gap from the first pair on are
the run.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dpnn_bridge.loaders.primitives import BOOLEAN, LARGEST_EXACT, NUMBER, STRING, text

#: Runs contain only strings with fewer bytes.
SHORT = 256
#: Minimum number of pairs of equal size for an array, and of pairs with strings for a search.
MIN_PAIRS, _MIN_SEARCH = 64, 300
#: Number of first pairs that must have the same types for a search, and number of tables that are not searched after a
#: search without result.
_PROBED, _PAUSE = 8, 16
#: Maximum number of bytes of one search.
_LARGEST = 1 << 18
#: Bytes of a type code with a number or boolean, or with the length of a string.
_SIZES = {NUMBER: 12, BOOLEAN: 8, STRING: 8}
#: Maximum size of a pair in bytes.
_LONGEST = 2 * (_SIZES[STRING] + SHORT)
#: Number of strings of which at most half must be distinct, so that equal strings are shared.
_SAMPLE = 256

#: Type code of a value, and for a string its length, otherwise 0.
Type = tuple[int, int]
#: Keys, values, and the bytes that they take.
Pairs = tuple[Sequence[Any], Sequence[Any], int]


class Runs:
    """Reader of runs, for one byte order.

    Args:
        order: ``"<"`` or ``">"``.
        shared: returns the strings with equal strings replaced by one object.
    """

    def __init__(self, order: str, shared: Callable[[Sequence[str]], list[str]]) -> None:
        self._shared = shared
        self._head = struct.Struct(f"{order}ii").unpack_from
        self._int, self._real = np.dtype(f"{order}u4"), np.dtype(f"{order}f8")
        self._low = 3 if order == ">" else 0  # index of the low byte of a type code
        self._mark = np.frombuffer(bytes(i == self._low for i in range(8)), np.uint64)[0]  # mask for this byte
        self._layouts: dict[tuple[Type, Type], np.dtype] = {}
        self._pause = 0

    def read(self, entries: dict[Any, Any], left: int, buffer: bytes, pos: int) -> tuple[int, int]:
        """Add the pairs of a run at ``pos`` to a table; for a long run, or at the end of the window, only some of them.

        Args:
            entries: entries of the table.
            left: maximum number of pairs.
            buffer: window of the file.
            pos: position of the first pair.

        Returns:
            The position of the next pair, and the number of pairs that were read.
        """
        available = min(len(buffer) - 8 - pos, _LARGEST)  # 8 bytes for the head after a pair
        key = self._type_at(buffer, pos) if available > _LONGEST else None
        value = key and self._type_at(buffer, pos + _bytes(*key))
        if not key or not value or key[0] == BOOLEAN:
            return pos, 0
        found = self._equal_sizes(buffer, pos, available, left, key, value)
        if found is None and left >= _MIN_SEARCH and STRING in (key[0], value[0]):
            self._pause -= 1
            if self._pause < 0:
                found = self._several_sizes(buffer, pos, available, left, key[0], value[0])
                self._pause = 0 if found else _PAUSE
        if found is None:
            return pos, 0
        keys, values, used = found
        entries.update(zip(keys, values, strict=True))
        return pos + used, len(keys)

    def _type_at(self, buffer: bytes, pos: int) -> Type | None:
        """Return type code and length of the value at ``pos``; None for a value that runs do not contain."""
        code, size = self._head(buffer, pos)
        if code == STRING:
            return (code, size) if 0 <= size < SHORT else None
        return (code, 0) if code in _SIZES else None

    def _equal_sizes(self, buffer: bytes, pos: int, available: int, left: int, key: Type, value: Type) -> Pairs | None:
        """Return the pairs with the same number of bytes; None if there are too few."""
        first = _bytes(*key)
        pair = first + _bytes(*value)
        limit, last = min(left, available // pair), pos + (MIN_PAIRS - 1) * pair
        if limit < MIN_PAIRS or self._type_at(buffer, last) != key or self._type_at(buffer, last + first) != value:
            return None
        layout = self._layouts.get((key, value))
        if layout is None:
            fields = [("key", self._fields(*key)), ("value", self._fields(*value))]
            layout = self._layouts[key, value] = np.dtype(fields)
        found = np.frombuffer(buffer, layout, limit, pos)
        fits = _fits(found["key"], *key) & _fits(found["value"], *value)
        if key[0] == NUMBER:
            fits &= ~np.isnan(found["key"]["data"])
        if np.count_nonzero(fits) < limit:  # four times as fast as all(), and any() below
            found = found[: int(np.argmin(fits))]
            if len(found) < MIN_PAIRS:
                return None
        return self._column(found["key"], *key), self._column(found["value"], *value), found.nbytes

    def _fields(self, code: int, size: int) -> list[tuple[str, Any]]:
        if code == STRING:
            return [("code", self._int), ("size", self._int), ("data", f"V{size}")]
        return [("code", self._int), ("data", self._real if code == NUMBER else self._int)]

    def _column(self, found: np.ndarray, code: int, size: int) -> list[Any]:
        if code != STRING:
            return _python_values(found["data"], code)
        lines = np.empty(len(found), [("code", "u1"), ("string", f"V{size}")])
        lines["code"], lines["string"] = STRING, found["data"]
        strings = _texts(lines.view(np.uint8), len(found), lambda: [raw.tobytes() for raw in found["data"]])
        return self._deduplicated(strings)

    def _several_sizes(self, buffer: bytes, pos: int, available: int, left: int, key: int, value: int) -> Pairs | None:
        """Return the pairs of strings, or of a string with a number or boolean; None if there are too few."""
        size = self._size(buffer, pos, available, left, (key, value) * _PROBED)
        if not size:
            return None
        other = value if key == STRING else key
        gap = 0 if other == STRING else _SIZES[other]  # bytes between a string and the next string
        per_pair = 1 if gap else 2
        begin = pos + gap if key == NUMBER else pos  # position of the first string, from which positions are counted
        at, end = self._strings(buffer, begin, size - gap, gap, per_pair * left)
        count, others = len(at) // per_pair * per_pair, []
        if gap:
            other_at = pos + (at if key == NUMBER else end)
            fits = _at_every_byte(self._int, buffer)[other_at] == other
            data = _at_every_byte(self._real if other == NUMBER else self._int, buffer)[other_at + 4]
            if key == NUMBER:
                fits &= ~np.isnan(data)
            count = count if fits.all() else int(np.argmin(fits))
            others = _python_values(data[:count], other)
        if count < per_pair * MIN_PAIRS:
            return None
        at, end = at[:count], end[:count]
        strings = self._cut_out(buffer, begin, at, end, gap)
        used = int(end[-1]) + gap
        if not gap:
            return self._deduplicated(strings[::2]), self._deduplicated(strings[1::2]), used
        strings = self._deduplicated(strings)
        return (others, strings, used) if key == NUMBER else (strings, others, used)

    def _size(self, buffer: bytes, pos: int, available: int, left: int, codes: Sequence[int]) -> int:
        """Estimate the bytes of all pairs from the first pairs; return 0 if these have other types than ``codes``."""
        at = pos
        for code in codes:
            type_at = self._type_at(buffer, at) if at < pos + available else None
            if type_at is None or type_at[0] != code:
                return 0
            at += _bytes(*type_at)
        return min(available, (at - pos) * left // _PROBED * 5 // 4 + _LONGEST)

    def _strings(self, buffer: bytes, begin: int, size: int, gap: int, limit: int) -> tuple[np.ndarray, np.ndarray]:
        """Return starts and ends of consecutive strings with ``gap`` bytes between them, the first at ``begin``."""
        raw = np.frombuffer(buffer, np.uint8, size - 7, begin)
        at = np.flatnonzero(raw[self._low :] == STRING)
        heads = _at_every_byte(np.uint64, buffer, begin)[at].view(self._int)
        end = at + heads[1::2] + _SIZES[STRING]
        fits = (heads[::2] == STRING) & (heads[1::2] < SHORT) & (end <= size)
        at, end = at[fits], end[fits]
        linked = _linked(at, end + gap, limit)
        return at[linked], end[linked]

    def _cut_out(self, buffer: bytes, begin: int, at: np.ndarray, end: np.ndarray, gap: int) -> list[str]:
        """Decode the strings at these positions."""
        selected = np.ones(end[-1], bool)  # bytes of strings, and one byte of each head as a separator
        words = _at_every_byte(np.uint64, selected)
        words[at] = self._mark
        for start in {0: (), 8: (0,), 12: (0, 4)}[gap]:
            words[end[:-1] + start] = 0
        coded = np.frombuffer(buffer, np.uint8, len(selected), begin)[selected]
        first, last = at + begin + _SIZES[STRING], end + begin
        return _texts(coded, len(at), lambda: [buffer[i:j] for i, j in zip(first, last, strict=True)])

    def _deduplicated(self, strings: list[str]) -> list[str]:
        some = strings[:_SAMPLE]
        return self._shared(strings) if len(set(some)) <= len(some) // 2 else strings


def _bytes(code: int, size: int) -> int:
    """Return the number of bytes of a value."""
    return _SIZES[code] + size


def _fits(found: np.ndarray, code: int, size: int) -> np.ndarray:
    fits = found["code"] == code
    return fits & (found["size"] == size) if code == STRING else fits


def _at_every_byte(dtype: Any, buffer: Any, pos: int = 0) -> np.ndarray:
    """Return an overlapping view of the buffer: element i begins at byte i."""
    return np.ndarray((len(buffer) - pos - np.dtype(dtype).itemsize + 1,), dtype, buffer, pos, (1,))


def _linked(at: np.ndarray, following: np.ndarray, limit: int) -> Any:
    """Return the indices of consecutive values, the first of which begins at position 0.

    Args:
        at: sorted positions where a value may begin.
        following: for each of these values, the position where the next value begins.
        limit: maximum number of indices.
    """
    count = len(at)
    end = min(limit, count)
    if not count or at[0]:
        return slice(0)
    if np.array_equal(at[1:end], following[: end - 1]):
        return slice(end)
    successor = np.append(np.searchsorted(at, following), count)  # index of the next value, or count
    successor[:-1][at[np.minimum(successor[:-1], count - 1)] != following] = count
    reached = np.zeros(count + 1, bool)
    reached[0] = True
    for _ in range(count.bit_length()):  # pointer doubling: successors at a distance of 1, 2, 4, … values
        reached[successor[reached]] = True
        successor = successor[successor]
    return np.flatnonzero(reached[:count])[:limit]


def _texts(coded: np.ndarray, count: int, raws: Callable[[], list[bytes]]) -> list[str]:
    """Decode strings that are separated by the byte of their type code; if a string contains it, decode ``raws()``."""
    strings = text(coded[1:].tobytes()).split(chr(STRING))  # three times as fast as decoding each string
    return strings if len(strings) == count else [text(raw) for raw in raws()]


def _python_values(data: np.ndarray, code: int) -> list[Any]:
    """Convert an array to Python booleans, or to numbers that are ints if they are integral."""
    if code == BOOLEAN:
        return (data == 1).tolist()
    integral = data == np.floor(data)
    if not np.count_nonzero(integral):
        return data.tolist()
    integral &= (np.abs(data) <= LARGEST_EXACT) & ((data != 0) | ~np.signbit(data))
    if np.count_nonzero(integral) == len(data):
        return data.astype(np.int64).tolist()
    return [int(real) if is_int else real for real, is_int in zip(data.tolist(), integral.tolist(), strict=True)]
