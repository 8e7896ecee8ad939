"""Read arrays of untrusted ``.npy`` files. The caller limits the memory."""

from __future__ import annotations

import io
import math
from typing import IO

import numpy as np

from dpnn_bridge.errors import T7FormatError

_MAGIC = b"\x93NUMPY"
#: bytes of a header; numpy's own has about a hundred
_LONGEST_HEADER = 10_000
_CHUNK = 1 << 20


class ArrayHeader:
    """The header of a ``.npy`` file.

    Args:
        file: open for reading bytes, at its beginning; it is read up to the elements.

    Attributes:
        shape: sizes.
        dtype: of numbers and booleans.
        fortran: the first dimension varies fastest.

    Raises:
        T7FormatError: it is no array of numbers.
    """

    def __init__(self, file: IO[bytes]) -> None:
        version = file.read(8)
        if not version.startswith(_MAGIC) or version[6:] not in (b"\1\0", b"\2\0"):
            raise T7FormatError("not a numpy array of version 1 or 2")
        length = file.read(2 if version[6] == 1 else 4)
        if int.from_bytes(length, "little") > _LONGEST_HEADER:
            raise T7FormatError(f"a numpy array with a header of more than {_LONGEST_HEADER:,} bytes")
        header = io.BytesIO(length + file.read(int.from_bytes(length, "little")))
        read = np.lib.format.read_array_header_1_0 if version[6] == 1 else np.lib.format.read_array_header_2_0
        try:
            self.shape, self.fortran, self.dtype = read(header)
        except Exception as error:  # the header is parsed as Python, without running it
            raise T7FormatError(f"the header of a numpy array is damaged: {str(error).splitlines()[0]:.200}") from error
        if self.dtype.kind not in "biuf" or any(n < 0 for n in self.shape):
            raise T7FormatError(f"a numpy array of {self.dtype!s:.80} {self.shape}; only numbers are read")

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return math.prod(self.shape) * self.dtype.itemsize

    def elements(self, file: IO[bytes]) -> np.ndarray:
        """Return the array, in native byte order, from a file positioned after the header."""
        data = bytearray()
        while len(data) < self.nbytes and (part := file.read(min(_CHUNK, self.nbytes - len(data)))):
            data += part
        if len(data) < self.nbytes or file.read(1):
            raise T7FormatError(f"a numpy array of {self.shape} has fewer elements than its header states")
        array = np.frombuffer(data, self.dtype).reshape(self.shape, order="F" if self.fortran else "C")
        return array.astype(self.dtype.newbyteorder("="), copy=False)
