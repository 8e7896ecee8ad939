"""Read pickles of ``torch.legacy.nn``, written by ``torch.save`` of PyTorch 0.1 to 0.4 and later, as data.

Inert objects with the same fields replace the classes that a pickle names. Nothing that a file names is imported or
called. The content becomes the Lua objects of a ``.t7`` file of the same model.
"""

from __future__ import annotations

import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpnn_bridge.base.display import printable, shortened
from dpnn_bridge.errors import NotT7Error, T7FormatError
from dpnn_bridge.legacy.lua_graph import Described, LuaGraph, add_constants
from dpnn_bridge.loaders.encoding import Encoding
from dpnn_bridge.loaders.hash_flood import SAFE
from dpnn_bridge.loaders.origin import LocalFile
from dpnn_bridge.loaders.reader import MAX_DIMENSIONS, MAX_REPEATED
from dpnn_bridge.loaders.source import FileSource
from dpnn_bridge.loaders.t7_reader import read_local
from dpnn_bridge.objects import LuaObject, LuaStorage, LuaTensor, element_dtype
from dpnn_bridge.outputs.formats import is_converted_file
from dpnn_bridge.outputs.pt_file import records

#: how the old format begins: a pickle of this number
MAGIC = 0x1950A86A20F9469CFC6C
#: where classes of ``torch.legacy.nn`` are from
FROM = ("torch.legacy.nn", "dpnn_bridge.legacy")
#: bytes of a pickle in which the first of them shows, and the most that a pickle without its tensors has
HEAD, LARGEST = 1 << 16, 1 << 28


@dataclass(frozen=True)
class Pickled(Encoding):
    """That a file is a pickle."""

    def __str__(self) -> str:
        return "pickle of torch.legacy.nn"


def read_source(file: LocalFile) -> tuple[Any, Encoding] | None:
    """Read a Torch7 file or a pickle of ``torch.legacy.nn``; return None for a converted file.

    Raises:
        T7Error: it cannot be read.
    """
    if holds_legacy(file.path):
        return read(file), Pickled()
    return None if is_converted_file(file.path) else read_local(file)


def holds_legacy(path: Path) -> bool:
    """Return whether a file is a pickle that names classes of ``torch.legacy.nn``."""
    try:
        source = FileSource(path)
        head = source.read(0, HEAD)
        if head.startswith(b"PK\x03\x04"):
            found = records(path, source).get("data.pkl")
            head = source.read(found.start, min(found.size, HEAD)) if found is not None else b""
    except (OSError, ValueError, LookupError, zipfile.BadZipFile, RuntimeError):  # whoever reads it says what is wrong
        return False
    return head.startswith(b"\x80") and any(name.encode() in head for name in FROM)


def read(file: LocalFile) -> Any:
    """Return the Lua value of a pickle.

    Raises:
        NotT7Error: it contains more than classes of ``torch.legacy.nn``, tensors and plain data.
        T7FormatError: it is damaged.
    """
    source = FileSource(file.path, file.name)
    try:
        value = _zipped(file.path, source) if source.read(0, 2) == b"PK" else _old(source)
        return _Graph().value(value)
    except (NotT7Error, T7FormatError):
        raise
    except Exception as error:
        raise T7FormatError(f"the pickle is damaged: {type(error).__name__}: {error}", source=file.name) from error


# ---------------------------------------------------------------------- the two formats
class _File:
    """A part of a source as an open file, which never reads beyond its end."""

    def __init__(self, source: FileSource, start: int = 0, size: int | None = None) -> None:
        self._source, self.place = source, start
        self._stop = source.size if size is None else start + size
        self._buffer, self._first = b"", 0

    def read(self, size: int) -> bytes:
        size = min(size, self._stop - self.place, LARGEST)
        if self.place < self._first or self.place + size > self._first + len(self._buffer):
            self._first = self.place
            self._buffer = self._source.read(self.place, min(max(size, HEAD), self._stop - self.place))
        data = self._buffer[self.place - self._first :][:size]
        self.place += len(data)
        return data

    def readline(self) -> bytes:
        start = self.place
        line = self.read(HEAD).partition(b"\n")[0] + b"\n"
        self.place = min(start + len(line), self._stop)
        return line


def _old(source: FileSource) -> Any:
    """Read the old format: numbers and facts, the pickle, the keys of the storages, their elements, in sequence."""
    file, places = _File(source), dict[str, int]()
    head = [_Unpickler(file, source, places).load() for _ in range(3)]
    if head[0] != MAGIC or head[1] != 1001 or not isinstance(head[2], dict):
        raise T7FormatError("the pickle does not start like those of torch.save", source=source.name)
    if head[2].get("little_endian") is False:
        raise T7FormatError("the pickle was written by a machine with another byte order", source=source.name)
    unpickler = _Unpickler(file, source, places)
    value, keys = unpickler.load(), _Unpickler(file, source, places).load()
    for key in keys:
        if not isinstance(key, str):
            raise T7FormatError("the key of a storage is not a string", source=source.name)
        (count,) = struct.unpack("<q", file.read(8))
        places[key] = file.place
        file.place += unpickler.bytes_of(key, count)
    if missing := set(unpickler.storages) - set(places):
        raise T7FormatError(f"the storage {shortened(min(missing))!r} is missing", source=source.name)
    return value


def _zipped(path: Path, source: FileSource) -> Any:
    found = records(path, source)
    order = found.get("byteorder")
    if order is not None and source.read(order.start, order.size) != b"little":
        raise T7FormatError("the pickle was written by a machine with another byte order", source=source.name)
    places = {name.removeprefix("data/"): r.start for name, r in found.items() if name.startswith("data/")}
    record = found["data.pkl"]
    unpickler = _Unpickler(_File(source, record.start, record.size), source, places)
    value = unpickler.load()
    for key, storage in unpickler.storages.items():
        if unpickler.bytes_of(key, storage.size) > found[f"data/{key}"].size:
            raise T7FormatError(f"the storage {shortened(key)!r} is truncated", source=source.name)
    return value


# ---------------------------------------------------------------------- the pickle
class Stand:
    """An inert object of ``torch.legacy.nn``, with its fields as attributes."""

    kind = ""


class Size(tuple):
    """An inert ``torch.Size``."""


#: the base of all classes, which pickles of Python 2 name
_OBJECT = {("__builtin__", "object"), ("builtins", "object")}


#: for what other programs register, and for sets, which no model has
_EXTENSIONS = (pickle.EXT1, pickle.EXT2, pickle.EXT4)
_SETS = (pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET)
#: for what takes memory before it is read, or time whenever it is a key, and which no model has
_LARGE = (pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER, pickle.LONG4)


class _Name(str):
    """The name of something that is not called."""


def _stand(name: str) -> type[Stand]:
    return type(name, (Stand,), {"kind": name})


class _Unpickler(pickle._Unpickler):  # the one in Python: its memo takes no memory for numbers that are skipped
    """Carries out a pickle without importing or calling what it names.

    Args:
        file: where the pickle is.
        source: where the elements of storages are.
        places: key of a storage -> its first byte there, known when elements are read.
    """

    dispatch: Any = dict(pickle._Unpickler.dispatch)
    stack: Any

    def __init__(self, file: _File, source: FileSource, places: dict[str, int]) -> None:
        super().__init__(file, encoding="utf-8", errors="surrogateescape")
        self._source, self._places = source, places
        self._classes: dict[str, type[Stand]] = {}
        self.storages: dict[str, LuaStorage] = {}
        self._numbers = self._pairs = 0
        ordered, plain = self._mappings = self._mapping(OrderedDict), self._mapping(dict)
        self._callable: dict[tuple[str, str], Callable[..., Any]] = {
            ("collections", "OrderedDict"): ordered,
            ("torch", "Size"): lambda sizes=(): Size(n if n == -1 else _natural(n) for n in _few(sizes)),
            ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
            ("torch._utils", "_rebuild_tensor"): self._tensor,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._thnn.utils", "_unpickle_backend"): lambda name: None,
            ("torch.utils.serialization.read_lua_file", "hashable_uniq_dict"): plain,
        }

    def refuse(self, what: str) -> NotT7Error:
        return NotT7Error(
            f"{self._source.name}: the pickle holds {printable(shortened(what))}; of pickles only classes of "
            "torch.legacy.nn, tensors and plain data are read. Save what you need of it in the program that wrote it"
        )

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith(FROM) and name.isidentifier():
            if name not in self._classes:
                self._classes[name] = _stand(name)
            return self._classes[name]
        if (module, name) in self._callable:
            return self._callable[module, name]
        if module in ("copy_reg", "copyreg") and name == "_reconstructor":
            return self._new
        if module in ("torch", "torch.cuda", "__builtin__", "builtins") and (
            name.endswith("Storage") or name == "object"
        ):
            return _Name(name)
        raise self.refuse(f"{module}.{name}")

    def _new(self, kind: Any, *_: Any) -> Any:
        if kind in self._mappings:
            return {}
        if isinstance(kind, type) and issubclass(kind, Stand):
            return kind()
        raise self.refuse(f"an object of {_named(kind)}")

    def persistent_load(self, pid: Any) -> LuaStorage:
        kind, name, key, _, count, *view = pid
        dtype = element_dtype(f"torch.{name.replace('Bool', 'Byte')}") if isinstance(name, _Name) else None
        if kind != "storage" or dtype is None or not isinstance(key, str):
            raise self.refuse(f"a storage of {_named(name)}")
        if key not in self.storages:
            place, size = self._places, _natural(count)
            self.storages[key] = LuaStorage(
                f"torch.{name.replace('Bool', 'Byte')}",
                size,
                lambda: self._source.load(place[key], dtype.newbyteorder("<"), size),
                lambda start, stop: self._source.load(
                    place[key] + start * dtype.itemsize, dtype.newbyteorder("<"), stop - start
                ),
            )
        if not view or view[0] is None:
            return self.storages[key]
        raise self.refuse("a storage that is a view of another")

    def bytes_of(self, key: Any, count: int) -> int:
        """Return the number of bytes of a storage, which was met before and has so many elements."""
        storage = self.storages[key]
        size = storage.size * storage.dtype.itemsize
        if count != storage.size or self._places[key] + size > self._source.size:
            raise T7FormatError(f"the storage {shortened(key)!r} is truncated", source=self._source.name)
        return size

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> LuaTensor:
        if not isinstance(storage, LuaStorage) or len(size) != len(stride):
            raise ValueError("a tensor is not made of a storage, sizes and strides")
        kind = storage.class_name.replace("Storage", "Tensor")
        size, stride = _few(size), _few(stride)
        size, stride, offset = [*map(_natural, size)] or [1], [*map(_natural, stride)] or [1], _natural(offset)
        if not math.prod(size):
            return LuaTensor.empty(kind)
        if offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) >= storage.size:
            raise ValueError("a tensor reaches beyond its storage")
        if math.prod(size) > max(storage.size, MAX_REPEATED):
            raise ValueError(f"a tensor repeats its storage to {math.prod(size):,} elements")
        return LuaTensor(kind, tuple(size), tuple(stride), offset, storage)

    def _mapping(self, kind: type[dict]) -> Callable[..., Any]:
        def make(pairs: Any = ()) -> dict[Any, Any]:
            items = list(pairs.items()) if isinstance(pairs, dict) else list(pairs)
            self._check_pairs(len(items))
            self._check_keys([key for key, _ in items])
            return kind(items)

        return make

    def _check_keys(self, keys: list[Any]) -> None:
        """Limit the number of keys that are not strings: they may collide, which takes quadratic time.

        Tuples are refused: a hash visits a shared part as often as it occurs, and recurses without a limit.
        """
        if any(isinstance(key, tuple) for key in keys):
            raise self.refuse("a key that is a tuple")
        self._numbers += sum(type(key) is not str for key in keys)
        if self._numbers > SAFE:
            raise self.refuse(f"more than {SAFE:,} keys that are not strings")

    def _check_pairs(self, count: int) -> None:
        """Limit the pairs that are copied from dicts and lists, which the file may contain once and name often."""
        self._pairs += count
        if self._pairs > self._source.size:
            raise self.refuse("more copies of one dict than a model has")

    # ------------------------------------------------------------------ instructions that would call or set anything
    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        allowed = any(function is f for f in self._callable.values()) or function == self._new
        if not allowed or not isinstance(arguments, tuple):
            raise self.refuse("a call")
        self.stack[-1] = function(*arguments)

    def load_newobj(self) -> None:
        arguments = self.stack.pop()
        kind = self.stack[-1]
        if arguments != ():
            raise self.refuse("an object made of arguments")
        self.stack[-1] = self._new(kind)

    def load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        fields = state[0] if isinstance(state, tuple) and len(state) == 2 else state
        if isinstance(target, Stand) and isinstance(fields, dict):
            self._check_pairs(len(fields))
            target.__dict__.update((k, v) for k, v in fields.items() if isinstance(k, str))
        elif not isinstance(target, OrderedDict):  # whose attributes are facts about a state_dict
            raise self.refuse("the state of an object that has none")

    def load_setitem(self) -> None:
        self._check_keys([self.stack[-2]])
        super().load_setitem()  # type: ignore[misc]

    def load_setitems(self) -> None:
        self._check_keys(self.stack[::2])  # the values above the mark
        super().load_setitems()  # type: ignore[misc]

    def load_dict(self) -> None:
        self._check_keys(self.stack[::2])
        super().load_dict()  # type: ignore[misc]

    def load_refused(self) -> None:
        raise self.refuse("an instruction that makes objects")

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.DICT[0]] = load_dict
    for _code in (pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX, pickle.PERSID, *_EXTENSIONS, *_SETS, *_LARGE):
        dispatch[_code[0]] = load_refused


def _natural(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 48:
        raise ValueError(f"{_named(value)} is no size")
    return value


def _few(sizes: Any) -> Any:
    if len(sizes) > MAX_DIMENSIONS:
        raise ValueError(f"a tensor has {len(sizes):,} dimensions")
    return sizes


def _named(value: Any) -> str:
    """Return what an error calls a value; the text of a list or tuple could be exponentially long."""
    return repr(value) if isinstance(value, (str, int)) else f"a {type(value).__name__}"


# ---------------------------------------------------------------------- as Lua objects
class _Graph(LuaGraph):
    """The Lua objects of what was read."""

    def describe(self, value: Any) -> Described | None:
        if not isinstance(value, Stand):
            return None
        state = {k: v for k, v in value.__dict__.items() if k != "_backend"}
        if isinstance(state.get("_type"), str):
            state["_type"] = state["_type"].replace("torch.cuda.", "torch.")
        return Described(f"nn.{type(value).kind}", type(value).kind, state)

    def complete(self, value: Any, found: Described, obj: LuaObject) -> None:
        add_constants(obj)
