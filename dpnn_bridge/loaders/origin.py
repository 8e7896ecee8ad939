"""Provide a local file for an input, which may be a path, a URL, an open file or bytes, and may be compressed."""

from __future__ import annotations

import bz2
import functools
import gzip
import io
import lzma
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from dpnn_bridge.base.display import shortened
from dpnn_bridge.base.folder_locks import keep_folders_of
from dpnn_bridge.base.folders import temporary_folder
from dpnn_bridge.base.reading import causing_os_error, file_status, one_version, open_archive, open_input, open_zip
from dpnn_bridge.base.regular import check_file
from dpnn_bridge.base.remote import beside, download, location_of, without_query
from dpnn_bridge.base.shards import check_unchanged, checksum_of, shards_of, versions_of
from dpnn_bridge.base.suffixes import INDEX, PICKLED, TORCH7
from dpnn_bridge.base.writing import open_output
from dpnn_bridge.errors import (
    COPY_AGAIN,
    DpnnBridgeError,
    NotT7Error,
    OptionError,
    T7Error,
    T7FormatError,
    T7LimitError,
    VerificationError,
)

#: the type of the argument of functions that read files
Origin = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes]

_COMPRESSED: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lambda packed: _XzFile(packed),
}
#: accepted compression methods of a zip archive; others need unlimited memory
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
#: flag of an encrypted file in a zip archive
_ENCRYPTED = 1
#: maximum memory to decompress an .xz file; `xz -9` needs 65 MiB
_XZ_MEMORY = 1 << 27
#: maximum size of the decompressed file: the larger of a number of bytes, and a multiple of the compressed size
_MIN_LIMIT, _MAX_RATIO = 1 << 26, 100
_CHUNK = 1 << 20
#: what some file systems take for more than a name: a query or version, a fragment, a pattern, a chain of file systems
_SPECIAL = re.compile(r"[?#*]|::")


class LocalFile(NamedTuple):
    """A local file for an input.

    Attributes:
        path: path of the file: the input itself, or a temporary copy that exists inside the ``with`` block.
        name: name of the input in messages.
        versions: :func:`~dpnn_bridge.base.shards.versions_of` the file before its checksum was computed.
    """

    path: Path
    name: str
    versions: dict[str, tuple[int, ...]]


def name_of(origin: Origin) -> str:
    """Return the name of an input for messages."""
    if isinstance(origin, (str, os.PathLike)):
        return os.fspath(origin)
    if isinstance(origin, (bytes, bytearray, memoryview)):
        return f"<{memoryview(origin).nbytes} bytes>"
    name = getattr(origin, "name", None)
    return name if isinstance(name, str) else f"<{type(origin).__name__}>"


@contextmanager
def local_file(origin: Origin, sha256: str | None = None, *, unpack: bool = True) -> Iterator[LocalFile]:
    """Yield a local file for an input, decompressed if necessary. An uncompressed local file is not copied.

    Args:
        origin: the input: a path, a URL that fsspec supports (``https://``, ``hf://``, ``s3://``, …), a file open for
            reading bytes, or bytes. A URL needs the extra ``remote``. For the URL of an index, the shards are
            downloaded too.
        sha256: expected :func:`~dpnn_bridge.base.shards.checksum_of` the (compressed) input.
        unpack: whether a compressed file is decompressed.

    Raises:
        OptionError: ``sha256`` is not a SHA-256.
        T7Error: the input cannot be downloaded or decompressed.
        VerificationError: the input has another checksum.
    """
    name = name_of(origin)
    expected = None if sha256 is None else _digits(sha256)
    if isinstance(origin, (str, os.PathLike)):
        origin = location_of(origin)
    with ExitStack() as stack:
        folder = functools.cache(lambda: stack.enter_context(temporary_folder()))  # created when needed
        if isinstance(origin, str):
            path = folder() / _base(name)
            download(origin, path)
            for shard in shards_of(path) if path.name.endswith(INDEX) else ():
                download(_address_of(shard.name, origin), shard)
        elif isinstance(origin, os.PathLike):
            path = Path(origin)
            stack.enter_context(keep_folders_of(path))
        else:
            opened = io.BytesIO(origin) if isinstance(origin, (bytes, bytearray, memoryview)) else origin
            path = _copy(opened, folder() / _base(name))
        given, versions = path, versions_of(path)
        stack.enter_context(one_version(versions))
        check_file(path)
        if expected is not None:
            _check_sum(path, expected, name)
        path = _unpacked(path, folder, name) if unpack else path
        if expected is not None:
            check_unchanged(given, name, versions)
        if unpack and path != origin:
            path = _with_suffix(path)
            versions = versions_of(path)
        yield LocalFile(path, name, versions)


def _address_of(shard: str, index: str) -> str:
    """Return the address of a shard beside its index; raise an error if it may lead to another place."""
    if found := _SPECIAL.search(shard):
        raise T7FormatError(
            f"the index names the shard {shortened(repr(shard), 80)}, and {found[0]} in an address is not part of a "
            "name; download the index and its shards, and pass the path of the index",
            source=index,
        )
    return str(beside(index, shard))


def _base(name: str) -> str:
    """Return a file name for the copy of an input: the end of its name, in characters that all file systems accept."""
    last = PurePosixPath(without_query(name).split("::", 1)[0]).name
    return re.sub(r"[^\w.-]", "_", last, flags=re.ASCII)[-100:].lstrip(".") or "file"


def _copy(source: IO[bytes], target: Path, allowed: int | None = None, name: str = "") -> Path:
    """Copy the content of an open file to ``target``; raise an error if it has more than ``allowed`` bytes."""
    written = 0
    with open_output(target) as file:
        while chunk := source.read(_CHUNK):
            if isinstance(chunk, str):
                raise T7Error(f"{name_of(source)}: is open in text mode; open it with mode 'rb'")
            written += len(chunk)
            if allowed is not None and written > allowed:
                raise T7LimitError(
                    f"decompresses to more than {allowed:,} bytes, more than any model; decompress it "
                    "yourself if you trust it",
                    source=name,
                )
            file.write(chunk)
    return target


def _digits(checksum: str) -> str:
    """Return the hexadecimal digits of an expected checksum, as :func:`sha256_of` does."""
    digits = checksum.strip().lower()
    if not re.fullmatch("[0-9a-f]{64}", digits):
        wrong = f"{shortened(repr(checksum), 80)} is not a SHA-256"
        raise OptionError(f"{wrong}; sha256= (--sha256) takes the 64 hexadecimal digits that sha256sum prints")
    return digits


def _check_sum(path: Path, expected: str, name: str) -> None:
    actual = checksum_of(path) or "unknown, because the index is damaged or lacks a shard"
    if actual != expected:
        how = " (of the lines that sha256sum prints for the index and its shards)" if path.name.endswith(INDEX) else ""
        raise VerificationError(f"{name}: its SHA-256{how} is {actual}, expected {expected}; {COPY_AGAIN}")


def _unpacked(path: Path, folder: Callable[[], Path], name: str) -> Path:
    """Decompress a file, and return the path of the result; return the path of any other file unchanged."""
    with open_input(path) as file:
        head = file.read(6)
    allowed = max(_MIN_LIMIT, _MAX_RATIO * file_status(path).st_size)
    try:
        for magic, unpack in _COMPRESSED.items():
            if head.startswith(magic):
                with open_input(path) as packed, unpack(packed) as file:
                    return _copy(file, _empty(folder()) / path.name, allowed, name)
        if head.startswith((b"PK\x03\x04", b"PK\x05\x06")) and (member := _member(path, name)):
            with open_zip(path) as archive:
                if archive.getinfo(member).flag_bits & _ENCRYPTED:
                    raise NotT7Error(f"{name}: an encrypted zip archive; extract it first")
                if archive.getinfo(member).compress_type not in _METHODS:
                    raise NotT7Error(f"{name}: a zip archive with another compression than deflate; extract it first")
                with archive.open(member) as file:
                    return _copy(file, _empty(folder()) / _base(member), allowed, name)
    except MemoryError as e:
        raise T7LimitError("decompressing it takes more memory than available", source=name) from e
    except (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, ValueError, RuntimeError) as e:
        if (os_error := causing_os_error(e)) is not None:
            raise os_error from e
        raise T7FormatError(f"cannot be decompressed: {e}; {COPY_AGAIN}", source=name) from e
    return path


def _empty(parent: Path) -> Path:
    folder = parent / "unpacked"
    folder.mkdir()
    return folder


class _XzFile(io.RawIOBase):
    """Like ``lzma.open``, with limited memory, because a file of 100 bytes may require 4 GiB."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file, self._rest = file, b""
        self._decompressor: lzma.LZMADecompressor | None = None

    def read(self, size: int = -1) -> bytes:
        """Return at most ``size`` bytes, and no bytes at the end."""
        while True:
            if not self._rest and (self._decompressor is None or self._decompressor.needs_input):
                self._rest = self._file.read(io.DEFAULT_BUFFER_SIZE)  # small, because it may be copied
                if not self._rest:
                    if self._decompressor is None:
                        return b""
                    raise EOFError("the data end too early")
            if self._decompressor is None:
                self._rest = self._rest.lstrip(b"\0")  # padding between two streams
                if not self._rest:
                    continue
                self._decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
            data = self._decompressor.decompress(self._rest, size)
            self._rest = self._decompressor.unused_data if self._decompressor.eof else b""
            if self._decompressor.eof:
                self._decompressor = None
            if data:
                return data


def _member(path: Path, name: str) -> str | None:
    """Return the name of the only file, or only Torch7 file, in a zip archive; None for an archive of PyTorch or numpy.

    Raises:
        NotT7Error: the archive contains no files, or other files.
    """
    with open_zip(path) as archive:
        names = [n for n in archive.namelist() if not n.endswith("/") and not n.startswith("__MACOSX")]
    if any(n.endswith(("data.pkl", ".npy", "/version")) for n in names):
        return None
    models = names if len(names) == 1 else [n for n in names if n.endswith(TORCH7)]
    if not names:
        raise NotT7Error(f"{name}: a zip archive without files; download or copy it again")
    if len(models) != 1:
        raise NotT7Error(f"{name}: a zip archive of {len(names)} files, {', '.join(names[:8])}; extract it first")
    return models[0]


def _has_pickle(path: Path) -> bool:
    try:
        with open_archive(path) as archive:
            return any(name.endswith("data.pkl") for name in archive.namelist())
    except DpnnBridgeError:  # the reader of .pt files reports the error
        return True


def _with_suffix(path: Path) -> Path:
    """Append the suffix of its content to the name of a copy, unless the name has this suffix already."""
    with open_input(path) as file:
        head = file.read(16)
    suffixes: tuple[str, ...] = ()
    if head.startswith(b"\x80\x02") or (head.startswith(b"PK\x03\x04") and _has_pickle(path)):
        suffixes = PICKLED
    elif head[8:10] == b'{"':
        suffixes = (".safetensors",)
    if suffixes and path.suffix not in suffixes:
        return path.rename(path.with_name(path.name + suffixes[0]))
    return path
