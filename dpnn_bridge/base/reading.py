"""Read input files. An I/O error names the file, and reads that return EAGAIN are repeated.

Output files are in :mod:`dpnn_bridge.base.writing`.
"""

from __future__ import annotations

import errno
import io
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import TypeVar
from zipfile import BadZipFile, ZipFile

from dpnn_bridge.base.scoped import scoped
from dpnn_bridge.errors import COPY_AGAIN, DpnnBridgeError, T7Error, T7FormatError

T = TypeVar("T")

#: errno values of disk errors; a library may have raised another exception because of one
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM}

#: seconds between attempts of an operation that returns EAGAIN, as on network file systems
_PAUSES = (0.0, 0.001, 0.01, 0.1, 0.5, 1.0, 2.0)


def retry_eagain(act: Callable[[], T | None], name: str) -> T:
    """Call a function again while it returns EAGAIN, or EINTR where Python does not repeat the call: renames, links.

    Args:
        act: Opens, reads, writes or moves a file; raises BlockingIOError or returns None for EAGAIN.
        name: Name of the file, for the error.

    Raises:
        OSError: The function fails, or returns EAGAIN for some seconds.
    """
    for pause in (*_PAUSES, None):
        try:
            result = act()
        except (BlockingIOError, InterruptedError):
            result = None
        except OSError as error:
            error.filename = error.filename or name
            raise
        if result is not None:
            return result
        if pause is not None:
            time.sleep(pause)
    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), name)


def file_status(path: str | os.PathLike[str]) -> os.stat_result:
    """Call ``os.stat`` with :func:`retry_eagain`."""
    return retry_eagain(lambda: os.stat(path), os.fspath(path))


def with_causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and its causes, the last cause at the end."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def causing_disk_error(error: BaseException) -> OSError | None:
    """Return the disk error that is an exception or its cause, or None."""
    return next((e for e in with_causes(error) if isinstance(e, OSError) and e.errno in DISK_ERRORS), None)


def causing_os_error(error: BaseException) -> OSError | None:
    """Return the OSError that caused an error, or None. zipfile reports an OSError as a damaged archive."""
    ignored = (None, errno.EINVAL)  # EINVAL: a wrong offset
    return next((e for e in with_causes(error) if isinstance(e, OSError) and e.errno not in ignored), None)


#: maximum number of bytes of the directory of a zip archive; 100,000 tensors take about 10 MB
_LARGEST_DIRECTORY = 1 << 26


class _ArchiveFile(io.BufferedReader):
    """A file with a maximum size of a read, while ``ZipFile`` reads the archive's directory in a single read."""

    largest_read: int | None = _LARGEST_DIRECTORY

    def read(self, size: int | None = -1) -> bytes:
        if self.largest_read is not None and size is not None and size > self.largest_read:
            raise BadZipFile(f"its directory has {size:,} bytes, more than for any model")
        return super().read(size)


@contextmanager
def open_zip(path: str | os.PathLike[str]) -> Iterator[ZipFile]:
    """Open a zip archive for reading, with a directory of bounded size.

    Raises:
        BadZipFile, OSError, ValueError: As ``zipfile.ZipFile`` raises them, while the archive is opened or read.
    """
    with _ArchiveFile(open_unbuffered(path)) as file, ZipFile(file) as archive:
        file.largest_read = None
        yield archive


@contextmanager
def open_archive(path: str | os.PathLike[str]) -> Iterator[ZipFile]:
    """Open a zip archive as :func:`open_zip`, with errors of this package.

    Raises:
        T7FormatError: The archive is damaged, also if this is detected in the ``with`` block.
        OSError: See :func:`retry_eagain`.
    """
    try:
        with open_zip(path) as archive:
            yield archive
    except T7FormatError as error:
        raise error if error.source else T7FormatError(str(error), source=os.fspath(path)) from error
    except DpnnBridgeError:
        raise
    except (OSError, EOFError, zlib.error, BadZipFile, ValueError, RuntimeError, struct.error) as error:
        if (cause := causing_os_error(error)) is not None:
            raise cause from error
        raise T7FormatError(f"the archive is damaged: {error}; {COPY_AGAIN}", source=os.fspath(path)) from error


def version_of(status: os.stat_result) -> tuple[int, ...]:
    """Return device, inode, size and times of a file, which differ for other files and after changes.

    Programs can restore the time of the modification, but not ``st_ctime``, that of the inode's change.
    """
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def changed(name: str) -> T7Error:
    """Return the error for an input whose :func:`version_of` is not the one before."""
    return T7Error(f"{name}: changed while it was read; try again")


_versions: ContextVar[Mapping[str, tuple[int, ...]]] = ContextVar(
    "versions of the inputs", default=MappingProxyType({})
)


def one_version(versions: Mapping[str, tuple[int, ...]]) -> AbstractContextManager[None]:
    """Inside the ``with`` block, open only these versions of files: a link may change and change back meanwhile.

    Args:
        versions: Path -> :func:`version_of` the file.
    """
    return scoped(_versions, {**_versions.get(), **versions})


def unblocked(name: str, flags: int) -> int:
    """Open a file without waiting, as the ``opener`` of ``open``: a pipe may have replaced it since the check."""
    return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))


class _InputFile(io.FileIO):
    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path, opener=unblocked)

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        return retry_eagain(lambda: super(_InputFile, self).readinto(buffer), os.fsdecode(self.name))

    def read(self, size: int | None = -1) -> bytes:
        return io.RawIOBase.read(self, -1 if size is None else size)  # calls readinto

    def readall(self) -> bytes:
        return io.RawIOBase.readall(self)

    def close(self) -> None:
        try:  # noqa: SIM105 - at the end of Python, global names such as `suppress` are None
            super().close()
        except OSError:
            pass


def open_unbuffered(path: str | os.PathLike[str]) -> io.FileIO:
    """Open a file for reading bytes, as ``open(path, "rb", 0)``, with :func:`retry_eagain` and :func:`unblocked`.

    Raises:
        T7Error: Inside :func:`one_version`, another file or another version of the file is at the path.
    """
    file = retry_eagain(lambda: _InputFile(path), os.fsdecode(path))
    expected = _versions.get().get(os.fsdecode(path))
    if expected is not None and version_of(os.fstat(file.fileno())) != expected:
        file.close()
        raise changed(os.fsdecode(path))
    return file


def open_input(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Open a file for reading bytes, as :func:`open_unbuffered`, with a buffer."""
    return io.BufferedReader(open_unbuffered(path))
