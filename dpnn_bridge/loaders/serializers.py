"""Read and write classes whose objects are not stored as one table.

Most Lua classes write a single object, the table of their fields. The classes in this file have their own ``read`` and
``write`` methods in Lua, and a file cannot be read without the same code. ``yield`` corresponds to
``file:readObject()`` or ``file:writeObject(x)``; the methods of ``file`` read or write raw values.

Register another class with :func:`register_serializer`.
"""

from __future__ import annotations

import struct
from collections.abc import Generator
from typing import Any

from dpnn_bridge.errors import LuaValueError
from dpnn_bridge.loaders.hash_flood import SAFE, HashFloodGuard, chunk_size
from dpnn_bridge.loaders.stream import StreamError
from dpnn_bridge.objects import LuaObject, LuaTable

Reading = Generator[None, Any, None]
Writing = Generator[Any, None, None]


class Serializer:
    """The serialization of a class. The base class is the default: a single object, the table of fields.

    ``file`` has the methods ``int``, ``long``, ``double``, ``bytes`` and ``string``. For reading they have no argument
    (``bytes``: the count), and for writing they have the value as argument.
    """

    def read(self, obj: LuaObject, file: Any) -> Reading:
        """Fill ``obj``; each ``yield`` returns the next object of the stream."""
        obj.payload = yield

    def write(self, obj: LuaObject, file: Any) -> Writing:
        """Write ``obj``; each yielded object is written."""
        yield obj.payload


class Timer(Serializer):
    """``torch.Timer`` writes nothing."""

    def read(self, obj: LuaObject, file: Any) -> Reading:
        yield from ()

    def write(self, obj: LuaObject, file: Any) -> Writing:
        yield from ()


class RandomGenerator(Serializer):
    """``torch.Generator``: the bytes of TH's ``THGenerator`` struct, whose size depends on the machine.

    The state of the Mersenne twister, from byte 24, is 624 ``unsigned long``, all below 2^32: the struct has 5048
    bytes where a long has 8, and 2544 where it has 4.
    """

    def read(self, obj: LuaObject, file: Any) -> Reading:
        yield from ()
        halves = struct.unpack("16I", file.peek(24 + 64)[24:])
        wide = not any(halves[0::2]) or not any(halves[1::2])
        obj.payload = file.bytes(5048 if wide else 2544)

    def write(self, obj: LuaObject, file: Any) -> Writing:
        yield from ()
        file.bytes(obj.payload)


class AtomicCounter(Serializer):
    """``tds.AtomicCounter``: its value."""

    def read(self, obj: LuaObject, file: Any) -> Reading:
        yield from ()
        obj.payload = file.long()

    def write(self, obj: LuaObject, file: Any) -> Writing:
        yield from ()
        file.long(obj.payload)


class Hash(Serializer):
    """``tds.Hash``: a count, then keys and values. The payload becomes a table."""

    def read(self, obj: LuaObject, file: Any) -> Reading:
        table = obj.payload = LuaTable()
        left, chunk, guard = file.count(least=8), SAFE, HashFloodGuard()
        while left:
            chunk = min(left, chunk)
            for _ in range(chunk):
                key = yield
                if key is None:
                    raise StreamError("a key of a tds.Hash is nil")
                table[key] = yield
            left, chunk = left - chunk, chunk_size(guard.numbers)
            guard.check(table.entries, min(left, chunk))

    def write(self, obj: LuaObject, file: Any) -> Writing:
        file.long(len(obj.payload))
        for key, value in obj.payload.items():
            yield key
            yield value


class Vec(Serializer):
    """``tds.Vec``: a count, then values. The payload becomes a table with keys 1, 2, …"""

    def read(self, obj: LuaObject, file: Any) -> Reading:
        table = obj.payload = LuaTable()
        for i in range(1, file.count(least=4) + 1):
            table.entries[i] = yield

    def write(self, obj: LuaObject, file: Any) -> Writing:
        count = len(obj.payload)
        if any(i not in obj.payload for i in range(1, count + 1)):
            raise LuaValueError(f"a {obj.class_name} has other keys than 1, 2, …; expected all keys from 1 to {count}")
        file.long(count)
        for i in range(1, count + 1):
            yield obj.payload.get(i)


#: maximum number of samples that a written ``nn.DataSet`` may lack
_MAX_MISSING = 1 << 16


class DataSet(Serializer):
    """``nn.DataSet`` of nnx: a flag, a count, then the samples; other fields are not written."""

    def read(self, obj: LuaObject, file: Any) -> Reading:
        table = obj.payload = LuaTable()
        table["resized"] = file.int() == 1
        count = table["nbSamples"] = file.check_count(file.int(), least=2)  # nil in ASCII: two bytes
        for i in range(1, count + 1):
            table[i] = yield

    def write(self, obj: LuaObject, file: Any) -> Writing:
        count = obj.get("nbSamples")
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= len(obj.payload) + _MAX_MISSING:
            raise LuaValueError(f"a {obj.class_name} has nbSamples={count!r}; expected the number of its samples")
        file.int(int(obj.get("resized") not in (None, False)))
        file.int(count)
        for i in range(1, count + 1):
            yield obj.payload.get(i)


class GPU(Serializer):
    """``nn.GPU``: a table {tensor type, device}, stored in ``header``, before the table of fields."""

    def read(self, obj: LuaObject, file: Any) -> Reading:
        obj.header = ((yield),)
        obj.payload = yield

    def write(self, obj: LuaObject, file: Any) -> Writing:
        yield from obj.header
        yield obj.payload


class DataParallelTable(GPU):
    """``nn.DataParallelTable`` of cunn: since version 2 the GPU assignments precede the table of fields."""

    def read(self, obj: LuaObject, file: Any) -> Reading:
        return super().read(obj, file) if obj.version >= 2 else Serializer.read(self, obj, file)


class ModelParallelTable(GPU):
    """``nn.ModelParallelTable``: two unrelated classes have this name.

    One class is a copy of ``nn.DataParallelTable``. The other class writes the GPU assignments, each branch as an
    object, and a table of the other fields. The branches become the field ``modules`` and the assignments the field
    ``gpuAssignments``, as in Lua, and ``header`` stays empty.
    """

    def read(self, obj: LuaObject, file: Any) -> Reading:
        first = yield
        if isinstance(first, LuaTable) and "modules" in first:  # written as one table
            obj.payload = first
            return
        second = yield
        if isinstance(first, LuaTable) and isinstance(second, LuaObject):
            branches = [second]
            for _ in range(len(first) - 1):
                branches.append((yield))
            obj.payload = yield
            if not isinstance(obj.payload, LuaTable):
                raise StreamError("an nn.ModelParallelTable without a table of fields")
            obj["modules"], obj["gpuAssignments"] = LuaTable.from_list(branches), first
        else:
            obj.header, obj.payload = (first,), second

    def write(self, obj: LuaObject, file: Any) -> Writing:
        if obj.header:
            yield from super().write(obj, file)
        elif "gpuAssignments" in obj:
            yield obj["gpuAssignments"]
            yield from obj["modules"].values()
            yield LuaTable((k, v) for k, v in obj.payload.items() if k not in ("modules", "gpuAssignments"))
        else:
            yield obj.payload


class Pyramid(Serializer):
    """``nn.PyramidPacker`` and ``nn.PyramidUnPacker``: the table, then number of scales and scales as doubles."""

    def read(self, obj: LuaObject, file: Any) -> Reading:
        obj.payload = yield
        count = file.double()
        count = file.check_count(int(count) if count.is_integer() else -1, least=2)
        obj.header = tuple([file.double() for _ in range(count)])

    def write(self, obj: LuaObject, file: Any) -> Writing:
        yield obj.payload
        file.double(len(obj.header))
        for scale in obj.header:
            file.double(scale)


#: class name -> serializer; all other classes have the default serializer
SERIALIZERS: dict[str, Serializer] = {
    "torch.Timer": Timer(),
    "torch.Generator": RandomGenerator(),
    "tds.AtomicCounter": AtomicCounter(),
    "tds.Hash": Hash(),
    "tds_hash": Hash(),  # name until October 2015
    "tds.Vec": Vec(),
    "tds_vec": Vec(),
    "nn.DataSet": DataSet(),
    "nn.DataList": DataSet(),
    "nn.GPU": GPU(),
    "nn.DataParallelTable": DataParallelTable(),
    "nn.ModelParallelTable": ModelParallelTable(),
    "nn.PyramidPacker": Pyramid(),
    "nn.PyramidUnPacker": Pyramid(),
}


def register_serializer(class_name: str, serializer: Serializer) -> None:
    """Register the serializer of a Lua class that has its own ``read`` and ``write`` methods.

    Args:
        class_name: the Lua class, such as ``"fixture.CustomIO"``.
        serializer: object with the methods ``read`` and ``write``.

    Raises:
        ValueError: the class already has a serializer.
    """
    if class_name in SERIALIZERS:
        raise ValueError(f"{class_name} already has a serializer")
    SERIALIZERS[class_name] = serializer


Framing, register_framing = Serializer, register_serializer  # earlier names, until November 2026
