"""Read bytes by position from a file or from memory, without memory mapping.

If another process truncates a memory-mapped file, this process is killed (SIGBUS). The elements in a .t7 file are not
aligned, so they must be copied anyway. A read at a position copies them once, into aligned memory, and raises an
exception if the file was truncated.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Protocol

import numpy as np

from dpnn_bridge.base.reading import open_unbuffered, retry_eagain
from dpnn_bridge.base.regular import check_file
from dpnn_bridge.errors import T7FormatError

#: bytes of a huge page, and minimum bytes of an array that is aligned to huge pages
_PAGE, _ALIGNED = 1 << 21, 1 << 24


class Source(Protocol):
    """Bytes that are read by position."""

    name: str
    size: int

    def read(self, start: int, count: int) -> bytes:
        """Return ``count`` bytes from ``start``, or fewer at the end."""
        ...

    def load(self, start: int, dtype: np.dtype, count: int) -> np.ndarray:
        """Return ``count`` elements from byte ``start`` as an aligned, writable array in native byte order."""
        ...


class BytesSource:
    """Bytes in memory."""

    name = ""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._data = memoryview(data).cast("B")
        self.size = len(self._data)

    def read(self, start: int, count: int) -> bytes:
        return bytes(self._data[start : start + count])

    def load(self, start: int, dtype: np.dtype, count: int) -> np.ndarray:
        return np.frombuffer(self._data[start : start + count * dtype.itemsize], dtype).astype(dtype.newbyteorder("="))


class FileSource:
    """A file that stays open until the last object that reads from it is deleted.

    Raises:
        T7Error: The path is not a regular file, see :func:`~dpnn_bridge.base.regular.check_file`.
    """

    def __init__(self, path: str | os.PathLike[str], name: str | None = None) -> None:
        check_file(path)
        self._file = open_unbuffered(path)  # closed by __del__
        self._lock = threading.Lock()
        self.name = os.fspath(path) if name is None else name
        self.size = retry_eagain(lambda: os.fstat(self._file.fileno()), self.name).st_size

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()

    def read(self, start: int, count: int) -> bytes:
        buffer = bytearray(max(0, min(count, self.size - start)))
        self.fill(start, memoryview(buffer))
        return bytes(buffer)

    def load(self, start: int, dtype: np.dtype, count: int) -> np.ndarray:
        array = _empty(count, dtype)
        if count:
            self.fill(start, array.view(np.uint8).data)
        return array if dtype.isnative else array.byteswap(inplace=True).view(dtype.newbyteorder("="))

    def fill(self, start: int, buffer: memoryview) -> None:
        """Read bytes from ``start`` into existing memory."""
        filled = 0
        while filled < len(buffer):
            count = self._read_at(start + filled, buffer[filled:])
            if not count:
                raise T7FormatError(
                    f"the file was truncated after it was opened: {len(buffer) - filled} bytes are missing; "
                    "read it with lazy=False if other programs may change it",
                    offset=start + filled,
                    source=self.name,
                )
            filled += count

    def _read_at(self, position: int, buffer: memoryview) -> int:
        # preadv does not use the file position, which forked processes share
        if sys.platform != "win32" and hasattr(os, "preadv"):
            return retry_eagain(lambda: os.preadv(self._file.fileno(), [buffer], position), self.name)
        with self._lock:
            self._file.seek(position)
            return retry_eagain(lambda: self._file.readinto(buffer), self.name)


def _empty(count: int, dtype: np.dtype) -> np.ndarray:
    """Return an uninitialized array. Large arrays are aligned to huge pages, so that filling takes half the time."""
    size = count * dtype.itemsize
    if size < _ALIGNED:
        return np.empty(count, dtype)
    block = np.empty(size + _PAGE, np.uint8)
    start = -block.ctypes.data % _PAGE
    return block[start : start + size].view(dtype)
