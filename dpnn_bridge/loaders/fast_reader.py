"""Read binary streams fast, without a function call per value.

:class:`FastReader` reads the same files as :class:`~.reader.Reader`, several times as fast. Files consist mostly of
numbers, strings and tables, and a function call for each would take longer than reading it. The base class reads other
values.

Each step of the loop unpacks the rest of one value together with the head of the next value, in one call of
:mod:`struct`. The head is the type code and the following four bytes: ``code`` and ``n`` are the head of the value at
``pos``, where ``n`` is the length of a string, the index of a table or object, or a boolean. The buffer contains a
window of the file. At the end of the window, ``struct.error`` is raised before any state changes. Then the window is
moved, and the step is repeated.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from dpnn_bridge.loaders.hash_flood import SAFE
from dpnn_bridge.loaders.primitives import BOOLEAN, LARGEST_EXACT, NUMBER, STRING, TABLE, TORCH, number, text
from dpnn_bridge.loaders.reader import NO_KEY, STEPS, Frame, Reader, resume, store, table_key
from dpnn_bridge.loaders.runs import MIN_PAIRS, SHORT, Runs
from dpnn_bridge.loaders.serializers import SERIALIZERS
from dpnn_bridge.loaders.stream import BinaryStream, StreamError
from dpnn_bridge.objects import LuaObject, LuaTable, element_dtype

#: Maximum number of cached strings, which are decoded only once; most files repeat a few hundred strings.
_MAX_CACHED = 100_000
#: Number of bytes that the window contains before a run is read; it is the maximum size of a run.
_LOOKAHEAD = 1 << 16


class _Unpackers:
    """Functions of :mod:`struct` for one byte order.

    All except ``head`` unpack from the type code of a value to the head of the next value.
    """

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


class _TableClasses(dict):
    """Cache: class name as bytes -> class name, if objects of the class are serialized as one table; otherwise None."""

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
        self._table_class = _TableClasses()
        self._runs = Runs(stream.order, self._shared)

    # one long loop on purpose: a function call for each value would take longer than reading the value
    @np.errstate(invalid="ignore")  # of signaling nans in runs
    def _read(self, stack: list[Frame]) -> Any:
        stream, memo, strings, table_class = self.stream, self.memo, self._strings, self._table_class
        unpack = _UNPACKERS[stream.order]
        head, unpack_number, unpack_boolean, unpack_table = unpack.head, unpack.number, unpack.boolean, unpack.table
        unpack_strings, unpack_version, unpack_classes = unpack.strings, unpack.version, unpack.classes
        cached, new = strings.get, object.__new__
        referenced, max_depth, next_check, chunks = self.referenced, self.max_depth, self.next_check, self.chunks
        count, low, high = self.count, -float(LARGEST_EXACT), float(LARGEST_EXACT)

        root: dict[Any, Any] = {}
        contents: Any = root  # dict of a table, or generator of a serializer
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
                            key = cached(raw)
                            if key is None:
                                key = text(raw)
                                if len(strings) < _MAX_CACHED:
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
                        value = cached(raw)
                        if value is None:
                            value = text(raw)
                            if len(strings) < _MAX_CACHED:
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
                                f"truncated or damaged: {size} entries, but only {end - pos} bytes are left"
                            )
                        value = new(LuaTable)
                        value.entries = entries = {}
                        if referenced:
                            memo[n] = value
                        count += 1
                        if count > next_check:
                            next_check = self.check_count(count)
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
                                    name = table_class[raw]
                        if name is None or not 0 < pairs * 12 <= end - pos:  # rare or damaged
                            stream.at, self.count = pos, count
                            value, frame = self.value()
                            code, n = stream.head(head)
                            buffer, pos, end, count = stream.buffer, stream.at, stream.size - stream.base, self.count
                            next_check = self.next_check
                        else:
                            value, table = new(LuaObject), new(LuaTable)
                            value.class_name, value.version, value.header, value.payload = name, 1, (), table
                            table.entries = entries = {}
                            if referenced:
                                memo[n], memo[index] = value, table
                            count += 2
                            if count > next_check:
                                next_check = self.check_count(count)
                            self._last_class = name
                            pos += 31 + size
                            code, n = following
                            frame = (entries, pairs, NO_KEY, value)

                    if frame is not None:
                        if len(stack) >= max_depth:
                            self.check_limits(len(stack), count)
                        stack.append((contents, left, key, owner))
                        contents, left, key, owner = frame
                        if left > MIN_PAIRS:
                            if left > SAFE:
                                left = chunks.first(contents, left)
                            pos, left = self._run(contents, left, pos)
                            buffer, end = stream.buffer, stream.size - stream.base
                            code, n = head(buffer, pos)
                        continue

                    while True:  # store the value in its owner; an owner that becomes complete is the next value
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
                            if chunks.open and (left := chunks.next(contents)):
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
        """Read the runs at the beginning of a long table, except the last pair of the table; move the window.

        Returns:
            The position of the next pair in the window, and the number of pairs left.
        """
        stream = self.stream
        while left > MIN_PAIRS:
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
        """Read a stream that ends within a value again with the base class, whose error message contains the value."""
        own = self.stream
        stream = BinaryStream(own.source, long_size=own.long_size, big_endian=own.order == ">")
        limits = {"max_depth": self.max_depth, "max_objects": self.max_objects}
        Reader(stream, referenced=self.referenced, **limits).read_all()
        raise StreamError("truncated")  # the file has grown in the meantime

    def _shared(self, strings: Sequence[str]) -> list[str]:
        """Replace equal strings by one object, which is cached."""
        unique = {value: value for value in set(strings)}
        for value in unique:
            raw = value.encode("utf-8", "surrogateescape")
            if raw in self._strings:
                unique[value] = self._strings[raw]
            elif len(self._strings) < _MAX_CACHED:
                self._strings[raw] = value
        return [unique[value] for value in strings]
