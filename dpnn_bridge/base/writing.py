"""Write output files. An I/O error names the file, and writes that return EAGAIN are repeated."""

from __future__ import annotations

import io
import os
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from dpnn_bridge.base.checksum import chunks_of, crc32_of
from dpnn_bridge.base.reading import open_input, retry_eagain
from dpnn_bridge.errors import VerificationError

#: bytes of the smallest write that only tensors need
_LARGE = 1 << 20


class WrittenBytes:
    """Checksums of what was written to a file, to compare the file with.

    Args:
        tensors: whether the caller compares tensors itself. Then writes of a MiB or more are not compared again.
    """

    def __init__(self, *, tensors: bool = False) -> None:
        self._tensors = tensors
        self._pieces: list[tuple[int, int, int]] = []  # start, end, checksum; sorted, without overlaps

    def add(self, start: int, data: memoryview) -> None:
        """Add a write. Earlier writes that it overlaps are not compared."""
        pieces, end = self._pieces, start + len(data)
        first = bisect_left(pieces, (start,))
        first -= bool(first and pieces[first - 1][1] > start)
        last = bisect_left(pieces, (end,), first)
        compared = [] if self._tensors and len(data) >= _LARGE else [(start, end, crc32_of([data]))]
        pieces[first:last] = compared

    def compare(self, path: str | os.PathLike[str]) -> None:
        """Raise a VerificationError if the file differs."""
        with open_input(path) as file:
            for start, end, expected in self._pieces:
                file.seek(start)
                if crc32_of(chunks_of(file, end - start)) != expected:
                    raise not_as_written(path)


class _OutputFile(io.FileIO):
    written: WrittenBytes | None = None

    def write(self, data: Any) -> int:
        count = retry_eagain(lambda: super(_OutputFile, self).write(data), os.fsdecode(self.name))
        if self.written is not None:
            self.written.add(self.tell() - count, memoryview(data).cast("B")[:count])
        return count


def open_output(
    path: str | os.PathLike[str], written: WrittenBytes | None = None, *, replace: bool = False
) -> io.BufferedWriter:
    """Open a new file for writing bytes, as ``open(path, "xb")``, with :func:`retry_eagain`.

    Args:
        path: the file, usually in a temporary folder. Another program may have put a link in place of the folder.
        written: object that gets everything that is written.
        replace: whether an existing file is overwritten.
    """
    file = retry_eagain(lambda: _OutputFile(path, "wb" if replace else "xb"), os.fsdecode(path))
    file.written = written
    return io.BufferedWriter(file)


@contextmanager
def open_compared(path: str | os.PathLike[str], *, tensors: bool = False) -> Iterator[BinaryIO]:
    """Open a file as :func:`open_output`; at the end of the ``with`` block, read it back and compare.

    Args:
        path: the file.
        tensors: see :class:`WrittenBytes`.

    Raises:
        VerificationError: the file differs.
    """
    written = WrittenBytes(tensors=tensors)
    with open_output(path, written) as file:
        yield file
    written.compare(path)


def write_file(path: str | os.PathLike[str], content: str) -> None:
    """Write a text file in UTF-8, read it back and compare.

    Raises:
        VerificationError: the file differs.
    """
    with open_compared(path) as file:
        file.write(content.encode())


def move(function: Callable[[Path, Path], object], source: Path, target: Path) -> None:
    """Call ``os.replace``, ``os.rename`` or ``os.link`` with :func:`retry_eagain`.

    A network file system may report an error although it has moved the file. Such an error is ignored.
    """

    def moved() -> bool:
        status = os.stat(source)
        try:
            function(source, target)
        except OSError:
            if not _is_at(target, status):
                raise
        return True

    retry_eagain(moved, os.fspath(target))


def _is_at(path: Path, status: os.stat_result) -> bool:
    """Return whether the file with this status is at ``path``. Some file systems have no inode numbers."""
    try:
        return status.st_ino != 0 and os.path.samestat(status, os.stat(path))
    except OSError:
        return False


def not_as_written(
    path: str | os.PathLike[str], difference: str = "the content differs", detail: str = ""
) -> VerificationError:
    """Return the error about a file whose content is not what was written.

    Args:
        path: the file, for the message.
        difference: subject and verb, such as ``"the names differ"``.
        detail: the first difference.
    """
    found = f": {detail}" if detail else ""
    return VerificationError(f"{path}: {difference} after reading back{found}; the disk may be full or failing")
