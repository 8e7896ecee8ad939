"""Classes that do not write themselves as one table: what their records hold, in one place.

Nearly every Lua class writes a single object, the table of its fields. The classes here have a ``read``/``write`` of
their own; a reader that does not know them loses its place in the stream. Register further ones with
:func:`register_framing`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ..errors import T7FormatError
from ..objects import LuaObject, LuaTable


@dataclass
class Follow:
    """Objects that stand in the stream next and belong to a record.

    Attributes:
        entries: where they go.
        count: number of values, or of key/value pairs.
        numbered: they have no keys of their own; they get 1, 2, …
        finish: called with ``entries`` when the last one has begun.
    """

    entries: dict[Any, Any]
    count: int
    numbered: bool = True
    finish: Callable[[dict[Any, Any]], None] | None = None


class Framing:
    """How one class writes its payload: raw values first, then objects."""

    def read(self, obj: LuaObject, stream: Any) -> Follow | None:
        """Read the raw values of ``obj`` from ``stream``; say which objects follow."""
        raise NotImplementedError

    def write(self, obj: LuaObject, stream: Any) -> Iterable[Any]:
        """Write the raw values of ``obj`` to ``stream``; return the objects that follow."""
        raise NotImplementedError


class Nothing(Framing):
    """No payload at all (``torch.Timer``)."""

    def read(self, obj: LuaObject, stream: Any) -> None:
        obj.payload = None

    def write(self, obj: LuaObject, stream: Any) -> tuple:
        return ()


class Long(Framing):
    """One C long (``tds.AtomicCounter``)."""

    def read(self, obj: LuaObject, stream: Any) -> None:
        obj.payload = stream.long()

    def write(self, obj: LuaObject, stream: Any) -> tuple:
        stream.long(obj.payload)
        return ()


class Pairs(Framing):
    """A long count and that many keys and values (``tds.Hash``); the payload is a table."""

    def read(self, obj: LuaObject, stream: Any) -> Follow:
        obj.payload = LuaTable()
        return Follow(obj.payload.entries, _count(obj, stream, 8), numbered=False)

    def write(self, obj: LuaObject, stream: Any) -> list[Any]:
        stream.long(len(obj.fields))
        return [x for pair in obj.fields.items() for x in pair]


class Items(Framing):
    """A long count and that many values (``tds.Vec``); the payload is a table with keys 1, 2, …"""

    def read(self, obj: LuaObject, stream: Any) -> Follow:
        obj.payload = LuaTable()
        return Follow(obj.payload.entries, _count(obj, stream, 4))

    def write(self, obj: LuaObject, stream: Any) -> list[Any]:
        stream.long(len(obj.fields))
        return list(obj.fields.values())


@dataclass
class Headed(Framing):
    """Objects before the table of fields (``nn.GPU``); they become the object's ``header``.

    Args:
        count: number of objects before the table.
        since: first version that writes them.
    """

    count: int = 1
    since: int = 0

    def read(self, obj: LuaObject, stream: Any) -> Follow:
        def finish(values: dict[Any, Any]) -> None:
            *header, obj.payload = values.values()
            obj.header = tuple(header)

        return Follow({}, 1 + (self.count if obj.version >= self.since else 0), finish=finish)

    def write(self, obj: LuaObject, stream: Any) -> tuple:
        return (*obj.header, obj.payload)


def _count(obj: LuaObject, stream: Any, least: int) -> int:
    count = stream.long()
    if not 0 <= count <= stream.remaining // least:
        raise T7FormatError(
            f"{obj.class_name} of {count} entries, but only {stream.remaining} bytes are left", offset=stream.position
        )
    return count


FRAMINGS: dict[str, Framing] = {
    "torch.Timer": Nothing(),
    "tds.Hash": Pairs(),
    "tds_hash": Pairs(),
    "tds.Vec": Items(),
    "tds_vec": Items(),
    "tds.AtomicCounter": Long(),
    "nn.GPU": Headed(),
    "nn.DataParallelTable": Headed(since=2),
}


def register_framing(class_name: str, framing: Framing) -> None:
    """Make the reader and the writer know a further class with its own ``read``/``write``.

    Raises:
        ValueError: the class has a framing already.
    """
    if class_name in FRAMINGS:
        raise ValueError(f"{class_name} has a framing already")
    FRAMINGS[class_name] = framing
