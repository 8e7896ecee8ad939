"""Read .t7 files and serialized strings."""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Literal, TypedDict, TypeVar

from typing_extensions import Unpack

from dpnn_bridge.base.arguments import check_types, checks_arguments, hints_of
from dpnn_bridge.base.boundary import wrap_errors
from dpnn_bridge.base.display import counted, printable
from dpnn_bridge.errors import COPY_AGAIN, OptionError, T7Error, T7FormatError, T7LimitError, T7Warning
from dpnn_bridge.loaders.ascii_stream import AsciiStream
from dpnn_bridge.loaders.encoding import Encoding, check_head, encodings, transfer_damage
from dpnn_bridge.loaders.fast_reader import FastReader
from dpnn_bridge.loaders.origin import LocalFile, Origin, local_file, name_of
from dpnn_bridge.loaders.reader import Reader
from dpnn_bridge.loaders.source import BytesSource, FileSource, Source
from dpnn_bridge.loaders.stream import BinaryStream
from dpnn_bridge.objects import LuaStorage, LuaTensor

T = TypeVar("T")


class ReadKeywords(TypedDict, total=False):
    """The fields of :class:`ReadOptions` as keyword arguments."""

    mode: Literal["binary", "ascii"] | None
    long_size: Literal[4, 8] | None
    big_endian: bool | None
    referenced: bool
    lazy: bool
    max_depth: int
    max_objects: int


@dataclass(frozen=True)
class ReadOptions:
    """Options of :func:`read_t7`, :func:`read_all` and :func:`loads`.

    A file does not contain its mode, byte order and size of a C long. They are detected by trials unless they are set.

    Attributes:
        mode: ``"binary"`` or ``"ascii"``.
        long_size: 8, or 4 for files of 32-bit and Windows machines.
        big_endian: byte order of the file.
        referenced: False if the same index refers to different objects, as in a concatenation of several files. Files
            of ``torch.save(name, object, mode, false)`` need no option, because they contain no repeated index.
        lazy: leave the elements of storages in the file, which stays open, until they are used. False reads all
            elements immediately, for files that other programs may change in the meantime.
        max_depth: maximum nesting depth of objects.
        max_objects: maximum number of tables, objects, functions, tensors and storages.
    """

    mode: Literal["binary", "ascii"] | None = None
    long_size: Literal[4, 8] | None = None
    big_endian: bool | None = None
    referenced: bool = True
    lazy: bool = True
    max_depth: int = 1_000_000
    max_objects: int = 1 << 62

    def __post_init__(self) -> None:
        check_types(type(self).__name__, hints_of(type(self)), vars(self))


_reading = wrap_errors(T7Error, "reading")
#: `stacklevel` for the caller of functions that `checks_arguments` and `_reading` wrap
_CALLER = 4


@checks_arguments
@_reading
def read_t7(path: Origin, **options: Unpack[ReadKeywords]) -> Any:
    """Read the first object of a .t7 file.

    Args:
        path: the file: a path, a URL (see :mod:`dpnn_bridge.loaders.origin`), a file open for reading bytes, or bytes.
            Files that are compressed with gzip, bzip2, xz or zip are decompressed.
        **options: see :class:`ReadOptions`.

    Returns:
        The content of the file: a LuaTable (indexed like a dict), LuaObject, LuaTensor, LuaStorage, LuaFunction (see
        :mod:`dpnn_bridge.objects`), or a number, string, boolean or None. The annotation is ``Any`` because the type
        depends on the file.

    Raises:
        MissingFileError: the file is missing.
        NotT7Error: the file is empty or has another type.
        T7FormatError: the file is damaged.
        T7LimitError: the file exceeds a limit.

    Examples:
        >>> model = read_t7("model.t7")
        >>> model["modules"][1]["weight"].numpy()
    """
    chosen = ReadOptions(**options)
    with local_file(path) as file:
        value, encoding = read_local(file, chosen)
    if encoding.trailing:
        name = printable(name_of(path))
        text = (
            f"{name}: {encoding.trailing} bytes after the object are not read; loaders.read_all reads several objects"
        )
        warnings.warn(text, T7Warning, stacklevel=_CALLER)
    return value


@_reading
def read_local(file: LocalFile, options: ReadOptions | None = None) -> tuple[Any, Encoding]:
    """Read the first object of a local file; also return the detected encoding."""
    return _read(FileSource(file.path, file.name), Reader.read, options or ReadOptions())


@checks_arguments
@_reading
def read_all(path: Origin, *, strict: bool = False, **options: Unpack[ReadKeywords]) -> list[Any]:
    """Read all objects of a file that several ``file:writeObject`` calls wrote. References may cross objects.

    Args:
        path: as for :func:`read_t7`.
        strict: raise an error if the file is truncated or damaged. Otherwise the objects before the damage are
            returned, with a warning; if there is no such object, an error is raised.
        **options: see :class:`ReadOptions`.

    Raises: as for :func:`read_t7`.
    """
    chosen = ReadOptions(**options)
    with local_file(path) as file:
        source = FileSource(file.path, file.name)
        try:
            return _read(source, Reader.read_all, chosen)[0]
        except T7LimitError:
            raise
        except T7FormatError as error:
            complete = [] if strict else _complete_objects(source, chosen)
            if not complete:
                raise
            text = f"{error}; returned {counted(len(complete), 'complete object')} before it"
            warnings.warn(text, T7Warning, stacklevel=_CALLER)
            return complete


def _complete_objects(source: Source, options: ReadOptions) -> list[Any]:
    """Return the objects before the damage, with the encoding for which most objects can be read."""
    head = source.read(0, 512)
    best: tuple[list[Any], Reader | None] = [], None
    for encoding in encodings(head, options.mode, options.big_endian, options.long_size):
        reader, found = _reader(source, encoding, options), []
        with _without_garbage_collection(), suppress(T7FormatError):
            while reader.stream.remaining > 0:
                found.append(reader.read())
        if len(found) > len(best[0]):
            best = found, reader
    complete, reader = best
    if reader is not None:
        _load(reader, options)
    return complete


@checks_arguments
@_reading
def loads(data: bytes | bytearray | memoryview | str | LuaStorage, **options: Unpack[ReadKeywords]) -> Any:
    """Read a serialized string, as ``torch.deserialize`` does.

    Args:
        data: bytes, or a Lua string, Char storage or Byte storage from another file.
        **options: see :class:`ReadOptions`.

    Raises: as for :func:`read_t7`.
    """
    if isinstance(data, str):
        data = data.encode("utf-8", "surrogateescape")
    elif isinstance(data, LuaStorage):
        if data.dtype.itemsize != 1:
            raise OptionError(f"loads: argument data: expected a storage of bytes or characters, found {data!r}")
        data = data.numpy().tobytes()
    return _read(BytesSource(data), Reader.read, ReadOptions(**options))[0]


#: number of bytes of a damaged file that are examined for the cause of the damage
_EXAMINED = 1 << 20


def _read(source: Source, read: Callable[[Reader], T], options: ReadOptions) -> tuple[T, Encoding]:
    head = source.read(0, 512)
    check_head(head, source.size, source.name)
    failures: list[T7FormatError] = []
    for encoding in encodings(head, options.mode, options.big_endian, options.long_size):
        reader = _reader(source, encoding, options)
        try:
            with _without_garbage_collection():
                value = read(reader)
        except T7LimitError:
            raise
        except T7FormatError as error:
            failures.append(error)
            continue
        if failures and not _reads_to_end(reader):
            continue
        trailing = _trailing(reader)
        following = 2 if value is None else 1  # Darknet's files begin with a nil and an empty string
        if isinstance(value, LuaTensor) and not value.shape:  # before the first release, a file began with one
            following = sys.maxsize
        if trailing > max(_MAX_UNCHECKED, source.size // 2) and not _continues(reader, following):
            raise T7FormatError(
                f"the other {trailing:,} bytes after the first object are not Torch7 objects: the file is damaged, or "
                "was written by another program, such as Darknet, or before the first release of Torch7 (2012)",
                offset=source.size - trailing,
                source=source.name,
            )
        _load(reader, options)
        return value, replace(encoding, trailing=trailing)
    if damage := transfer_damage(source.read(0, min(source.size, _EXAMINED))):
        raise T7FormatError(damage, source=source.name) from failures[0]
    furthest = max(failures, key=lambda error: error.offset or 0)
    detected = options.mode is options.big_endian is options.long_size is None
    options_given = "mode= (--mode), big_endian= (--big-endian) and long_size= (--long-size)"
    advice = COPY_AGAIN if detected else f"omit {options_given}, which are detected"
    furthest.args = (f"{furthest}; {advice}",)
    raise furthest


def _load(reader: Reader, options: ReadOptions) -> None:
    """Read the elements of all storages, unless ``options.lazy`` is True."""
    for storage in () if options.lazy else reader.storages:
        storage.numpy()


#: maximum number of bytes after an object that are accepted without examination, such as a signature or padding
_MAX_UNCHECKED = 4096


def _trailing(reader: Reader) -> int:
    """Return the number of unread bytes, without white space at the end of an ASCII file."""
    stream = reader.stream
    blank = stream.remaining <= 64 and not stream.source.read(stream.position, 64).strip()
    return 0 if blank else max(0, stream.remaining)


def _reads_to_end(reader: Reader) -> bool:
    """Return whether the rest of the file can be read with the same encoding, after other encodings have failed."""
    try:
        return None not in reader.read_all()
    except T7FormatError:
        return False


def _continues(reader: Reader, following: int) -> bool:
    """Return whether the next ``following`` objects, or those up to the end, are objects other than nil."""
    try:
        for _ in range(following):
            if not _trailing(reader):
                break
            if reader.read() is None:
                return False
        return True
    except T7LimitError:
        return True
    except T7FormatError:
        return False


def _reader(source: Source, encoding: Encoding, options: ReadOptions) -> Reader:
    limits = {"max_depth": options.max_depth, "max_objects": options.max_objects}
    if encoding.ascii:
        return Reader(AsciiStream(source), referenced=options.referenced, **limits)
    stream = BinaryStream(source, long_size=encoding.long_size, big_endian=encoding.big_endian)
    return FastReader(stream, referenced=options.referenced, **limits)


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Disable garbage collection while a graph is created, because it would take longer than reading."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
