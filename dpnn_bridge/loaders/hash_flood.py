"""Reject tables whose keys were chosen to collide in Python's dict, before they take quadratic time.

CPython hashes numbers without a random seed, so a file can contain numbers for which a dict probes thousands of slots.
Therefore large tables are filled in chunks. Before each chunk, the probes that CPython needed for the previous chunk
are counted. The keys 1, 2, 3, … of an array never collide and are not counted.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

from dpnn_bridge.loaders.stream import LimitError

#: number of entries of a table that takes little time even if all keys collide
SAFE = 1 << 12
#: maximum number of probed slots per key on average; random keys need two or three
MAX_PROBES = 32
#: limits for the time of collisions in a chunk: maximum product of its size and of the number of entries before it, and
#: minimum and maximum size
_PAIRS, _SMALLEST, _LARGEST = 1 << 26, 1 << 10, 1 << 13


class HashFloodGuard:
    """Simulation of the used slots of a dict, with the probing of CPython (``lookdict`` in ``dictobject.c``).

    Attributes:
        numbers: number of keys so far that are not strings and may collide.
    """

    def __init__(self) -> None:
        self.numbers = 0
        self._seen = 0
        self._dense = True
        self._used = bytearray()
        self._spare = SAFE  # probes beyond MAX_PROBES per key, of all checks together: entries may be added one by one

    def check(self, keys: dict[Any, Any], more: int) -> None:
        """Check the keys of a dict before ``more`` entries are added.

        Raises:
            LimitError: the keys collide too often.
        """
        count = len(keys)
        added = max(0, count - self._seen)
        if set(map(type, islice(reversed(keys), added))) <= {str}:  # hashes of strings have a random seed
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
        if size != len(self._used):
            self._used, new = bytearray(size), [key for key in keys if type(key) is not str]
        used, mask, probes_left = self._used, size - 1, MAX_PROBES * len(new) + self._spare
        for key in new:
            perturb = hash(key) & 0xFFFFFFFFFFFFFFFF
            slot = perturb & mask
            while used[slot]:
                perturb >>= 5
                slot = (slot * 5 + perturb + 1) & mask
                probes_left -= 1
                if not probes_left:
                    raise LimitError(f"the keys of a table of {count} entries were chosen to collide")
            used[slot] = 1
        self._spare = min(probes_left, SAFE)


class Memo(dict[int, Any]):
    """The memo of a pickle: id -> object. Pickle counts the objects, so an id is no larger than about their number."""

    def __setitem__(self, number: int, value: Any) -> None:
        if not 0 <= number <= 2 * len(self) + SAFE:
            raise LimitError(f"object {len(self) + 1} of the pickle has the id {number}; ids count the objects")
        super().__setitem__(number, value)


class Chunks:
    """Chunks of the large tables that are being filled.

    Attributes:
        open: ``id`` of a dict -> number of remaining entries, and guard of the dict.
    """

    def __init__(self) -> None:
        self.open: dict[int, tuple[int, HashFloodGuard]] = {}

    def first(self, entries: dict[Any, Any], count: int) -> int:
        """Return the number of entries to read before the first call of :meth:`next`."""
        if count > SAFE:
            # a dict that once had a key other than a string stores the hashes of its keys. Other dicts read each hash
            # from the string object, which takes twice as long
            entries[0] = None
            del entries[0]
            self.open[id(entries)] = count - SAFE, HashFloodGuard()
        return min(count, SAFE)

    def next(self, entries: dict[Any, Any]) -> int:
        """Check the keys so far, and return the number of entries to read next; 0 if all were read.

        Raises:
            LimitError: the keys collide too often.
        """
        if id(entries) not in self.open:
            return 0
        left, guard = self.open.pop(id(entries))
        chunk = min(left, chunk_size(guard.numbers))
        guard.check(entries, chunk)
        if left:
            self.open[id(entries)] = left - chunk, guard
        return chunk


def chunk_size(count: int) -> int:
    """Return the number of entries to read before the next check, from the number of keys that may collide."""
    return max(_SMALLEST, min(_LARGEST, _PAIRS // max(count, 1)))
