"""Refuse tables whose keys were chosen to collide in Python's dict, before they cost quadratic time.

CPython hashes numbers without a secret, so a file can contain numbers for which a dict probes thousands of slots.
Therefore large tables are filled in parts. Before each part, the probes of the previous part are counted as CPython
makes them. Keys 1, 2, 3, … as in an array never collide and are not counted.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

from dpnn_bridge.loaders.stream import LimitError

#: so many entries cannot take long whatever their keys are
SAFE = 1 << 12
#: places that a dict may look at for each key on average; keys that nobody chose take two or three
MOST_PROBES = 32
#: a part and the entries before it have at most so many pairs, so that a part that collides ends soon
_PAIRS, _SMALLEST, _LARGEST = 1 << 26, 1 << 10, 1 << 13


class HashFloodGuard:
    """The places of a dict that are taken, as CPython (``lookdict`` in ``dictobject.c``) takes them.

    Attributes:
        numbers: how many keys so far may collide with others.
    """

    def __init__(self) -> None:
        self.numbers = 0
        self._seen = 0
        self._dense = True
        self._taken = bytearray()

    def check(self, keys: dict[Any, Any], more: int) -> None:
        """Raise when the keys of a dict, which is to grow by ``more``, collide.

        Raises:
            LimitError: they do.
        """
        count = len(keys)
        added = max(0, count - self._seen)
        if set(map(type, islice(reversed(keys), added))) <= {str}:  # whose hash has a secret
            self._dense = self._dense and not added
            self._seen = count
            return
        new = list(islice(reversed(keys), added))[::-1]
        self._dense = self._dense and new == list(range(self._seen + 1, count + 1))
        self._seen = count
        if self._dense:
            return
        if not self.numbers:
            new = keys
        new = [key for key in new if type(key) is not str]
        self.numbers += len(new)
        size = 8
        while size * 2 // 3 < count + more:
            size *= 2
        if size != len(self._taken):
            self._taken, new = bytearray(size), [key for key in keys if type(key) is not str]
        taken, mask, left = self._taken, size - 1, MOST_PROBES * len(new) + SAFE
        for key in new:
            rest = hash(key) & 0xFFFFFFFFFFFFFFFF
            place = rest & mask
            while taken[place]:
                rest >>= 5
                place = (place * 5 + rest + 1) & mask
                left -= 1
                if not left:
                    raise LimitError(f"the keys of a table of {count} entries were chosen to collide")
            taken[place] = 1


class Parts:
    """Large tables that are being filled.

    Attributes:
        open: identity of a dict -> how many entries are to come, and its places.
    """

    def __init__(self) -> None:
        self.open: dict[int, tuple[int, HashFloodGuard]] = {}

    def first(self, entries: dict[Any, Any], count: int) -> int:
        """Return how many entries of a table are read before the first call of :meth:`next`."""
        if count > SAFE:
            entries[0] = None  # a dict that had a key which is no string keeps the hashes beside the keys; others look
            del entries[0]  # for each in the string itself, anywhere in memory, which takes twice as long
            self.open[id(entries)] = count - SAFE, HashFloodGuard()
        return min(count, SAFE)

    def next(self, entries: dict[Any, Any]) -> int:
        """Return how many entries to read now; 0 if all were read.

        Raises:
            LimitError: the keys so far collide.
        """
        if id(entries) not in self.open:
            return 0
        left, guard = self.open.pop(id(entries))
        part = min(left, part_of(guard.numbers))
        guard.check(entries, part)
        if left:
            self.open[id(entries)] = left - part, guard
        return part


def part_of(count: int) -> int:
    """Return how many keys a dict may take before the next check, for a number of keys that may collide."""
    return max(_SMALLEST, min(_LARGEST, _PAIRS // max(count, 1)))
