"""Read binary streams fast, with the primitives inlined.

This class reads the same files as :class:`~.reader.Reader`, several times faster. Most of a file is numbers, strings
and tables, and a function call for each costs more than reading it. The base class reads all rare values.

Each step of the loop unpacks the rest of one value together with the head of the next value, its type code and the
following four bytes, so that one call of :mod:`struct` reads both. ``code`` and ``n`` are always the head of the value
at ``pos``. ``n`` is the length of a string, the index of a table or object, or a boolean. At the end of the window over
the file, ``struct.error`` is raised before any state changes. Then the window moves, and the step is repeated.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from dpnn_bridge.loaders.hash_flood import SAFE
from dpnn_bridge.loaders.primitives import BOOLEAN, LARGEST_EXACT, NUMBER, STRING, TABLE, TORCH, number, text
from dpnn_bridge.loaders.reader import NO_KEY, STEPS, Frame, Reader, resume, store, table_key
from dpnn_bridge.loaders.runs import LEAST, SHORT, Runs
from dpnn_bridge.loaders.serializers import SERIALIZERS
from dpnn_bridge.loaders.stream import BinaryStream, StreamError
from dpnn_bridge.objects import LuaObject, LuaTable, element_dtype

#: Strings that are decoded and kept only once; most files repeat a few hundred.
_KEPT_STRINGS = 100_000
#: A run this close to the end of the window continues in the next one; this many bytes contain the longest run.
_LOOKAHEAD = 1 << 16


class _Unpackers:
    """For one byte order. All but ``head`` begin at a type code and end with the head of the next value."""

    def __init__(self, order: str) -> None:
        self.head = struct.Struct(f"{order}ii").unpack_from
        self.number = struct.Struct(f"{order}4xdii").unpack_from
        self.boolean = struct.Struct(f"{order}8xii").unpack_from
        self.table = struct.Struct(f"{order}8xiii").unpack_from  # number of pairs, head
        self.strings = {n: struct.Struct(f"{order}8x{n}sii").unpack_from for n in range(SHORT)}
        #: length of the version, the version, length of the class name
        self.version = struct.Struct(f"{order}8xi3si").unpack_from
        #: class name, head of a table, number of its pairs, head
        self.classes = [struct.Struct(f"{order}19x{n}siiiii").unpack_from for n in range(SHORT)]


_UNPACKERS = {"<": _Unpackers("<"), ">": _Unpackers(">")}


class _PlainClasses(dict):
    """Names by their bytes of the classes that write one table; None for others."""

    def __missing__(self, raw: bytes) -> str | None:
        name = text(raw)
        value = self[raw] = None if name in SERIALIZERS or element_dtype(name) is not None else name
        return value


class FastReader(Reader):
    """:class:`Reader` for a :class:`BinaryStream`."""

    stream: BinaryStream

    def __init__(self, stream: BinaryStream, **options: Any) -> None:
        super().__init__(stream, **options)
        self._strings: dict[bytes, str] = {}
        self._plain = _PlainClasses()
        self._runs = Runs(stream.order, self._shared)

    # one long loop on purpose: a function call for each value would take longer than reading the value
    @np.errstate(invalid="ignore")  # of signaling nans in runs
    def _read(self, stack: list[Frame]) -> Any:
        stream, memo, strings, plain = self.stream, self.memo, self._strings, self._plain
        unpack = _UNPACKERS[stream.order]
        head, unpack_number, unpack_boolean, unpack_table = unpack.head, unpack.number, unpack.boolean, unpack.table
        unpack_strings, unpack_version, unpack_classes = unpack.strings, unpack.version, unpack.classes
        known, new = strings.get, object.__new__
        referenced, max_depth, looked_at, parts = self.referenced, self.max_depth, self.looked_at, self.parts
        count, low, high = self.count, -float(LARGEST_EXACT), float(LARGEST_EXACT)

        root: dict[Any, Any] = {}
        contents: Any = root  # the dict of a table, or the steps of a serializer
        left, key, owner = 1, 1, None
        code, n = stream.head(head)
        buffer, pos, end = stream.buffer, stream.at, stream.size - stream.base
        while True:
            try:
                while True:
                    if key is NO_KEY:
                        if code == STRING and n in unpack_strings:
                            raw, code, following = unpack_strings[n](buffer, pos)
                            pos += 8 + n
                            n = following
                            key = known(raw)
                            if key is None:
                                key = text(raw)
                                if len(strings) < _KEPT_STRINGS:
                                    strings[raw] = key
                        elif code == NUMBER:
                            value, code, n = unpack_number(buffer, pos)
                            pos += 12
                            key = int(value) if value.is_integer() and 0 < value <= high else table_key(number(value))
                    frame = None
                    if code == STRING and n in unpack_strings:
                        raw, code, following = unpack_strings[n](buffer, pos)
                        pos += 8 + n
                        n = following
                        value = known(raw)
                        if value is None:
                            value = text(raw)
                            if len(strings) < _KEPT_STRINGS:
                                strings[raw] = value
                    elif code == NUMBER:
                        value, code, n = unpack_number(buffer, pos)
                        pos += 12
                        if value.is_integer():
                            value = int(value) if value and low <= value <= high else number(value)
                    elif code == BOOLEAN:
                        value = n == 1
                        code, n = unpack_boolean(buffer, pos)
                        pos += 8
                    elif code == TABLE and n not in memo:
                        size, code, following = unpack_table(buffer, pos)
                        if not 0 <= size * 12 <= end - pos:
                            raise StreamError(
                                f"truncated or damaged: {size} entries announced, but only {end - pos} bytes are left"
                            )
                        value = new(LuaTable)
                        value.entries = entries = {}
                        if referenced:
                            memo[n] = value
                        count += 1
                        if count > looked_at:
                            looked_at = self.check_count(count)
                        pos += 12
                        n = following
                        if size:
                            frame = (entries, size, NO_KEY, value)
                    elif code == TABLE or (code == TORCH and n in memo):
                        value = memo[n]
                        self.check_reference(code, value)
                        code, n = head(buffer, pos + 8)
                        pos += 8
                    else:
                        name = None
                        if code == TORCH and n not in memo:
                            length, version, size = unpack_version(buffer, pos)
                            if length == 3 and version == b"V 1" and 0 <= size < SHORT:
                                raw, table, index, pairs, *following = unpack_classes[size](buffer, pos)
                                if table == TABLE and index not in memo:
                                    name = plain[raw]
                        if name is None or not 0 < pairs * 12 <= end - pos:  # rare or damaged
                            stream.at, self.count = pos, count
                            value, frame = self.value()
                            code, n = stream.head(head)
                            buffer, pos, end, count = stream.buffer, stream.at, stream.size - stream.base, self.count
                            looked_at = self.looked_at
                        else:
                            value, table = new(LuaObject), new(LuaTable)
                            value.class_name, value.version, value.header, value.payload = name, 1, (), table
                            table.entries = entries = {}
                            if referenced:
                                memo[n], memo[index] = value, table
                            count += 2
                            if count > looked_at:
                                looked_at = self.check_count(count)
                            self._last_class = name
                            pos += 31 + size
                            code, n = following
                            frame = (entries, pairs, NO_KEY, value)

                    if frame is not None:
                        if len(stack) >= max_depth:
                            self.check_limits(len(stack), count)
                        stack.append((contents, left, key, owner))
                        contents, left, key, owner = frame
                        if left > LEAST:
                            if left > SAFE:
                                left = parts.first(contents, left)
                            pos, left = self._run(contents, left, pos)
                            buffer, end = stream.buffer, stream.size - stream.base
                            code, n = head(buffer, pos)
                        continue

                    while True:  # hand the complete value to its owner, and an owner that it completes to the next one
                        if key is NO_KEY:
                            key = table_key(value)
                            break
                        if key is STEPS:
                            stream.at = pos
                            more = resume(contents, value)
                            code, n = stream.head(head)
                            buffer, pos, end = stream.buffer, stream.at, stream.size - stream.base
                            if more:
                                break
                        else:
                            if value is None:
                                store(contents, key, None)
                            else:
                                contents[key] = value
                            key = NO_KEY
                            left -= 1
                            if left:
                                break
                            if parts.open and (left := parts.next(contents)):
                                pos, left = self._run(contents, left, pos)
                                buffer, end = stream.buffer, stream.size - stream.base
                                code, n = head(buffer, pos)
                                break
                        if not stack:
                            if pos > end:
                                self._read_truncated()
                            stream.at, self.count = pos, count
                            return root.get(1)
                        value = owner
                        contents, left, key, owner = stack.pop()
            except struct.error:
                stream.at = pos
                stream.refill(4)
                buffer, pos, end = stream.buffer, 0, stream.size - stream.base
            except StreamError:
                self._start = stream.base + pos
                stack.append((contents, left, key, owner))
                raise

    def _run(self, entries: dict[Any, Any], left: int, pos: int) -> tuple[int, int]:
        """Read the pairs of a long table that are a run, but not the last one; the window moves on.

        Returns:
            Where the next pair begins in the window, and how many pairs are left.
        """
        stream = self.stream
        while left > LEAST:
            if pos + _LOOKAHEAD > len(stream.buffer) and stream.base + len(stream.buffer) < stream.size:
                stream.at = pos
                stream.refill(min(_LOOKAHEAD, stream.remaining))
                pos = 0
            pos, count = self._runs.read(entries, left - 1, stream.buffer, pos)
            if not count:
                break
            left -= count
        return pos, left

    def _read_truncated(self) -> NoReturn:
        """Read a stream whose last value reaches into the padding with the base class, which names that value."""
        ours = self.stream
        stream = BinaryStream(ours.source, long_size=ours.long_size, big_endian=ours.order == ">")
        limits = {"max_depth": self.max_depth, "max_objects": self.max_objects}
        Reader(stream, referenced=self.referenced, **limits).read_all()
        raise StreamError("truncated")  # the file has grown since

    def _shared(self, strings: Sequence[str]) -> list[str]:
        """Decode strings, each distinct string once."""
        kept = {value: value for value in set(strings)}
        for value in kept:
            raw = value.encode("utf-8", "surrogateescape")
            if raw in self._strings:
                kept[value] = self._strings[raw]
            elif len(self._strings) < _KEPT_STRINGS:
                self._strings[raw] = value
        return [kept[value] for value in strings]
