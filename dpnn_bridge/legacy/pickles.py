"""Read pickles of ``torch.legacy.nn``, written by ``torch.save`` of PyTorch 0.1.10 to 0.4 and later, as data.

Objects without methods replace the objects of the classes in a pickle. No class or function of a pickle is imported or
called. The content is converted to the Lua objects that a ``.t7`` file of the same model contains.
"""

from __future__ import annotations

import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpnn_bridge.base.display import described, shortened
from dpnn_bridge.base.reading import causing_os_error
from dpnn_bridge.errors import COPY_AGAIN, T7Error, T7FormatError, T7LimitError
from dpnn_bridge.legacy.lua_graph import LuaDescription, LuaGraph, add_constants
from dpnn_bridge.legacy.unpickler import LEGACY_MODULES, InertObject, InertUnpickler
from dpnn_bridge.loaders.encoding import Encoding
from dpnn_bridge.loaders.file_part import FilePart
from dpnn_bridge.loaders.origin import LocalFile
from dpnn_bridge.loaders.shared_tables import SharedTables
from dpnn_bridge.loaders.source import FileSource
from dpnn_bridge.loaders.stream import LimitError
from dpnn_bridge.loaders.t7_reader import read_local
from dpnn_bridge.objects import LuaObject
from dpnn_bridge.outputs.formats import is_converted_file
from dpnn_bridge.outputs.pt_file import records

#: first number in a file of the old format
MAGIC = 0x1950A86A20F9469CFC6C
#: number of bytes that are read at once to search these names, and of those that two blocks share
_BLOCK, _OVERLAP = 1 << 20, 32
#: maximum number of characters of all strings, counted at each use: a constant, and per byte of the pickle's file
FIXED_CHARACTERS, CHARACTERS_PER_BYTE = 1 << 20, 16
#: number of characters as which each entry of a header counts
CHARACTERS_PER_ENTRY = 64


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
        start, end = 0, source.size
        if source.read(0, 4) == b"PK\x03\x04":
            found = records(path, source)["data.pkl"]
            start, end = found.start, found.start + found.size
        if source.read(start, 1) != b"\x80":
            return False
        blocks = (source.read(at, min(_BLOCK + _OVERLAP, end - at)) for at in range(start, end, _BLOCK))
        return any(name.encode() in block for block in blocks for name in LEGACY_MODULES)
    except (OSError, ValueError, LookupError, zipfile.BadZipFile, RuntimeError) as error:
        os_error = causing_os_error(error)
        if os_error is not None and not isinstance(os_error, FileNotFoundError):
            raise os_error from error
        return False  # the reader reports the error


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
    except LimitError as error:
        raise T7LimitError(str(error), source=file.name) from error
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
    header = [InertUnpickler(file, source, offsets).load() for _ in range(3)]
    if header[0] != MAGIC or header[1] != 1001 or not isinstance(header[2], dict):
        raise T7FormatError("the pickle does not begin like a file of torch.save", source=source.name)
    if header[2].get("little_endian") is False:
        raise T7FormatError("the pickle was written by a machine with another byte order", source=source.name)
    unpickler = InertUnpickler(file, source, offsets)
    value, keys = unpickler.load(), InertUnpickler(file, source, offsets).load()
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
    unpickler = InertUnpickler(FilePart(source, record.start, record.size), source, offsets)
    value = unpickler.load()
    for key, storage in unpickler.storages.items():
        if unpickler.bytes_of(key, storage.size) > found[f"data/{key}"].size:
            raise T7FormatError(f"the storage {shortened(key)!r} is truncated", source=source.name)
    return value


# ---------------------------------------------------------------------- conversion to Lua objects
class _Graph(LuaGraph):
    """Converter of the content of a pickle to Lua objects."""

    def __init__(self, source: FileSource) -> None:
        super().__init__()
        self._name, self._characters_left = source.name, FIXED_CHARACTERS + CHARACTERS_PER_BYTE * source.size
        self._objects: list[LuaObject] = []

    def value(self, value: Any) -> Any:
        lua = super().value(value)
        SharedTables().check((obj.payload for obj in self._objects), len(self._objects))
        return lua

    def _start(self, value: Any) -> Any:
        if isinstance(value, (str, bytes)):
            self._take(len(value))
        return super()._start(value)

    def _take(self, characters: int) -> None:
        """Count the text of a value, which a pickle contains once for all its uses, and a ``.t7`` file for each."""
        self._characters_left -= characters
        if self._characters_left < 0:
            raise T7LimitError("the pickle uses its strings or headers too often", source=self._name)

    def describe(self, value: Any) -> LuaDescription | None:
        if not isinstance(value, InertObject):
            return None
        state = {k: v for k, v in value.__dict__.items() if k != "_backend"}
        if isinstance(state.get("_type"), str):
            state["_type"] = self._fields.once(_cpu_type, state["_type"])
        self._take(CHARACTERS_PER_ENTRY * len(state.get("_header", ())))  # written for each object, as strings are
        cls, name = type(value), state.get("_typename")
        if cls.class_name == "TorchObject" and isinstance(name, str):
            self._take(len(name))
            version = self._version(state.get("_version_number"))
            return LuaDescription(name, "", {}, version, state.get("_header", ()), state.get("_obj"))
        version, header = self._version(state.pop("_version", None)), state.pop("_header", ())
        self._take(len(cls.class_name) + len(cls.lua_class))
        return LuaDescription(cls.lua_class, cls.class_name, state, version, header)

    def _version(self, version: Any) -> int | None:
        if version is not None and not (type(version) is int and 0 <= version < 1 << 31):
            raise T7FormatError(f"expected the version of a class, found {described(version)}", source=self._name)
        return version

    def complete(self, value: Any, description: LuaDescription, obj: LuaObject) -> None:
        add_constants(obj)
        self._objects.append(obj)


def _cpu_type(tensor_type: str) -> str:
    return tensor_type.replace("torch.cuda.", "torch.")
