"""Read files of ``torch.save`` as data. Nothing in the file is called, memory-mapped, extracted or trusted.

The file is a zip archive of uncompressed records: ``data.pkl``, a pickle, and one record per storage. This reader
implements only the pickle instructions for plain data. Every record, view and size is checked before memory is
allocated. Tensors are copies in CPU memory, so later changes of the file have no effect.
"""

from __future__ import annotations

import errno
import io
import math
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dpnn_bridge.base.contiguous import last_offset
from dpnn_bridge.base.display import described, printable, shortened
from dpnn_bridge.base.reading import causing_os_error, file_status, open_input, open_zip
from dpnn_bridge.errors import COPY_AGAIN, NotT7Error, T7FormatError
from dpnn_bridge.loaders.encoding import OLD_PYTORCH, check_head
from dpnn_bridge.loaders.hash_flood import SAFE, HashFloodGuard, Memo
from dpnn_bridge.loaders.reader import MAX_DIMENSIONS
from dpnn_bridge.loaders.source import FileSource
from dpnn_bridge.loaders.stream import StreamError

DTYPES = {
    "torch BFloat16Storage": torch.bfloat16,
    "torch BoolStorage": torch.bool,
    "torch ByteStorage": torch.uint8,
    "torch CharStorage": torch.int8,
    "torch ComplexDoubleStorage": torch.complex128,
    "torch ComplexFloatStorage": torch.complex64,
    "torch DoubleStorage": torch.float64,
    "torch FloatStorage": torch.float32,
    "torch HalfStorage": torch.float16,
    "torch IntStorage": torch.int32,
    "torch LongStorage": torch.int64,
    "torch ShortStorage": torch.int16,
}
#: functions that a pickle of plain data may name
_BYTES, _DICT, _TENSOR, _PARAMETER = (
    "_codecs encode",
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
)
#: maximum number of elements that views repeat (stride 0), in all tensors together
MAX_REPEATED = 1 << 22
#: maximum depth of nested lists and dicts
MAX_DEPTH = 200
#: longest line of a pickle in bytes: the name of a module or a class
_LONGEST_LINE = 1000
#: next step for a file that is damaged, or contains objects
_ADVICE = (
    f"{COPY_AGAIN}; if it contains objects and you trust it, load it with torch.load(…, weights_only=False) in a "
    "program that can import their classes, and pass the model to dpnn_bridge.save or write_t7"
)


class _DamagedError(ValueError):
    pass


class _TorchScriptError(ValueError):
    pass


class Record(NamedTuple):
    """The position of a record of the archive in the file."""

    start: int
    size: int


class _Mark:
    """The marker that the instruction MARK pushes on the stack."""


class _Name(str):
    """The name of a class or function in a pickle."""


def read(path: Path, name: str = "") -> Any:
    """Return the content of a file: dicts, lists, tuples, numbers, strings, tensors.

    Args:
        path: the file.
        name: name of the file for messages; default: its path.

    Raises:
        NotT7Error: the file was not written by ``torch.save`` of PyTorch 1.6 or later.
        T7FormatError: the file is damaged or contains more than plain data.
    """
    name = name or str(path)
    try:
        source = FileSource(path)
        found = records(path, source)
        return _Loader(source, found).load()
    except (zipfile.BadZipFile, NotImplementedError) as error:
        if (refused := causing_os_error(error)) is not None:
            raise refused from error
        with open_input(path) as file:
            head = file.read(512)
        if head.startswith(OLD_PYTORCH):
            raise NotT7Error(
                f"{name}: a Python pickle, the format of torch.save before PyTorch 1.6. dpnn_bridge reads only pickles "
                "of torch.legacy.nn objects. If torch.load(…, weights_only=True) can read the file, it contains "
                "weights: load them into their model, and pass the model to dpnn_bridge.save or write_t7"
            ) from error
        if head.startswith(b"\x80"):
            raise NotT7Error(
                f"{name}: a Python pickle that torch.save did not write; if you trust the file, open it with "
                "pickle.load"
            ) from error
        if head[1:4] == bytes(3):  # a .t7 file begins with the code of a Lua type in 4 bytes
            advice = "pass the converted file" if name.endswith(".t7") else "rename it to *.t7"
            raise NotT7Error(f"{name}: a Torch7 file, not a file of torch.save; {advice}") from error
        if head.startswith(b"PK"):
            raise T7FormatError(f"the archive is damaged: {error}; {COPY_AGAIN}", source=name) from error
        check_head(head, file_status(path).st_size, name)  # names other types of files
        raise NotT7Error(f"{name}: was not written by torch.save: {error}") from error
    except _TorchScriptError as error:
        raise NotT7Error(
            f"{name}: TorchScript, whose layers cannot be read. Load torch.jit.load(…).state_dict() into the module "
            "that was scripted or traced, and pass the module to dpnn_bridge.save or write_t7"
        ) from error
    except (StreamError, struct.error, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        reason = f"{'' if isinstance(error, (_DamagedError, StreamError)) else f'{type(error).__name__}: '}{error}"
        raise T7FormatError(f"damaged, or more than plain data: {reason}; {_ADVICE}", source=name) from error


def records(path: Path, source: FileSource) -> dict[str, Record]:
    """Return the records of an archive by name; the folder that contains all records is not part of the names.

    Raises:
        _TorchScriptError: the file contains a program of TorchScript.
        BadZipFile, _DamagedError: a record is compressed, overlaps another record or extends beyond the file.
    """
    try:
        with open_zip(path) as archive:
            entries, end = sorted(archive.infolist(), key=lambda e: e.header_offset), archive.start_dir
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise _DamagedError("the position of its directory is outside the file") from error
    except (ValueError, OverflowError, NotImplementedError, struct.error) as error:  # invalid names or versions
        raise _DamagedError(f"its directory is damaged: {error}") from error
    if not entries:
        raise _DamagedError("the archive contains no records")
    if any(entry.filename.partition("/")[2] == "constants.pkl" for entry in entries):  # as PyTorch recognizes it
        raise _TorchScriptError
    found: dict[str, Record] = {}
    stops = [e.header_offset for e in entries[1:]] + [end]
    for entry, stop in zip(entries, stops, strict=True):
        header = source.read(max(0, entry.header_offset), 30)
        if entry.header_offset < 0 or header[:4] != b"PK\x03\x04" or entry.flag_bits & 1:
            raise _DamagedError(f"no record at byte {entry.header_offset}")
        name_size, extra_size = struct.unpack("<HH", header[26:])
        start = entry.header_offset + 30 + name_size + extra_size
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise _DamagedError(f"the record {shortened(entry.filename)!r} is compressed")
        if start + entry.file_size > stop:
            raise _DamagedError(f"the record {shortened(entry.filename)!r} overlaps another")
        name = entry.filename.partition("/")[2]
        if name in found:
            raise _DamagedError(f"the record {shortened(name)!r} is a duplicate")
        found[name] = Record(start, entry.file_size)
    return found


class _ShortLines(io.BytesIO):
    """A pickle whose lines have a limit: a line of digits becomes an integer in quadratic time."""

    def readline(self, size: int | None = -1, /) -> bytes:
        """Return the rest of a line, cut after 1,000 bytes, which :mod:`pickletools` refuses."""
        return super().readline(_LONGEST_LINE)


def _operations(data: bytes) -> Iterator[tuple[str, Any, int]]:
    """Yield the instructions of a pickle: name, argument, position."""
    position = 0
    try:
        for operation, argument, start in pickletools.genops(_ShortLines(data)):
            position = start or 0
            yield operation.name, argument, position
    except ValueError as error:  # includes UnicodeError
        reason = str(error).strip().split("\n", 1)[0]
        raise _DamagedError(f"its pickle is damaged after byte {position}: {reason}") from error


class _Loader:
    """Executes the pickle of an archive, for plain data only."""

    def __init__(self, source: FileSource, found: dict[str, Record]) -> None:
        self.source, self.records = source, found
        self.storages: dict[str, Tensor] = {}
        self.repeated = 0
        self.bytes_left = found["data.pkl"].size if "data.pkl" in found else 0
        self.large: dict[int, tuple[dict[Any, Any], HashFloodGuard]] = {}
        self.stack: list[Any] = []
        self.memo = Memo()

    def load(self) -> Any:
        if "data.pkl" not in self.records:
            raise _DamagedError("it has no record data.pkl")
        if self._bytes("byteorder", b"little") != b"little":
            raise _DamagedError("it was written by a machine with another byte order")
        position = 0
        try:
            for name, argument, start in _operations(self._bytes("data.pkl")):
                position = start
                self._step(name, argument)
        except IndexError:
            raise _DamagedError(f"byte {position} of its pickle uses more values than are on the stack") from None
        except _DamagedError as error:
            raise _DamagedError(f"{error}, at byte {position} of its pickle") from None
        if not self.stack:
            raise _DamagedError("its pickle ends without a value")
        value = self.stack.pop()
        check_plain(value)
        return value

    def _bytes(self, name: str, default: bytes = b"") -> bytes:
        record = self.records.get(name)
        return default if record is None else self.source.read(record.start, record.size)

    def _step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name in _LITERALS:
            stack.append(argument)
        elif name in ("PROTO", "FRAME", "STOP"):
            pass
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            if argument not in self.memo:
                raise _DamagedError(f"unknown memo id {argument}")
            stack.append(self.memo[argument])
        elif name.startswith("TUPLE"):
            parts = self._since_mark() if name == "TUPLE" else [stack.pop() for _ in range(int(name[5:]))][::-1]
            stack.append(tuple(parts))
        elif name in ("APPEND", "APPENDS"):
            parts = self._since_mark() if name == "APPENDS" else [stack.pop()]
            _of(stack[-1], list).extend(parts)
        elif name in ("SETITEM", "SETITEMS"):
            parts = self._since_mark() if name == "SETITEMS" else [stack.pop(), stack.pop()][::-1]
            self._set_items(_of(stack[-1], dict), parts)
        elif name == "GLOBAL":
            stack.append(_Name(argument))
        elif name == "BINPERSID":
            values = _of(stack.pop(), tuple)
            if len(values) != 5:
                raise _DamagedError(f"the description of a storage has {len(values)} values, expected 5")
            stack.append(self._storage(*values))
        elif name == "REDUCE":
            arguments = _of(stack.pop(), tuple)
            stack.append(self._call(stack.pop(), arguments))
        elif name == "BUILD" and type(stack[-2]) is dict:  # the _metadata of a state_dict
            stack.pop()
        elif name in ("NEWOBJ", "NEWOBJ_EX", "OBJ", "INST"):
            raise _DamagedError("it contains an object of a class, as torch.save(model) writes it")
        else:
            raise _DamagedError(f"its pickle has the instruction {name}")

    def _set_items(self, entries: dict[Any, Any], parts: list[Any]) -> None:
        if len(entries) + len(parts) > SAFE and id(entries) not in self.large:
            self.large[id(entries)] = entries, HashFloodGuard()
        if len(parts) % 2:
            raise _DamagedError("a dict has a key without a value")
        for at, (key, value) in enumerate(zip(parts[::2], parts[1::2], strict=True)):
            if type(key) not in (str, int, float, bool):
                raise _DamagedError(f"a key is a {type(key).__name__}")
            if at % SAFE == 0 and id(entries) in self.large:
                self.large[id(entries)][1].check(entries, SAFE)
            if key in entries:  # torch.save writes each key once; a repeated one could collide each time
                raise _DamagedError(f"a dict has the key {described(key)} twice")
            entries[key] = value

    def _since_mark(self) -> list[Any]:
        """Remove and return the values on the stack above the last mark, and remove the mark."""
        parts = []
        while not isinstance(value := self.stack.pop(), _Mark):
            parts.append(value)
        return parts[::-1]

    def _call(self, function: Any, arguments: tuple[Any, ...]) -> Any:
        """Return the result of one of the few functions that plain data needs, without calling it."""
        if type(function) is not _Name:
            raise _DamagedError("its pickle calls a value")
        if function == _DICT and not arguments:
            return {}
        if function == _TENSOR and len(arguments) >= 4:
            return self._tensor(*arguments[:4])
        if function == _BYTES and len(arguments) == 2 and arguments[1] == "latin1":
            return self._encoded(_of(arguments[0], str))
        if function == _PARAMETER and arguments:
            return _of(arguments[0], Tensor)
        known = "with other arguments " if function in (_DICT, _TENSOR, _BYTES, _PARAMETER) else ""
        raise _DamagedError(f"it contains a {printable(shortened(function.replace(' ', '.')))} {known}".rstrip())

    def _encoded(self, text: str) -> bytes:
        """Return a string as bytes. The total length is limited: a small pickle could encode one string many times."""
        self.bytes_left -= len(text)
        if self.bytes_left < 0:
            raise _DamagedError("its pickle encodes strings again and again")
        return text.encode("latin1")

    def _storage(self, kind: Any, dtype: Any, key: Any, location: Any, count: Any) -> Tensor:
        """Return all elements of a storage."""
        if kind != "storage" or type(dtype) is not _Name or dtype not in DTYPES:
            raise _DamagedError(f"a storage has the type {described(dtype)}")
        name, element = f"data/{_of(key, str)}", DTYPES[dtype]
        record, count = self.records.get(name), _natural(count)
        if record is None or record.size != count * element.itemsize:
            raise _DamagedError(
                f"the storage {shortened(name)!r} of {described(count)} elements is missing, or has another size"
            )
        if name not in self.storages:
            self.storages[name] = torch.from_numpy(self.source.load(record.start, np.dtype(np.uint8), record.size))
        return self.storages[name].view(element) if count else torch.empty(0, dtype=element)

    def _tensor(self, storage: Any, offset: Any, shape: Any, stride: Any) -> Tensor:
        storage, offset = _of(storage, Tensor), _natural(offset)
        shape, stride = ([_natural(n) for n in _of(t, tuple)] for t in (shape, stride))
        if len(shape) != len(stride):
            raise _DamagedError(f"a tensor has {len(shape)} sizes and {len(stride)} strides")
        if len(shape) > MAX_DIMENSIONS:  # the product of many sizes takes quadratic time
            raise _DamagedError(f"a tensor has {len(shape):,} dimensions; at most {MAX_DIMENSIONS} are read")
        count = math.prod(shape)
        last = offset + last_offset(shape, stride)
        if count and last >= storage.numel():
            raise _DamagedError(f"a tensor of shape {shape} reaches beyond its storage of {storage.numel()} elements")
        if max([0, *shape, *stride]) > 1 << 48:
            raise _DamagedError(f"a tensor has shape {shape} and strides {stride}")
        self.repeated += max(0, count - storage.numel())
        if self.repeated > MAX_REPEATED:
            raise _DamagedError("its tensors repeat their elements too often")
        return storage.as_strided(shape, stride, offset if count else 0)


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "MARK": _Mark,
    "NEWFALSE": lambda: False,
    "NEWTRUE": lambda: True,
    "NONE": lambda: None,
}
_LITERALS = {
    *("BINFLOAT", "BININT", "BININT1", "BININT2", "LONG1"),
    *("BINUNICODE", "BINUNICODE8", "SHORT_BINUNICODE"),
    *("BINBYTES", "BINBYTES8", "SHORT_BINBYTES"),
}


def _of(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise _DamagedError(f"expected {kind.__name__}, got {type(value).__name__}")
    return value


def _natural(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise _DamagedError(f"{described(value)} is not a size")
    return value


def check_plain(value: Any) -> None:
    """Check that a value is plain data that does not contain itself; shared lists and dicts are allowed.

    Raises:
        _DamagedError: the value is not plain data, contains itself, or is nested too deeply.
    """
    done: set[int] = set()
    open_ids: set[int] = set()

    def check(value: Any) -> None:
        if isinstance(value, (bool, int, float, str, bytes, Tensor, type(None))) and not isinstance(value, _Name):
            return
        if id(value) in open_ids or len(open_ids) > MAX_DEPTH or not isinstance(value, (dict, list, tuple)):
            raise _DamagedError("its values contain themselves, are nested too deeply, or are not plain data")
        if id(value) not in done:
            open_ids.add(id(value))
            for part in value.values() if isinstance(value, dict) else value:
                check(part)
            open_ids.discard(id(value))
            done.add(id(value))

    check(value)
