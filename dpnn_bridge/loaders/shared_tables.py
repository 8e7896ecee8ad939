"""Reject files in which so many objects share one table of fields that copies of the fields would exhaust memory.

Torch7 writes a separate table for each object, and one of upvalues for each function. A file can refer to one table
from many objects or functions, so that a loop over the fields of all objects takes quadratic time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dpnn_bridge.loaders.stream import LimitError
from dpnn_bridge.objects import LuaTable

#: maximum total number of fields in shared tables, counted for each further object: constant part, and per object
FIXED_LIMIT, PER_OBJECT = 1 << 16, 16


class SharedTables:
    """Counter for the fields in tables that an object or function shares with earlier ones."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._fields = 0

    def check(self, payloads: Iterable[Any], objects: int) -> None:
        """Count the fields of further objects, and check the limit.

        Args:
            payloads: complete payloads of the objects; payloads that are not tables are ignored.
            objects: number of objects of the file so far.

        Raises:
            LimitError: the number of fields exceeds the limit.
        """
        for table in payloads:
            if not isinstance(table, LuaTable):
                continue
            if id(table) in self._seen:
                self._fields += len(table)
            self._seen.add(id(table))
        if self._fields > FIXED_LIMIT + PER_OBJECT * objects:
            raise LimitError(f"objects share tables so often that they have {self._fields:,} fields in total")
