"""Read pickles of ``torch.legacy.nn``, written by ``torch.save`` of PyTorch 0.1 to 0.4 and later, as data.

Objects without methods replace the objects of the classes in a pickle. No class or function of a pickle is imported or
called. The content is converted to the Lua objects that a ``.t7`` file of the same model contains.
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

from dpnn_bridge.base.contiguous import last_offset
from dpnn_bridge.base.display import described, shortened
from dpnn_bridge.errors import COPY_AGAIN, NotT7Error, T7Error, T7FormatError, T7LimitError
from dpnn_bridge.legacy.fields import only_pytorch
from dpnn_bridge.legacy.lua_graph import LuaDescription, LuaGraph, add_constants
from dpnn_bridge.loaders.encoding import Encoding
from dpnn_bridge.loaders.file_part import FilePart
from dpnn_bridge.loaders.hash_flood import SAFE
from dpnn_bridge.loaders.origin import LocalFile
from dpnn_bridge.loaders.reader import MAX_DIMENSIONS, MAX_REPEATED
from dpnn_bridge.loaders.source import FileSource
from dpnn_bridge.loaders.t7_reader import read_local
from dpnn_bridge.objects import LuaObject, LuaStorage, LuaTensor, element_dtype
from dpnn_bridge.outputs.formats import is_converted_file
from dpnn_bridge.outputs.pt_file import records

#: first number in a file of the old format
MAGIC = 0x1950A86A20F9469CFC6C
#: modules that define classes of ``torch.legacy.nn``
LEGACY_MODULES = ("torch.legacy.nn", "dpnn_bridge.legacy")
#: number of bytes at the start of a pickle in which these names are searched
HEADER_SIZE = 1 << 16
#: maximum number of characters of all strings, counted at each use: a constant, and per byte of the pickle's file
FIXED_CHARACTERS, CHARACTERS_PER_BYTE = 1 << 20, 16


@dataclass(frozen=True)
class PickleEncoding(Encoding):
    """The encoding of a pickle."""

    def __str__(self) -> str:
        return "pickle of torch.legacy.nn"


def read_source(file: LocalFile) -> tuple[Any, Encoding] | None:
    """Read a Torch7 file or a pickle of ``torch.legacy.nn``; return None for a converted file.

    Raises:
        T7Error: the file cannot be read.
    """
    if contains_legacy(file.path):
        return read(file), PickleEncoding()
    return None if is_converted_file(file.path) else read_local(file)


def contains_legacy(path: Path) -> bool:
    """Return whether a file is a pickle that contains objects of ``torch.legacy.nn``."""
    try:
        source = FileSource(path)
        head = source.read(0, HEADER_SIZE)
        if head.startswith(b"PK\x03\x04"):
            found = records(path, source).get("data.pkl")
            head = source.read(found.start, min(found.size, HEADER_SIZE)) if found is not None else b""
    except (OSError, ValueError, LookupError, zipfile.BadZipFile, RuntimeError):  # the reader reports the error
        return False
    return head.startswith(b"\x80") and any(name.encode() in head for name in LEGACY_MODULES)


def read(file: LocalFile) -> Any:
    """Read a pickle as Lua values.

    Raises:
        NotT7Error: the pickle contains objects besides modules of ``torch.legacy.nn``, tensors and plain data.
        T7FormatError: the pickle is damaged.
    """
    source = FileSource(file.path, file.name)
    try:
        value = _read_zip(file.path, source) if source.read(0, 2) == b"PK" else _read_old_format(source)
        return _Graph(source).value(value)
    except T7Error:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise T7FormatError(f"the pickle is damaged: {reason}; {COPY_AGAIN}", source=file.name) from error


# ---------------------------------------------------------------------- the two formats
def _read_old_format(source: FileSource) -> Any:
    """Read the format of PyTorch before 1.6, which is not a ZIP archive.

    A file contains several pickles (magic number, version, properties of the machine, the content, the keys of the
    storages) and then the elements of each storage.
    """
    file, offsets = FilePart(source), dict[str, int]()
    header = [_Unpickler(file, source, offsets).load() for _ in range(3)]
    if header[0] != MAGIC or header[1] != 1001 or not isinstance(header[2], dict):
        raise T7FormatError("the pickle does not begin like a file of torch.save", source=source.name)
    if header[2].get("little_endian") is False:
        raise T7FormatError("the pickle was written by a machine with another byte order", source=source.name)
    unpickler = _Unpickler(file, source, offsets)
    value, keys = unpickler.load(), _Unpickler(file, source, offsets).load()
    for key in keys:
        if not isinstance(key, str):
            raise T7FormatError("the key of a storage is not a string", source=source.name)
        (count,) = struct.unpack("<q", file.read(8))
        offsets[key] = file.position
        file.position += unpickler.bytes_of(key, count)
    if missing := set(unpickler.storages) - set(offsets):
        raise T7FormatError(f"the storage {shortened(min(missing))!r} is missing", source=source.name)
    return value


def _read_zip(path: Path, source: FileSource) -> Any:
    found = records(path, source)
    order = found.get("byteorder")
    if order is not None and source.read(order.start, order.size) != b"little":
        raise T7FormatError("the pickle was written by a machine with another byte order", source=source.name)
    offsets = {name.removeprefix("data/"): r.start for name, r in found.items() if name.startswith("data/")}
    record = found["data.pkl"]
    unpickler = _Unpickler(FilePart(source, record.start, record.size), source, offsets)
    value = unpickler.load()
    for key, storage in unpickler.storages.items():
        if unpickler.bytes_of(key, storage.size) > found[f"data/{key}"].size:
            raise T7FormatError(f"the storage {shortened(key)!r} is truncated", source=source.name)
    return value


# ---------------------------------------------------------------------- the pickle
class InertObject:
    """An object of ``torch.legacy.nn`` without methods. Its fields are attributes."""

    class_name = ""


class Size(tuple):
    """The equivalent of ``torch.Size``, a plain tuple."""


def _size(sizes: Any = ()) -> Size:
    return Size(n if n == -1 else _check_size(n) for n in _check_dimensions(sizes))


#: rejected opcodes, which models do not use
_EXTENSIONS = (pickle.EXT1, pickle.EXT2, pickle.EXT4)
_SETS = (pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET)
#: rejected opcodes that allocate memory before they read data, or create integers that are slow to hash
_LARGE = (pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER, pickle.LONG4)


class _ClassName(str):
    """The name of a class of PyTorch that a pickle refers to but that is not called."""


class _Unpickler(pickle._Unpickler):  # the version in Python, whose memo allocates no memory for unused ids
    """Unpickler that does not import or call the classes and functions in a pickle.

    Args:
        file: the pickle.
        source: the file with the elements of storages.
        offsets: key of a storage -> offset of its first byte in ``source``; filled before elements are read.
    """

    dispatch: Any = dict(pickle._Unpickler.dispatch)
    stack: Any

    def __init__(self, file: FilePart, source: FileSource, offsets: dict[str, int]) -> None:
        super().__init__(file, encoding="utf-8", errors="surrogateescape")
        self._source, self._offsets = source, offsets
        self._classes: dict[str, type[InertObject]] = {}
        self.storages: dict[str, LuaStorage] = {}
        self._other_keys = self._pairs = 0
        ordered, unordered = self._mappings = self._mapping(OrderedDict), self._mapping(dict)
        self._callable: dict[tuple[str, str], Callable[..., Any]] = {
            ("collections", "OrderedDict"): ordered,
            ("torch", "Size"): _size,
            ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
            ("torch._utils", "_rebuild_tensor"): self._tensor,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._thnn.utils", "_unpickle_backend"): lambda name: None,
            ("torch.utils.serialization.read_lua_file", "hashable_uniq_dict"): unordered,
        }

    def refuse(self, what: str) -> NotT7Error:
        return NotT7Error(
            f"{self._source.name}: the pickle contains {shortened(what)}, which is not supported. "
            "Save a file that contains only objects of torch.legacy.nn, tensors and plain data"
        )

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith(LEGACY_MODULES) and name.isidentifier():
            if name not in self._classes:
                self._classes[name] = type(name, (InertObject,), {"class_name": name})
            return self._classes[name]
        if (module, name) in self._callable:
            return self._callable[module, name]
        if module in ("copy_reg", "copyreg") and name == "_reconstructor":
            return self._new
        if module in ("torch", "torch.cuda", "__builtin__", "builtins") and (
            name.endswith("Storage") or name == "object"
        ):
            return _ClassName(name)
        raise self.refuse(f"{module}.{name}")

    def _new(self, cls: Any, *_: Any) -> Any:
        if cls in self._mappings:
            return {}
        if isinstance(cls, type) and issubclass(cls, InertObject):
            return cls()
        raise self.refuse(f"an object of {described(cls)}")

    def persistent_load(self, pid: Any) -> LuaStorage:
        tag, name, key, _, count, *view = pid
        dtype = element_dtype(f"torch.{name.replace('Bool', 'Byte')}") if isinstance(name, _ClassName) else None
        if tag != "storage" or dtype is None or not isinstance(key, str):
            raise self.refuse(f"a storage of {described(name)}")
        if key not in self.storages:
            offsets, size = self._offsets, _check_size(count)
            self.storages[key] = LuaStorage(
                f"torch.{name.replace('Bool', 'Byte')}",
                size,
                lambda: self._source.load(offsets[key], dtype.newbyteorder("<"), size),
                lambda start, stop: self._source.load(
                    offsets[key] + start * dtype.itemsize, dtype.newbyteorder("<"), stop - start
                ),
            )
        if not view or view[0] is None:
            return self.storages[key]
        raise self.refuse("a storage that is a view of another storage")

    def bytes_of(self, key: Any, count: int) -> int:
        """Check the number of elements of a storage, and return its size in bytes."""
        storage = self.storages[key]
        size = storage.size * storage.dtype.itemsize
        if count != storage.size or self._offsets[key] + size > self._source.size:
            raise T7FormatError(f"the storage {shortened(key)!r} is truncated", source=self._source.name)
        return size

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> LuaTensor:
        if not isinstance(storage, LuaStorage) or len(size) != len(stride):
            raise ValueError("expected a tensor of a storage, sizes and strides")
        class_name = storage.class_name.replace("Storage", "Tensor")
        size = [*map(_check_size, _check_dimensions(size))] or [1]
        stride = [*map(_check_size, _check_dimensions(stride))] or [1]
        offset = _check_size(offset)
        if not math.prod(size):
            return LuaTensor.empty(class_name)
        if offset + last_offset(size, stride) >= storage.size:
            raise ValueError("a tensor has elements outside its storage")
        if math.prod(size) > max(storage.size, MAX_REPEATED):
            raise ValueError(f"a tensor expands its storage to {math.prod(size):,} elements")
        return LuaTensor(class_name, tuple(size), tuple(stride), offset, storage)

    def _mapping(self, mapping_type: type[dict]) -> Callable[..., Any]:
        def make(pairs: Any = ()) -> dict[Any, Any]:
            items = list(pairs.items()) if isinstance(pairs, dict) else list(pairs)
            self._check_pairs(len(items))
            self._check_keys([key for key, _ in items])
            return mapping_type(items)

        return make

    def _check_keys(self, keys: list[Any]) -> None:
        """Limit the number of keys that are not strings, whose hashes may collide, which takes quadratic time.

        Tuples are rejected, because hashing a nested tuple can take exponential time and unlimited recursion.
        """
        if any(isinstance(key, tuple) for key in keys):
            raise self.refuse("a key that is a tuple")
        self._other_keys += sum(type(key) is not str for key in keys)
        if self._other_keys > SAFE:
            raise self.refuse(f"more than {SAFE:,} keys that are not strings")

    def _check_pairs(self, count: int) -> None:
        """Limit the number of copied pairs, because a small file can copy the same dict very often."""
        self._pairs += count
        if self._pairs > self._source.size:
            raise self.refuse("more copies of a dict than any model")

    # ------------------------------------------------------------------ opcodes that call functions or set values
    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        if function not in (*self._callable.values(), self._new) or not isinstance(arguments, tuple):
            raise self.refuse("a call")
        self.stack[-1] = function(*arguments)

    def load_newobj(self) -> None:
        arguments = self.stack.pop()
        cls = self.stack[-1]
        if cls is _size and isinstance(arguments, tuple):  # as PyTorch 0.1 to 1.0 pickled sizes
            self.stack[-1] = _size(*arguments)
        elif arguments != ():
            raise self.refuse("an object with constructor arguments")
        else:
            self.stack[-1] = self._new(cls)

    def load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        fields = state[0] if isinstance(state, tuple) and len(state) == 2 else state
        if isinstance(target, InertObject) and isinstance(fields, dict):
            self._check_pairs(len(fields))
            target.__dict__.update((k, v) for k, v in fields.items() if isinstance(k, str))
            class_name = type(target).class_name  # not target.class_name, which a field may replace
            if only_pytorch(class_name, target.__dict__):
                raise self.refuse(f"a {class_name} with settings that Torch7's nn.{class_name} does not have")
        elif not isinstance(target, OrderedDict):  # a state_dict has attributes with metadata
            raise self.refuse("the state of an object of another type")

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
        raise self.refuse("an opcode that creates objects")

    dispatch |= {pickle.REDUCE[0]: load_reduce, pickle.NEWOBJ[0]: load_newobj, pickle.BUILD[0]: load_build}
    dispatch |= {pickle.SETITEM[0]: load_setitem, pickle.SETITEMS[0]: load_setitems, pickle.DICT[0]: load_dict}
    for _code in (pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX, pickle.PERSID, *_EXTENSIONS, *_SETS, *_LARGE):
        dispatch[_code[0]] = load_refused


def _check_size(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 48:
        raise ValueError(f"expected a size, found {described(value)}")
    return value


def _check_dimensions(sizes: Any) -> Any:
    if len(sizes) > MAX_DIMENSIONS:
        raise ValueError(f"a tensor has {len(sizes):,} dimensions")
    return sizes


# ---------------------------------------------------------------------- conversion to Lua objects
class _Graph(LuaGraph):
    """Converter of the content of a pickle to Lua objects."""

    def __init__(self, source: FileSource) -> None:
        super().__init__()
        self._name, self._characters_left = source.name, FIXED_CHARACTERS + CHARACTERS_PER_BYTE * source.size

    def _start(self, value: Any) -> Any:
        if isinstance(value, (str, bytes)):
            self._take(len(value))
        return super()._start(value)

    def _take(self, characters: int) -> None:
        """Count the text of a value, which a pickle contains once for all its uses, and a ``.t7`` file for each."""
        self._characters_left -= characters
        if self._characters_left < 0:
            raise T7LimitError("the pickle uses its strings too often", source=self._name)

    def describe(self, value: Any) -> LuaDescription | None:
        if not isinstance(value, InertObject):
            return None
        state = {k: v for k, v in value.__dict__.items() if k != "_backend"}
        if isinstance(state.get("_type"), str):
            state["_type"] = state["_type"].replace("torch.cuda.", "torch.")
        self._take(len(type(value).class_name))
        class_name, version, header = type(value).class_name, state.pop("_version", None), state.pop("_header", ())
        return LuaDescription(f"nn.{class_name}", class_name, state, version, header)

    def complete(self, value: Any, description: LuaDescription, obj: LuaObject) -> None:
        add_constants(obj)
