"""Read ``.npy`` files that are not trusted. The caller checks ``nbytes`` to limit the memory."""

from __future__ import annotations

import math
import re
from typing import IO

import numpy as np

from dpnn_bridge.errors import T7FormatError

_MAGIC = b"\x93NUMPY"
#: maximum length of a header in bytes; numpy writes about a hundred
_MAX_HEADER = 10_000
#: an entry of a header that numpy writes, in Python 2 too. numpy's own parser accepts more, and crashes on "<m8[1s/0]"
_ITEM = re.compile(
    r"""'(?:descr'\s*:\s*'(?P<descr>[<>=|]?(?:[iu][1248]|f[248]|c8|c16|b1|[US][0-9]{1,8}))'|"""
    r"""fortran_order'\s*:\s*(?P<fortran>True|False)|"""
    r"""shape'\s*:\s*\((?P<shape>[0-9L,\s]*)\))(?:\s*,)?"""
)
_SIZE = re.compile("[0-9]+")
_MAX_DIGITS = 18
_CHUNK = 1 << 20


class ArrayHeader:
    """The header of a ``.npy`` file.

    Args:
        file: binary file at its beginning; it is read up to the elements.
        text: whether the elements may be strings or complex numbers.

    Attributes:
        shape: shape of the array.
        dtype: element type: a number, a boolean or a string.
        fortran: whether the elements are in Fortran order (column-major).

    Raises:
        T7FormatError: the file is not an array of these types.
    """

    def __init__(self, file: IO[bytes], text: bool = False) -> None:
        version = file.read(8)
        if not version.startswith(_MAGIC) or version[6:] not in (b"\1\0", b"\2\0"):
            raise T7FormatError("not a numpy array of version 1 or 2")
        length = int.from_bytes(file.read(2 if version[6] == 1 else 4), "little")
        if length > _MAX_HEADER:
            raise T7FormatError(f"a numpy array with a header of more than {_MAX_HEADER:,} bytes")
        header = file.read(length).decode("latin-1")
        found = {item.lastgroup: item[item.lastgroup] for item in _ITEM.finditer(header) if item.lastgroup}
        sizes = _SIZE.findall(found.get("shape", ""))
        parsed = "".join(_ITEM.sub("", header).split()) == "{}" and len(found) == len(_ITEM.groupindex)
        if (
            not parsed
            or any(len(n) > _MAX_DIGITS for n in sizes)
            or (not text and found["descr"][1:2] in ("U", "S", "c"))
        ):
            kind = "numbers or text" if text else "numbers"
            raise T7FormatError(f"not an array of {kind}: a numpy array with the header {header.strip()!r:.200}")
        self.shape, self.dtype = tuple(map(int, sizes)), np.dtype(found["descr"])
        self.fortran = found["fortran"] == "True"

    @property
    def nbytes(self) -> int:
        """Number of bytes of all elements."""
        return math.prod(self.shape) * self.dtype.itemsize

    def elements(self, file: IO[bytes]) -> np.ndarray:
        """Return the array, in native byte order.

        Args:
            file: the file, positioned after the header.

        Raises:
            T7FormatError: the file has too few or too many elements.
        """
        data = bytearray()
        while len(data) < self.nbytes and (part := file.read(min(_CHUNK, self.nbytes - len(data)))):
            data += part
        if len(data) < self.nbytes or file.read(1):
            more = "more" if len(data) == self.nbytes else "fewer"
            raise T7FormatError(f"a numpy array of shape {self.shape} has {more} elements than its header states")
        array = np.frombuffer(data, self.dtype).reshape(self.shape, order="F" if self.fortran else "C")
        return array.astype(self.dtype.newbyteorder("="), copy=False)
