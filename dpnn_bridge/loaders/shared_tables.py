"""Refuse files whose objects share a table of fields so often that a copy of the fields for each would exhaust memory.

Torch7 writes a new table for each object, and copies the fields of the table that it reads. A file may refer to one
table from many objects: what looks at every field of every object takes quadratic time and memory for such a file.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dpnn_bridge.loaders.stream import LimitError
from dpnn_bridge.objects import LuaTable

#: fields of shared tables, counted for each further object: always, and for each object of the file
ALWAYS, PER_OBJECT = 1 << 16, 16


class SharedTables:
    """Counts the fields that objects have in common with objects before them."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._fields = 0

    def check(self, payloads: Iterable[Any], objects: int) -> None:
        """Count the tables of more objects.

        Args:
            payloads: what the objects contain, complete; values that are not tables do not count.
            objects: number of objects of the file so far.

        Raises:
            LimitError: there are too many such fields.
        """
        for table in payloads:
            if not isinstance(table, LuaTable):
                continue
            if id(table) in self._seen:
                self._fields += len(table)
            self._seen.add(id(table))
        if self._fields > ALWAYS + PER_OBJECT * objects:
            raise LimitError(f"objects share their tables so often that together they have {self._fields:,} fields")
