"""Long tables of strings, read at once: vocabularies, lists of file names.

A run is a sequence of pairs of a string and a number, or of an index and a string where the indices count up. Where the
strings are of one length, numpy takes the run apart; elsewhere a loop that does nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dpnn_bridge.loaders.reader import LARGEST_EXACT, NUMBER, STRING, number

#: Strings of fewer bytes are looked for.
SHORT = 256
#: Bytes of a pair beside those of its string.
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
        self._order, self._shared = order, shared
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
        while left and pos + 16 <= len(buffer):
            code, size = self._head(buffer, pos)
            if code == NUMBER:
                _, kind, size = self._number(buffer, pos) if pos + 20 <= len(buffer) else (0, 0, 0)
                code = 0 if kind != STRING else code
            if code not in (STRING, NUMBER) or not 0 <= size < SHORT:
                break
            self._varied -= self._varied > 0
            count = 0 if self._varied else self._block(entries, left, buffer, pos, size, code == STRING)
            self._varied = self._varied or (0 if count else _TRIED_AGAIN)
            if count:
                pos, left = pos + count * (_FRAME + size), left - count
                continue
            end, count = (self._words if code == STRING else self._list)(entries, left, buffer, pos, size)
            return end, begun - left + count
        return pos, begun - left

    def _block(self, entries: dict[Any, Any], left: int, buffer: bytes, pos: int, size: int, words: bool) -> int:
        """Pairs whose strings have ``size`` bytes; 0 where they are few, or their strings are not ASCII."""
        fields = [("code", "i4"), ("size", "i4"), ("string", f"V{size}"), ("kind", "i4"), ("number", "f8")]
        fields = fields if words else [*fields[3:], *fields[:3]]
        layout = np.dtype([(name, self._order + kind if kind[0] != "V" else kind) for name, kind in fields])
        for most in (_LEAST, left):
            count = min(most, left, (len(buffer) - pos - 8) // layout.itemsize)  # a head is looked at behind them
            if count < _LEAST:
                return 0
            found = np.frombuffer(buffer, layout, count, pos)
            fits = (found["code"] == STRING) & (found["size"] == size) & (found["kind"] == NUMBER)
            numbers = found["number"]
            if words:
                fits &= (numbers > 0) & (numbers <= LARGEST_EXACT) & (numbers == np.floor(numbers))
            else:
                fits &= (numbers == numbers[0] + np.arange(count)) & (numbers > 0) & (numbers < LARGEST_EXACT)
                fits &= numbers[0] == np.floor(numbers[0])
            if not fits[:_LEAST].all():
                return 0
        count = count if fits.all() else int(np.argmin(fits))
        data = found["string"][:count].tobytes()
        if not size or not data.isascii():
            return 0
        text = data.decode("ascii")
        strings = [text[i : i + size] for i in range(0, len(text), size)]
        if _repeated(strings):
            return 0
        values = found["number"][:count].astype(np.int64).tolist()
        entries.update(zip(strings, values, strict=True) if words else zip(values, strings, strict=True))
        return count

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
        entries.update(zip(self._strings(raws), map(number, numbers), strict=True))
        return pos, len(raws)

    def _list(self, entries: dict[Any, Any], left: int, buffer: bytes, pos: int, size: int) -> tuple[int, int]:
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


def _repeated(strings: Sequence[Any]) -> bool:
    """Whether strings seem to occur several times."""
    some = strings[:_SAMPLE]
    return len(set(some)) <= len(some) // 2
