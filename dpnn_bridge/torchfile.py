"""Provide the interface of the package torchfile: ``import dpnn_bridge.torchfile as torchfile``.

Values are those of torchfile: strings and class names are bytes, integral numbers are ints, tables with the keys 1 to n
are lists, and all other tables are dicts that compare by identity. Fields of objects are attributes. Tensors are numpy
arrays that share memory. More files can be read than with torchfile: ASCII, 4-byte longs, other byte orders, half
precision, and classes with their own serializer. Does not import PyTorch.

>>> torchfile.load("model.t7").modules[0].weight.shape        # doctest: +SKIP
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from dpnn_bridge.base.boundary import wrap_errors
from dpnn_bridge.errors import T7Error
from dpnn_bridge.loaders.t7_reader import read_all, read_t7
from dpnn_bridge.objects import LuaFunction as _Function
from dpnn_bridge.objects import LuaObject, LuaStorage, LuaTable, LuaTensor

#: the exception of torchfile for a damaged file
T7ReaderException = T7Error


class LuaFunction(NamedTuple):
    """A serialized function: its size in bytes, the bytes, and its upvalues."""

    size: int
    dumped: bytes
    upvalues: Any


class hashable_uniq_dict(dict):  # noqa: N801 - torchfile's name
    """A hashable dict that is compared by identity. Its string keys are attributes; other attributes are None."""

    __hash__ = object.__hash__  # pyright: ignore[reportAssignmentType]

    def __getattr__(self, key: str) -> Any:
        if key.startswith("__"):  # torchfile returns None, with which numpy fails
            raise AttributeError(key)
        return self[key] if key in self else self.get(key.encode())

    def __missing__(self, key: object) -> Any:
        other = key.encode() if isinstance(key, str) else None
        if other not in self:
            raise KeyError(key)
        raise KeyError(f"{key}: keys are bytes, here {other!r}; load(path, utf8_decode_strings=True) returns str")

    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other

    def _not_ordered(self, other: object) -> bool:
        raise TypeError("hashable_uniq_dict does not support these comparisons")

    __le__ = __gt__ = __lt__ = _not_ordered


class TorchObject:
    """An object of a Torch7 class. ``obj.name`` and ``obj[b"name"]`` return a field, or None if it is missing."""

    def __init__(self, typename: bytes, obj: Any = None, version_number: int = 0) -> None:
        self._typename, self._obj, self._version_number = typename, obj, version_number

    def __getattr__(self, k: str) -> Any:
        if k.startswith("__") or k == "_obj":  # copy and pickle look these up before _obj is set
            raise AttributeError(k)
        return self[k]

    @property
    def _fields(self) -> dict[Any, Any]:
        return self._obj if isinstance(self._obj, dict) else {}  # an empty table is a list

    def __getitem__(self, k: Any) -> Any:
        if isinstance(k, str) and k not in self._fields:
            k = k.encode()
        return self._fields.get(k)

    def torch_typename(self) -> bytes:
        """Return the name of the Lua class."""
        return self._typename

    def __repr__(self) -> str:
        return f"TorchObject({self._typename!r}, {self._obj!r})"

    def __dir__(self) -> list[str]:
        names = [k.decode("utf-8", "replace") if isinstance(k, bytes) else str(k) for k in self._fields]
        return [*names, "torch_typename"]


@wrap_errors(T7Error, "reading")
def load(filename: str | os.PathLike[str], **kwargs: Any) -> Any:
    """Load the first object of a file; for the options see :class:`T7Reader`."""
    return _Values(**kwargs).value(read_t7(filename))


@wrap_errors(T7Error, "reading")
def _converted(values: _Values, value: Any) -> Any:
    return values.value(value)


class T7Reader:
    """Reader for the consecutive objects of an open file.

    Args:
        fileobj: a file that is open for reading bytes.
        use_list_heuristic: return tables with the keys 1 to n as lists.
        use_int_heuristic: return integral numbers as ints; otherwise all numbers are floats.
        utf8_decode_strings: return strings as ``str``; otherwise as bytes. Class names are always bytes.
        force_deserialize_classes: raises an error, as in torchfile.
        force_8bytes_long: ignored, because the size of longs is detected.
    """

    def __init__(self, fileobj: Any, **kwargs: Any) -> None:
        self.f = fileobj
        self._values = _Values(**kwargs)
        self._objects: deque[Any] | None = None

    def read_obj(self) -> Any:
        """Return the next object.

        Raises:
            EOFError: the file contains no more objects.
        """
        if self._objects is None:
            self._objects = deque(read_all(self.f))
        if not self._objects:
            raise EOFError("no more objects in the file")
        return _converted(self._values, self._objects.popleft())


class _Values:
    """Converter of the Lua values of one file to torchfile's values. Each object is converted once."""

    def __init__(
        self,
        use_list_heuristic: bool = True,
        use_int_heuristic: bool = True,
        utf8_decode_strings: bool = False,
        force_deserialize_classes: Any = None,
        force_8bytes_long: bool = False,
    ) -> None:
        if force_deserialize_classes is not None:
            raise DeprecationWarning("force_deserialize_classes is now always forced to be true")
        self.lists, self.ints, self.utf8 = use_list_heuristic, use_int_heuristic, utf8_decode_strings
        self.done: dict[int, Any] = {}
        self.alive: list[Any] = []
        self._to_fill: list[tuple[Callable[[Any, Any], None], Any, Any]] = []

    def value(self, value: Any) -> Any:
        """Convert a value with all values in it, without recursion: new tables and objects are filled later."""
        converted = self._start(value)
        while self._to_fill:
            fill, target, source = self._to_fill.pop()
            fill(target, source)
        return converted

    def _start(self, value: Any) -> Any:
        if isinstance(value, str):
            return value.encode("utf-8", "surrogateescape").decode() if self.utf8 else _bytes(value)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return self._number(value)
        if value is None or isinstance(value, (bool, bytes)):
            return value
        if id(value) not in self.done:
            self.alive.append(value)
            self.done[id(value)] = None  # as in torchfile, for a function that contains itself
            self.done[id(value)] = self._new(value)
        return self.done[id(value)]

    def _number(self, value: float) -> float:
        if not self.ints:
            return float(value)
        return int(value) if float(value).is_integer() else value

    def _new(self, value: Any) -> Any:
        if isinstance(value, LuaTable):
            return self._table(value)
        if isinstance(value, (LuaTensor, LuaStorage)):
            return value.numpy()
        if isinstance(value, _Function):
            return LuaFunction(len(value.bytecode), value.bytecode, self._start(value.upvalues))
        assert isinstance(value, LuaObject)
        if value.class_name == "tds.Vec" and isinstance(value.payload, LuaTable):
            return self._list(value.payload.as_list())
        if value.class_name == "tds.Hash" and isinstance(value.payload, LuaTable):
            return self._entries(value.payload)
        obj = TorchObject(_bytes(value.class_name), version_number=value.version)
        self._to_fill.append((self._fill_object, obj, value))
        return obj

    def _fill_object(self, obj: TorchObject, source: LuaObject) -> None:
        obj._obj = self._start(source.payload)

    def _table(self, table: LuaTable) -> Any:
        array = table.as_list()
        if self.lists and len(array) == len(table) and (self.ints or not array):  # float keys: no list
            return self._list(array)
        return self._entries(table)

    def _list(self, array: list[Any]) -> list[Any]:
        listed: list[Any] = []
        self._to_fill.append((self._fill_list, listed, array))
        return listed

    def _fill_list(self, listed: list[Any], array: list[Any]) -> None:
        listed.extend(map(self._start, array))

    def _entries(self, table: LuaTable) -> hashable_uniq_dict:
        entries = hashable_uniq_dict()
        self._to_fill.append((self._fill_entries, entries, table))
        return entries

    def _fill_entries(self, entries: hashable_uniq_dict, table: LuaTable) -> None:
        for key, value in table.items():
            name = self._start(key)
            # tuples (functions) and lists are not compared by identity, and arrays have no hash
            entries[key if isinstance(name, (list, tuple, np.ndarray)) else name] = self._start(value)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


__all__ = ["LuaFunction", "T7Reader", "T7ReaderException", "TorchObject", "hashable_uniq_dict", "load"]
