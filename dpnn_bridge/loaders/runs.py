"""Long tables of strings, numbers and booleans, read at once: vocabularies, counts, lists of file names.

A run is a sequence of pairs whose keys are of one type, and so are their values. Pairs that take equally many bytes are
an array of numpy. Where strings are of several lengths, numpy finds whatever may be a string of less than 256 bytes:
those that follow each other without a gap, beginning with the one in the first pair, are the run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dpnn_bridge.loaders.reader import BOOLEAN, LARGEST_EXACT, NUMBER, STRING, number, text

#: Strings of fewer bytes are looked for.
SHORT = 256
#: So many pairs that take equally many bytes are worth an array; so many others, with strings, are worth a search.
LEAST, _MANY = 64, 400
#: Bytes that are looked at together: at least, and at most; twice what was a run before.
_SMALLEST, _LARGEST = 1 << 12, 1 << 17
#: Bytes of a type code with a number or boolean, or with the length of a string.
_SIZES = {NUMBER: 12, BOOLEAN: 8, STRING: 8}
#: No pair takes more.
_LONGEST = 2 * (_SIZES[STRING] + SHORT)
#: So many of the first strings are looked at: where most occur once, none is kept to be found again.
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
        self._int, self._real = np.dtype(f"{order}i4"), np.dtype(f"{order}f8")
        self._low = 3 if order == ">" else 0  # which byte of a type code is not 0
        self._head = np.frombuffer(bytes(i == self._low for i in range(8)), np.uint64)[0]  # that byte of a head
        self._layouts: dict[tuple[Kind, Kind], np.dtype] = {}
        self._piece = _SMALLEST

    def read(self, entries: dict[Any, Any], left: int, buffer: bytes, pos: int) -> tuple[int, int]:
        """Adds the pairs at ``pos``, as far as they are a run that ends before the window does.

        Args:
            entries: of the table.
            left: so many at most.
            buffer: the window.
            pos: where the first pair begins.

        Returns:
            Where the next pair begins, and how many were read.
        """
        begun, limit = left, len(buffer) - 8  # a head is looked at behind a pair
        while left and pos + _LONGEST < limit:
            key = self._kind(buffer, pos)
            value = key and self._kind(buffer, pos + _bytes(*key))
            if not key or not value or key[0] == BOOLEAN:
                break
            size = min(self._piece, limit - pos)
            found = self._equal(buffer, pos, size, left, key, value)
            if found is None and left >= _MANY and STRING in (key[0], value[0]):
                found = self._several(buffer, pos, size, left, key[0], value[0])
            if found is None:
                break
            keys, values, used = found
            entries.update(zip(keys, values, strict=True))
            pos, left = pos + used, left - len(keys)
            self._piece = min(max(2 * used, _SMALLEST), _LARGEST)
            if used + _LONGEST < size:  # something else follows
                break
        return pos, begun - left

    def _kind(self, buffer: bytes, pos: int) -> Kind | None:
        """Type code and length at ``pos``; None where it is no value that runs are of."""
        code, size = np.frombuffer(buffer, self._int, 2, pos).tolist()
        if code == STRING:
            return (code, size) if 0 <= size < SHORT else None
        return (code, 0) if code in _SIZES else None

    def _equal(self, buffer: bytes, pos: int, size: int, left: int, key: Kind, value: Kind) -> Pairs | None:
        """Pairs that take equally many bytes; None where they are few."""
        layout = self._layouts.get((key, value))
        if layout is None:
            sides = [("key", self._fields(*key)), ("value", self._fields(*value))]
            layout = self._layouts[key, value] = np.dtype(sides)
        most = min(left, size // layout.itemsize)
        for count in (LEAST, most):
            if count > most:
                return None
            found = np.frombuffer(buffer, layout, count, pos)
            fits = _fits(found["key"], *key) & _fits(found["value"], *value)
            if key[0] == NUMBER:
                fits &= ~np.isnan(found["key"]["data"])
            if not fits[:LEAST].all():
                return None
        if not fits.all():
            found = found[: int(np.argmin(fits))]
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

    def _several(self, buffer: bytes, pos: int, size: int, left: int, key: int, value: int) -> Pairs | None:
        """Pairs of strings, or of a string with a number or a boolean."""
        raw = np.frombuffer(buffer, np.uint8, size, pos)
        ints, reals = (_at_every_byte(t, buffer, size, pos) for t in (self._int, self._real))
        other = value if key == STRING else key
        gap = 0 if other == STRING else _SIZES[other]  # between a string and the next one
        first = 0 if key == STRING else gap

        at = np.flatnonzero(raw[self._low : size - 4] == STRING)
        at = at[(ints[at] == STRING) & (at >= first)]
        length = ints[at + 4]
        fits = (length >= 0) & (length < SHORT) & (at + length <= size - 8 - gap)
        at, end = at[fits], at[fits] + length[fits] + 8
        if gap:
            beside = at - gap if first else end
            fits = ints[beside] == other
            if first:
                fits &= ~np.isnan(reals[beside + 4])
            at, end = at[fits], end[fits]
        chosen = _linked(at, end + gap, first, left if gap else 2 * left)
        if not gap:
            chosen = chosen[: len(chosen) // 2 * 2]
        if not len(chosen):
            return None
        at, end = at[chosen], end[chosen]
        beside, used = at - gap if first else end, int(end[-1]) + gap - first

        kept = np.ones(used, bool)
        words = _at_every_byte(self._head.dtype, kept, used - 7)
        words[at] = self._head
        for start in {0: (), 8: (0,), 12: (0, 4)}[gap]:
            words[beside + start] = 0
        strings = _texts(
            raw[:used][kept], len(at), lambda: [buffer[i:j] for i, j in zip(at + pos + 8, end + pos, strict=True)]
        )
        if not gap:
            return self._kept(strings[::2]), self._kept(strings[1::2]), used
        others = _plain((reals if other == NUMBER else ints)[beside + 4], other)
        return (others, self._kept(strings), used) if first else (self._kept(strings), others, used)

    def _kept(self, strings: list[str]) -> list[str]:
        some = strings[:_SAMPLE]
        return self._shared(strings) if len(set(some)) <= len(some) // 2 else strings


def _bytes(code: int, size: int) -> int:
    """How many bytes a value takes."""
    return _SIZES[code] + size


def _fits(found: np.ndarray, code: int, size: int) -> np.ndarray:
    fits = found["code"] == code
    return fits & (found["size"] == size) if code == STRING else fits


def _at_every_byte(dtype: np.dtype, buffer: Any, count: int, pos: int = 0) -> np.ndarray:
    """What the elements are that begin at each byte."""
    return np.ndarray((count,), dtype, buffer, pos, (1,))


def _linked(at: np.ndarray, following: np.ndarray, first: int, most: int) -> np.ndarray:
    """Indices of the values that begin where the one before ends, from the one at ``first``.

    Args:
        at, following: where what may be values begin, in order, and where each has the next one begin.
        first: where the first one begins.
        most: how many are wanted.
    """
    begin, count = int(np.searchsorted(at, first)), len(at)
    if begin == count or at[begin] != first:
        return np.arange(0)
    end = min(begin + most, count)
    if np.array_equal(at[begin + 1 : end], following[begin : end - 1]):
        return np.arange(begin, end)
    hop = np.append(np.searchsorted(at, following), count)  # to the next one; count where there is none
    hop[:-1][at[np.minimum(hop[:-1], count - 1)] != following] = count
    reached = np.zeros(count + 1, bool)
    reached[begin] = True
    for _ in range(count.bit_length()):  # hops of 1, 2, 4, … values
        reached[hop[reached]] = True
        hop = hop[hop]
    return np.flatnonzero(reached[:count])[:most]


def _texts(coded: np.ndarray, count: int, raws: Callable[[], list[bytes]]) -> list[str]:
    """Strings with the byte of their type code before each; decoded one by one where one holds such a byte."""
    strings = text(coded.tobytes()).split(chr(STRING))[1:]  # three times as fast
    return strings if len(strings) == count else [text(raw) for raw in raws()]


def _plain(data: np.ndarray, code: int) -> list[Any]:
    """Booleans, and numbers as ints where that says the same."""
    if code == BOOLEAN:
        return (data == 1).tolist()
    whole = (data == np.floor(data)) & (np.abs(data) <= LARGEST_EXACT) & ((data != 0) | ~np.signbit(data))
    if whole.all():
        return data.astype(np.int64).tolist()
    return list(map(number, data.tolist())) if whole.any() else data.tolist()
