"""Read arrays of untrusted ``.npy`` files. The caller limits the memory."""

from __future__ import annotations

import math
import re
from typing import IO

import numpy as np

from dpnn_bridge.errors import T7FormatError

_MAGIC = b"\x93NUMPY"
#: bytes of a header; numpy's own has about a hundred
_LONGEST_HEADER = 10_000
#: what numpy writes in a header, of Python 2 too. Its parser evaluates more; types such as "<m8[1s/0]" end the process
_ITEM = re.compile(
    r"""'(?:descr'\s*:\s*'(?P<descr>[<>=|]?(?:[iu][1248]|f[248]|b1))'|"""
    r"""fortran_order'\s*:\s*(?P<fortran>True|False)|"""
    r"""shape'\s*:\s*\((?P<shape>[0-9L,\s]*)\))(?:\s*,)?"""
)
_SIZE = re.compile("[0-9]+")
_MOST_DIGITS = 18
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
        length = int.from_bytes(file.read(2 if version[6] == 1 else 4), "little")
        if length > _LONGEST_HEADER:
            raise T7FormatError(f"a numpy array with a header of more than {_LONGEST_HEADER:,} bytes")
        header = file.read(length).decode("latin-1")
        found = {item.lastgroup: item[item.lastgroup] for item in _ITEM.finditer(header) if item.lastgroup}
        sizes = _SIZE.findall(found.get("shape", ""))
        if (
            "".join(_ITEM.sub("", header).split()) != "{}"
            or len(found) < 3
            or any(len(n) > _MOST_DIGITS for n in sizes)
        ):
            raise T7FormatError(f"not an array of numbers: a numpy array with the header {header.strip()!r:.200}")
        self.shape, self.dtype = tuple(map(int, sizes)), np.dtype(found["descr"])
        self.fortran = found["fortran"] == "True"

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
