"""Write output files. An I/O error names the file, and writes that return EAGAIN are repeated."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dpnn_bridge.base.reading import patiently


class _OutputFile(io.FileIO):
    def write(self, data: Any) -> int:
        return patiently(lambda: super(_OutputFile, self).write(data), os.fsdecode(self.name))


def open_output(path: str | os.PathLike[str]) -> io.BufferedWriter:
    """Open a file for writing bytes, as ``open(path, "wb")``; opening and writing it is done by :func:`patiently`."""
    return io.BufferedWriter(patiently(lambda: _OutputFile(path, "wb"), os.fspath(path)))


def write_file(path: str | os.PathLike[str], content: str) -> None:
    """Write a text file in UTF-8."""
    with open_output(path) as file:
        file.write(content.encode())


def move(how: Callable[[Path, Path], object], source: Path, target: Path) -> None:
    """Rename or link a file, by ``os.replace``, ``os.rename`` or ``os.link``, done by :func:`patiently`."""

    def moved() -> bool:
        how(source, target)
        return True

    patiently(moved, os.fspath(target))
