"""Compute the SHA-256 of a file, and CRC-32 checksums."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from typing import IO

from zlib_ng.zlib_ng import crc32

from dpnn_bridge.base.reading import open_input
from dpnn_bridge.base.regular import check_file

_CHUNK = 1 << 18


def sha256_of(file: str | os.PathLike[str] | IO[bytes]) -> str:
    """Return the checksum of a file, or of the rest of an open file, in hexadecimal digits."""
    if not isinstance(file, (str, os.PathLike)):
        digest = hashlib.sha256()
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
        return digest.hexdigest()
    check_file(file)
    with open_input(file) as opened:
        return sha256_of(opened)


def crc32_of(chunks: Iterable[bytes | memoryview]) -> int:
    """Return the CRC-32 of consecutive chunks."""
    checksum = 0
    for chunk in chunks:
        checksum = crc32(chunk, checksum)
    return checksum


def chunks_of(file: IO[bytes], size: int) -> Iterator[bytes]:
    """Yield the next ``size`` bytes of an open file, or fewer if the file ends, in chunks."""
    while size > 0 and (chunk := file.read(min(_CHUNK, size))):
        size -= len(chunk)
        yield chunk
