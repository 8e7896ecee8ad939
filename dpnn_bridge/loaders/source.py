"""Where the bytes come from: a file, or bytes in memory. Read by position, never mapped.

Nothing is memory mapped on purpose: a mapped file that another process truncates kills this one (SIGBUS), and .t7
payloads are not aligned, so that they would have to be copied anyway. A positional read copies once, straight into
aligned memory, and a file that has shrunk gives an ordinary error.
"""

from __future__ import annotations

import os
import threading
from typing import Protocol

import numpy as np

from ..errors import T7FormatError


class Source(Protocol):
    """Bytes at positions."""

    name: str
    size: int

    def read(self, start: int, count: int) -> bytes:
        """``count`` bytes from ``start``, fewer at the end."""
        ...

    def load(self, start: int, dtype: np.dtype, count: int) -> np.ndarray:
        """``count`` elements from byte ``start`` as an aligned, writable array in native byte order."""
        ...


class BytesSource:
    """Bytes in memory."""

    def __init__(self, data: bytes | bytearray | memoryview, name: str = "") -> None:
        self._data = memoryview(data).cast("B")
        self.name, self.size = name, len(self._data)

    def read(self, start: int, count: int) -> bytes:
        return bytes(self._data[start : start + count])

    def load(self, start: int, dtype: np.dtype, count: int) -> np.ndarray:
        array = np.empty(count, dtype.newbyteorder("="))
        array[:] = np.frombuffer(self._data[start : start + count * dtype.itemsize], dtype)
        return array


class FileSource:
    """A file that stays open while something still refers to its bytes."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed with the last storage that needs it
        self._lock = threading.Lock()
        self.name = os.fspath(path)
        self.size = os.fstat(self._file.fileno()).st_size

    def read(self, start: int, count: int) -> bytes:
        buffer = bytearray(max(0, min(count, self.size - start)))
        filled = self._fill(start, memoryview(buffer))
        return bytes(buffer[:filled])

    def load(self, start: int, dtype: np.dtype, count: int) -> np.ndarray:
        array = np.empty(count, dtype)
        if count and self._fill(start, memoryview(array).cast("B")) < array.nbytes:
            raise T7FormatError(
                f"the file was changed or truncated since it was opened: {array.nbytes} bytes of a storage are gone; "
                "read it again, with lazy=False if it may change",
                offset=start,
                source=self.name,
            )
        if not dtype.isnative:
            array = array.byteswap(inplace=True).view(dtype.newbyteorder("="))
        return array

    def _fill(self, start: int, buffer: memoryview) -> int:
        """Read into ``buffer`` until it is full or the file ends; returns the number of bytes."""
        filled = 0
        with self._lock:
            self._file.seek(start)
            while filled < len(buffer):
                count = self._file.readinto(buffer[filled:])
                if not count:
                    break
                filled += count
        return filled
