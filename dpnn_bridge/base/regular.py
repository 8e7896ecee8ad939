"""Refuse input files that are not regular files of bounded size, such as pipes and devices."""

from __future__ import annotations

import errno
import os
import stat

from dpnn_bridge.base.boundary import as_package_error
from dpnn_bridge.base.reading import DISK_ERRORS, file_status, open_input
from dpnn_bridge.base.shell import shell_file
from dpnn_bridge.errors import CHECK_PATH, DpnnBridgeError, FileAccessError, MissingFileError, NotT7Error

#: maximum number of bytes of an input that is read completely: a program, a list, a line of a manifest
MAX_BYTES = 1 << 24
#: folders of the kernel. Their files look regular, but reading them may never end or may block
_KERNEL = ("/proc/", "/sys/")


def check_file(path: str | os.PathLike[str], max_bytes: int | None = None, names: str = "*.t7") -> None:
    """Raise unless ``path`` is a regular file of bounded size.

    Args:
        path: File to check; links are followed.
        max_bytes: Largest accepted size in bytes; None accepts any.
        names: Pattern for the files that a message about a directory suggests; empty suggests one file.

    Raises:
        MissingFileError: The file is missing.
        FileAccessError: The folder may not be searched, or the disk fails.
        NotT7Error: It is a directory, a device or a pipe, is too large, or cannot be opened.
    """
    try:
        _check(path, file_status(path), max_bytes, names)
    except (OSError, ValueError) as error:
        raise _cannot_open(path, error) from error


def is_accepted(path: str | os.PathLike[str]) -> bool:
    """Return whether :func:`check_file` accepts a file of any size."""
    try:
        check_file(path)
    except (NotT7Error, FileAccessError):
        return False
    return True


def check_readable(path: str | os.PathLike[str]) -> None:
    """Raise a :class:`FileAccessError` if a file may not be read, before a library opens it with errors of its own."""
    try:
        open_input(path).close()
    except OSError as error:
        raise _cannot_open(path, error) from error


def read_file(path: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> bytes:
    """Read a regular file of bounded size; for errors see :func:`check_file`."""
    check_file(path, max_bytes)  # before opening, because opening a device may have an effect
    try:
        with open_input(path) as file:  # check the open file too: another file may have replaced the checked one
            status = os.fstat(file.fileno())
            _check(path, status, max_bytes)
            size = min(status.st_size, max_bytes)
            content = file.read(size + 1)  # `read` allocates as many bytes as it may return
            if len(content) > size:
                content += file.read(max_bytes - size)
    except (OSError, ValueError) as error:
        raise _cannot_open(path, error) from error
    if len(content) > max_bytes:  # the file grew, or reports no size, as files of /proc do
        raise _too_large(path, max_bytes)
    return content


def _check(path: str | os.PathLike[str], status: os.stat_result, max_bytes: int | None, names: str = "*.t7") -> None:
    if stat.S_ISDIR(status.st_mode):
        several = f", or all files with {shell_file(os.path.join(path, ''))}{names}" if names else ""
        raise NotT7Error(f"{os.fspath(path)}: is a directory; name a file in it{several}")
    if not stat.S_ISREG(status.st_mode) or os.path.realpath(path).startswith(_KERNEL):
        raise NotT7Error(f"{os.fspath(path)}: is not a regular file; copy its content to a regular file first")
    if max_bytes is not None and status.st_size > max_bytes:
        raise _too_large(path, max_bytes)


def _too_large(path: str | os.PathLike[str], max_bytes: int) -> NotT7Error:
    return NotT7Error(
        f"{os.fspath(path)}: is larger than {max_bytes >> 20:,} MiB, the limit for this type of file; name another file"
    )


def _cannot_open(path: str | os.PathLike[str], error: OSError | ValueError) -> DpnnBridgeError:
    name = os.fspath(path)
    if isinstance(error, ValueError):  # a null character in the name
        return NotT7Error(f"{name!r}: cannot be opened: {error}")
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return MissingFileError(f"{name}: cannot be opened: no such file or directory; {CHECK_PATH}")
    if error.errno in DISK_ERRORS or isinstance(error, BlockingIOError):
        error.filename = error.filename or name
        return as_package_error(error, NotT7Error, "reading")
    advice = f"; {CHECK_PATH}" if error.errno in (errno.ELOOP, errno.EINVAL, errno.ENAMETOOLONG) else ""
    return NotT7Error(f"{name}: cannot be opened: {(error.strerror or str(error)).lower()}{advice}")
