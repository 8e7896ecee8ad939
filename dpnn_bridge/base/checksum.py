"""Compute the SHA-256 of a file."""

from __future__ import annotations

import hashlib
import os
from typing import IO

from dpnn_bridge.base.reading import open_input
from dpnn_bridge.base.regular import check_file

_CHUNK = 1 << 20


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
