"""Long tables of strings, numbers and booleans, read at once: vocabularies, counts, lists of file names.

A run is a sequence of pairs that take equally many bytes each: their keys are of one type, strings of one length, and
so are their values. numpy takes it apart. Strings of several lengths, with a number each or at indices that count up,
are read by a loop that does nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dpnn_bridge.loaders.reader import BOOLEAN, LARGEST_EXACT, NUMBER, STRING, number

#: Strings of fewer bytes are looked for.
SHORT = 256
#: Bytes of a pair of a string and a number beside those of the string.
_FRAME = 20
#: So many pairs of one length are worth an array.
_LEAST = 64
#: Where strings are of several lengths, an array is tried for every so many pieces of a run.
_TRIED_AGAIN = 16
#: So many of the first strings are looked at: where most occur once, none is kept to be found again.
_SAMPLE = 256


class Runs:
    """Reads runs of files of one byte order.

    Args:
        order: ``"<"`` or ``">"``.
        shared: gives the strings of bytes of which some occur elsewhere.
    """

    def __init__(self, order: str, shared: Callable[[Sequence[bytes]], list[str]]) -> None:
        self._shared = shared
        self._int, self._real = np.dtype(f"{order}i4"), np.dtype(f"{order}f8")
        self._layouts: dict[tuple[int, int, int, int], np.dtype] = {}
        self._varied = 0  # how often arrays need not be tried
        self._head = struct.Struct(f"{order}ii").unpack_from
        self._number = struct.Struct(f"{order}4xdii").unpack_from
        #: a string, the type code and number behind it, the head of what follows
        self._pairs = {n: struct.Struct(f"{order}8x{n}sidii").unpack_from for n in range(SHORT)}

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
        begun = left
        while left:
            key = self._kind(buffer, pos)
            value = key and self._kind(buffer, pos + _bytes(*key))
            if not key or not value or key[0] == BOOLEAN:
                break
            self._varied -= self._varied > 0
            count = 0 if self._varied else self._block(entries, left, buffer, pos, key, value)
            if count:
                pos, left = pos + count * (_bytes(*key) + _bytes(*value)), left - count
                continue
            if (key[0], value[0]) == (STRING, NUMBER):
                pos, count = self._words(entries, left, buffer, pos, key[1])
            elif (key[0], value[0]) == (NUMBER, STRING):
                pos, count = self._list(entries, left, buffer, pos)
            return pos, begun - left + count
        return pos, begun - left

    def _kind(self, buffer: bytes, pos: int) -> tuple[int, int] | None:
        """Type code of the value at ``pos``, and the length of a string; None where it is none that runs are of."""
        if pos + 8 > len(buffer):
            return None
        code, size = self._head(buffer, pos)
        if code == STRING:
            return (code, size) if 0 <= size < SHORT else None
        return (code, 0) if code in (NUMBER, BOOLEAN) else None

    def _block(
        self, entries: dict[Any, Any], left: int, buffer: bytes, pos: int, key: tuple[int, int], value: tuple[int, int]
    ) -> int:
        """Pairs that take equally many bytes; how many there were, 0 where they are few."""
        layout = self._layouts.get((*key, *value))
        if layout is None:
            sides = [("key", self._fields(*key)), ("value", self._fields(*value))]
            layout = self._layouts[(*key, *value)] = np.dtype(sides)
        most = min(left, (len(buffer) - pos - 8) // layout.itemsize)  # a head is looked at behind them
        for count in (_LEAST, most):
            if count > most:
                return 0
            found = np.frombuffer(buffer, layout, count, pos)
            fits = _fits(found["key"], *key) & _fits(found["value"], *value)
            if key[0] == NUMBER:
                fits &= found["key"]["data"] == found["key"]["data"]  # no nan
            if not fits[:_LEAST].all():
                self._varied = _TRIED_AGAIN
                return 0
        if not fits.all():
            found = found[: int(np.argmin(fits))]
        keys, values = self._values(found["key"], *key), self._values(found["value"], *value)
        entries.update(zip(keys, values, strict=True))
        return len(found)

    def _fields(self, code: int, size: int) -> list[tuple[str, Any]]:
        if code == STRING:
            return [("code", self._int), ("size", self._int), ("data", f"V{size}")]
        return [("code", self._int), ("data", self._real if code == NUMBER else self._int)]

    def _values(self, found: np.ndarray, code: int, size: int) -> list[Any]:
        data = found["data"]
        if code == BOOLEAN:
            return (data == 1).tolist()
        if code == NUMBER:
            return _numbers(data)
        lines = np.empty(len(data), [("string", f"V{size}"), ("end", "u1")])
        lines["string"], lines["end"] = data, ord("\n")
        raw = lines.tobytes()
        if raw.isascii():
            strings = raw.decode("ascii").split("\n")  # three times as fast as slices
            if len(strings) == len(data) + 1 and not _repeated(strings):
                return strings[:-1]
        return self._strings([raw[i : i + size] for i in range(0, len(raw), size + 1)])

    def _words(self, entries: dict[Any, Any], left: int, buffer: bytes, pos: int, size: int) -> tuple[int, int]:
        """Strings with numbers."""
        pairs, raws, numbers = self._pairs, [], []
        try:
            for _ in range(left):
                raw, kind, value, code, following = pairs[size](buffer, pos)
                if kind != NUMBER:
                    break
                raws.append(raw)
                numbers.append(value)
                pos += _FRAME + size
                size = following
                if code != STRING:
                    break
        except (struct.error, KeyError):  # the end of the window, or a long string
            pass
        entries.update(zip(self._strings(raws), _numbers(np.array(numbers, np.float64)), strict=True))
        return pos, len(raws)

    def _list(self, entries: dict[Any, Any], left: int, buffer: bytes, pos: int) -> tuple[int, int]:
        """Strings at indices that count up."""
        pairs, raws, begun = self._pairs, [], pos
        index, kind, size = self._number(buffer, pos)
        if not index.is_integer() or not 0 < index <= LARGEST_EXACT - left:
            return pos, 0
        first = int(index)
        try:
            for expected in range(first + 1, first + 1 + left):
                raw, code, index, kind, following = pairs[size](buffer, pos + 12)
                if code != NUMBER:
                    break
                raws.append(raw)
                pos += _FRAME + size
                size = following
                if kind != STRING or index != expected:
                    break
        except (struct.error, KeyError):
            pass
        entries.update(enumerate(self._strings(raws), first))
        return (pos, len(raws)) if raws else (begun, 0)

    def _strings(self, raws: list[bytes]) -> list[str]:
        return self._shared(raws) if _repeated(raws) else [raw.decode("utf-8", "surrogateescape") for raw in raws]


def _bytes(code: int, size: int) -> int:
    """How many bytes a value takes."""
    return 12 if code == NUMBER else 8 + size


def _fits(found: np.ndarray, code: int, size: int) -> np.ndarray:
    fits = found["code"] == code
    return fits & (found["size"] == size) if code == STRING else fits


def _numbers(values: np.ndarray) -> list[int | float]:
    """Lua numbers as ints where that says the same."""
    whole = (values == np.floor(values)) & (np.abs(values) <= LARGEST_EXACT) & ((values != 0) | ~np.signbit(values))
    if whole.all():
        return values.astype(np.int64).tolist()
    return list(map(number, values.tolist())) if whole.any() else values.tolist()


def _repeated(strings: Sequence[Any]) -> bool:
    """Whether strings seem to occur several times."""
    some = strings[:_SAMPLE]
    return len(set(some)) <= len(some) // 2
