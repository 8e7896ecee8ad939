"""Write the primitive values of a .t7 stream."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import BinaryIO, Literal

import numpy as np

from dpnn_bridge.errors import LuaValueError
from dpnn_bridge.objects import LuaStorage, elements

#: Size of the buffer in bytes.
_BUFFER = 1 << 20
#: Number of elements of a storage that are converted together.
_CHUNK = 1 << 20


class BinarySink:
    """Writer of primitive values in Torch7's binary format.

    Args:
        file: file open for writing bytes.
        long_size: bytes of a C ``long``, 4 or 8.
        big_endian: byte order.
    """

    def __init__(self, file: BinaryIO, *, long_size: int = 8, big_endian: bool = False) -> None:
        self._file, self.long_size = file, long_size
        self.order: Literal["<", ">"] = ">" if big_endian else "<"
        self._long = "q" if long_size == 8 else "i"
        self._pack_int = struct.Struct(f"{self.order}i").pack
        self._pack_double = struct.Struct(f"{self.order}d").pack
        self._buffer = bytearray()

    def int(self, value: int) -> None:
        """Write a C ``int``."""
        self._buffer += self._pack_int(value)

    def double(self, value: float) -> None:
        """Write a C ``double``."""
        self._buffer += self._pack_double(value)

    def long(self, value: int) -> None:
        """Write a C ``long``."""
        self.longs((value,))

    def longs(self, values: Sequence[int]) -> None:
        """Write C longs."""
        try:
            self._buffer += struct.pack(f"{self.order}{len(values)}{self._long}", *values)
        except struct.error:
            raise LuaValueError(f"{values} do not fit into longs of {self.long_size} bytes") from None

    def bytes(self, value: bytes) -> None:
        """Write raw bytes."""
        self._buffer += value
        if len(self._buffer) >= _BUFFER:
            self.flush()

    def string(self, value: bytes) -> None:
        """Write the number of bytes and the bytes."""
        self.int(len(value))
        self.bytes(value)

    def storage(self, storage: LuaStorage) -> None:
        """Write the number of elements and the elements."""
        self.long(storage.size)
        array = elements(storage)
        item = storage.dtype
        if self.long_size == 4 and "Long" in storage.class_name:
            item = np.dtype(np.int32)
            if storage.size and (array.min() < -(1 << 31) or array.max() >= 1 << 31):
                raise LuaValueError(f"elements of a {storage.class_name} do not fit into longs of 4 bytes")
        item = item.newbyteorder(self.order)
        self.flush()
        for start in range(0, storage.size, _CHUNK):
            self._file.write(np.ascontiguousarray(array[start : start + _CHUNK], item).view(np.uint8).data)

    def flush(self) -> None:
        """Write the buffer to the file."""
        self._file.write(self._buffer)
        self._buffer.clear()


class AsciiSink:
    """Writer of primitive values in Torch7's ASCII format: ``%.9g`` for float and half, ``%.17g`` for double."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def int(self, value: int) -> None:
        """Write a C ``int``."""
        self._file.write(b"%d\n" % value)

    def long(self, value: int) -> None:
        """Write a C ``long``."""
        self.int(value)

    def longs(self, values: Sequence[int]) -> None:
        """Write C longs."""
        self._line(map(str, values))

    def double(self, value: float) -> None:
        """Write a C ``double``."""
        self._line(_formatted(np.array([value])))

    def bytes(self, value: bytes) -> None:
        """Write raw bytes."""
        if value:
            self._file.write(value)
            self._file.write(b"\n")

    def string(self, value: bytes) -> None:
        """Write the number of bytes and the bytes."""
        self.int(len(value))
        self.bytes(value)

    def storage(self, storage: LuaStorage) -> None:
        """Write the number of elements and the elements."""
        self.long(storage.size)
        array = elements(storage)
        if storage.dtype.itemsize == 1:
            self.bytes(array.tobytes())
        else:
            self._line(_formatted(array))

    def _line(self, words: Iterable[str]) -> None:
        line = " ".join(words)
        if line:
            self._file.write(line.encode() + b"\n")

    def flush(self) -> None:
        """Do nothing: there is no buffer."""


def _formatted(array: np.ndarray) -> Iterable[str]:
    """Format numbers as C's printf does, including the sign of NaN."""
    if array.dtype.kind == "i":
        return map(str, array.tolist())
    format_number = ("%.17g" if array.dtype == np.float64 else "%.9g").__mod__
    if np.isnan(array).any():
        negative = (np.isnan(array) & np.signbit(array)).tolist()
        return ["-nan" if n else format_number(x) for n, x in zip(negative, array.tolist(), strict=True)]
    return map(format_number, array.tolist())
