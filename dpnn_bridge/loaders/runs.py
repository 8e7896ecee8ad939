"""Read long tables of strings, numbers and booleans at once, such as vocabularies, counts and lists of file names.

A run is a sequence of pairs in which all keys have one type and all values have one type. If all pairs have the same
number of bytes, numpy reads them as one array. If strings have several lengths, numpy finds everything that may be a
string of less than 256 bytes. Those that follow each other without a gap, starting with the first pair, are the run.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dpnn_bridge.loaders.primitives import BOOLEAN, LARGEST_EXACT, NUMBER, STRING, text

#: Only strings with fewer bytes are searched for.
SHORT = 256
#: Minimum number of pairs for an array, if all have the same size in bytes; and for a search, if they contain strings.
LEAST, _MANY = 64, 300
#: A search begins after this many pairs of the same types. After a search without result, this many tables are skipped.
_ALIKE, _PAUSE = 8, 16
#: Maximum number of bytes that are searched at once.
_LARGEST = 1 << 18
#: Bytes of a type code with a number or boolean, or with the length of a string.
_SIZES = {NUMBER: 12, BOOLEAN: 8, STRING: 8}
#: Maximum size of a pair in bytes.
_LONGEST = 2 * (_SIZES[STRING] + SHORT)
#: Number of first strings that decide whether equal strings are shared: not if most of them occur once.
_SAMPLE = 256

#: Type code, and length of a string.
Kind = tuple[int, int]
#: Keys, values, and the bytes that they take.
Pairs = tuple[Sequence[Any], Sequence[Any], int]


class Runs:
    """Reads runs of files of one byte order.

    Args:
        order: ``"<"`` or ``">"``.
        shared: gives, for strings of which some occur elsewhere, those that are kept.
    """

    def __init__(self, order: str, shared: Callable[[Sequence[str]], list[str]]) -> None:
        self._shared = shared
        self._head = struct.Struct(f"{order}ii").unpack_from
        self._int, self._real = np.dtype(f"{order}u4"), np.dtype(f"{order}f8")
        self._low = 3 if order == ">" else 0  # which byte of a type code is not 0
        self._mark = np.frombuffer(bytes(i == self._low for i in range(8)), np.uint64)[0]  # that byte of a head
        self._layouts: dict[tuple[Kind, Kind], np.dtype] = {}
        self._pause = 0

    def read(self, entries: dict[Any, Any], left: int, buffer: bytes, pos: int) -> tuple[int, int]:
        """Add the pairs at ``pos``, as far as they are a run; some of it, where it is long or the window ends.

        Args:
            entries: of the table.
            left: maximum number of pairs.
            buffer: the window.
            pos: where the first pair begins.

        Returns:
            Where the next pair begins, and how many were read.
        """
        room = min(len(buffer) - 8 - pos, _LARGEST)  # the head after a pair is read too
        key = self._kind(buffer, pos) if room > _LONGEST else None
        value = key and self._kind(buffer, pos + _bytes(*key))
        if not key or not value or key[0] == BOOLEAN:
            return pos, 0
        found = self._equal(buffer, pos, room, left, key, value)
        if found is None and left >= _MANY and STRING in (key[0], value[0]):
            self._pause -= 1
            if self._pause < 0:
                found = self._several(buffer, pos, room, left, key[0], value[0])
                self._pause = 0 if found else _PAUSE
        if found is None:
            return pos, 0
        keys, values, used = found
        entries.update(zip(keys, values, strict=True))
        return pos + used, len(keys)

    def _kind(self, buffer: bytes, pos: int) -> Kind | None:
        """Return the type code and length at ``pos``; None for a value that runs do not contain."""
        code, size = self._head(buffer, pos)
        if code == STRING:
            return (code, size) if 0 <= size < SHORT else None
        return (code, 0) if code in _SIZES else None

    def _equal(self, buffer: bytes, pos: int, room: int, left: int, key: Kind, value: Kind) -> Pairs | None:
        """Return the pairs that take equally many bytes; None if they are few."""
        first = _bytes(*key)
        pair = first + _bytes(*value)
        most, last = min(left, room // pair), pos + (LEAST - 1) * pair
        if most < LEAST or self._kind(buffer, last) != key or self._kind(buffer, last + first) != value:
            return None
        layout = self._layouts.get((key, value))
        if layout is None:
            sides = [("key", self._fields(*key)), ("value", self._fields(*value))]
            layout = self._layouts[key, value] = np.dtype(sides)
        found = np.frombuffer(buffer, layout, most, pos)
        fits = _fits(found["key"], *key) & _fits(found["value"], *value)
        if key[0] == NUMBER:
            fits &= ~np.isnan(found["key"]["data"])
        if np.count_nonzero(fits) < most:  # four times as fast as all(), and any() below
            found = found[: int(np.argmin(fits))]
            if len(found) < LEAST:
                return None
        return self._column(found["key"], *key), self._column(found["value"], *value), found.nbytes

    def _fields(self, code: int, size: int) -> list[tuple[str, Any]]:
        if code == STRING:
            return [("code", self._int), ("size", self._int), ("data", f"V{size}")]
        return [("code", self._int), ("data", self._real if code == NUMBER else self._int)]

    def _column(self, found: np.ndarray, code: int, size: int) -> list[Any]:
        if code != STRING:
            return _plain(found["data"], code)
        lines = np.empty(len(found), [("code", "u1"), ("string", f"V{size}")])
        lines["code"], lines["string"] = STRING, found["data"]
        return self._kept(_texts(lines.view(np.uint8), len(found), lambda: [raw.tobytes() for raw in found["data"]]))

    def _several(self, buffer: bytes, pos: int, room: int, left: int, key: int, value: int) -> Pairs | None:
        """Return the pairs of strings, or of a string with a number or a boolean; None if they are few."""
        size = self._size(buffer, pos, room, left, (key, value) * _ALIKE)
        if not size:
            return None
        other = value if key == STRING else key
        gap = 0 if other == STRING else _SIZES[other]  # between a string and the next one
        per_pair = 1 if gap else 2
        begin = pos + gap if key == NUMBER else pos  # of the first string; positions count from here
        at, end = self._strings(buffer, begin, size - gap, gap, per_pair * left)
        count, others = len(at) // per_pair * per_pair, []
        if gap:
            beside = pos + (at if key == NUMBER else end)
            fits = _at_every_byte(self._int, buffer)[beside] == other
            data = _at_every_byte(self._real if other == NUMBER else self._int, buffer)[beside + 4]
            if key == NUMBER:
                fits &= ~np.isnan(data)
            count = count if fits.all() else int(np.argmin(fits))
            others = _plain(data[:count], other)
        if count < per_pair * LEAST:
            return None
        at, end = at[:count], end[:count]
        strings = self._cut_out(buffer, begin, at, end, gap)
        used = int(end[-1]) + gap
        if not gap:
            return self._kept(strings[::2]), self._kept(strings[1::2]), used
        strings = self._kept(strings)
        return (others, strings, used) if key == NUMBER else (strings, others, used)

    def _size(self, buffer: bytes, pos: int, room: int, left: int, codes: Sequence[int]) -> int:
        """Estimate the bytes of the pairs from the first ones; 0 if these have other types."""
        at = pos
        for code in codes:
            kind = self._kind(buffer, at) if at < pos + room else None
            if kind is None or kind[0] != code:
                return 0
            at += _bytes(*kind)
        return min(room, (at - pos) * left // _ALIKE * 5 // 4 + _LONGEST)

    def _strings(self, buffer: bytes, begin: int, size: int, gap: int, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Return starts and ends of the strings that follow each other, ``gap`` bytes apart, from ``begin``."""
        raw = np.frombuffer(buffer, np.uint8, size - 7, begin)
        at = np.flatnonzero(raw[self._low :] == STRING)
        heads = _at_every_byte(np.uint64, buffer, begin)[at].view(self._int)
        end = at + heads[1::2] + _SIZES[STRING]
        fits = (heads[::2] == STRING) & (heads[1::2] < SHORT) & (end <= size)
        at, end = at[fits], end[fits]
        linked = _linked(at, end + gap, most)
        return at[linked], end[linked]

    def _cut_out(self, buffer: bytes, begin: int, at: np.ndarray, end: np.ndarray, gap: int) -> list[str]:
        """Return the strings at these positions, decoded."""
        kept = np.ones(end[-1], bool)
        words = _at_every_byte(np.uint64, kept)
        words[at] = self._mark
        for start in {0: (), 8: (0,), 12: (0, 4)}[gap]:
            words[end[:-1] + start] = 0
        coded = np.frombuffer(buffer, np.uint8, len(kept), begin)[kept]
        first, last = at + begin + _SIZES[STRING], end + begin
        return _texts(coded, len(at), lambda: [buffer[i:j] for i, j in zip(first, last, strict=True)])

    def _kept(self, strings: list[str]) -> list[str]:
        some = strings[:_SAMPLE]
        return self._shared(strings) if len(set(some)) <= len(some) // 2 else strings


def _bytes(code: int, size: int) -> int:
    """Return the number of bytes of a value."""
    return _SIZES[code] + size


def _fits(found: np.ndarray, code: int, size: int) -> np.ndarray:
    fits = found["code"] == code
    return fits & (found["size"] == size) if code == STRING else fits


def _at_every_byte(dtype: Any, buffer: Any, pos: int = 0) -> np.ndarray:
    """Return the elements that start at each byte."""
    return np.ndarray((len(buffer) - pos - np.dtype(dtype).itemsize + 1,), dtype, buffer, pos, (1,))


def _linked(at: np.ndarray, following: np.ndarray, most: int) -> Any:
    """Return the indices of the values that begin where the one before ends, from the one at 0.

    Args:
        at, following: where what may be values begin, in order, and where each has the next one begin.
        most: how many are wanted.
    """
    count = len(at)
    end = min(most, count)
    if not count or at[0]:
        return slice(0)
    if np.array_equal(at[1:end], following[: end - 1]):
        return slice(end)
    hop = np.append(np.searchsorted(at, following), count)  # to the next one; count where there is none
    hop[:-1][at[np.minimum(hop[:-1], count - 1)] != following] = count
    reached = np.zeros(count + 1, bool)
    reached[0] = True
    for _ in range(count.bit_length()):  # hops of 1, 2, 4, … values
        reached[hop[reached]] = True
        hop = hop[hop]
    return np.flatnonzero(reached[:count])[:most]


def _texts(coded: np.ndarray, count: int, raws: Callable[[], list[bytes]]) -> list[str]:
    """Decode strings that are separated by type codes; one by one if a string contains such a byte."""
    strings = text(coded[1:].tobytes()).split(chr(STRING))  # three times as fast
    return strings if len(strings) == count else [text(raw) for raw in raws()]


def _plain(data: np.ndarray, code: int) -> list[Any]:
    """Return booleans, and numbers as ints if they are integral."""
    if code == BOOLEAN:
        return (data == 1).tolist()
    whole = data == np.floor(data)
    if not np.count_nonzero(whole):
        return data.tolist()
    whole &= (np.abs(data) <= LARGEST_EXACT) & ((data != 0) | ~np.signbit(data))
    if np.count_nonzero(whole) == len(data):
        return data.astype(np.int64).tolist()
    return [int(real) if same else real for real, same in zip(data.tolist(), whole.tolist(), strict=True)]
