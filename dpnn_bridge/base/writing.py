"""Write output files. An I/O error names the file, and writes that return EAGAIN are repeated."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dpnn_bridge.base.reading import retry_eagain
from dpnn_bridge.errors import VerificationError


class _OutputFile(io.FileIO):
    def write(self, data: Any) -> int:
        return retry_eagain(lambda: super(_OutputFile, self).write(data), os.fsdecode(self.name))


def open_output(path: str | os.PathLike[str]) -> io.BufferedWriter:
    """Open a file for writing bytes, as ``open(path, "wb")``, with :func:`retry_eagain`."""
    return io.BufferedWriter(retry_eagain(lambda: _OutputFile(path, "wb"), os.fsdecode(path)))


def write_file(path: str | os.PathLike[str], content: str) -> None:
    """Write a text file in UTF-8."""
    with open_output(path) as file:
        file.write(content.encode())


def move(function: Callable[[Path, Path], object], source: Path, target: Path) -> None:
    """Call ``os.replace``, ``os.rename`` or ``os.link`` with :func:`retry_eagain`."""

    def moved() -> bool:
        function(source, target)
        return True

    retry_eagain(moved, os.fspath(target))


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
