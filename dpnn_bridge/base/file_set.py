"""Find a file among others by its identity, under any name or link."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress

StrPath = str | os.PathLike[str]


class FileSet:
    """A set of files that finds a file under another name, in constant time.

    Args:
        files: The files. One that does not exist yet is found by its path later.
    """

    def __init__(self, files: Iterable[StrPath]) -> None:
        self._by_path: dict[str, StrPath] = {}
        self._by_identity: dict[tuple[int, int], StrPath] = {}
        for file in files:
            with suppress(OSError, ValueError):
                self._by_path.setdefault(os.path.realpath(file), file)
                status = os.stat(file)
                self._by_identity.setdefault((status.st_dev, status.st_ino), file)

    @classmethod
    def of(cls, files: Iterable[StrPath] | FileSet) -> FileSet:
        """Return the set of some files, or the set itself."""
        return files if isinstance(files, FileSet) else cls(files)

    def find(self, path: StrPath, status: os.stat_result) -> StrPath | None:
        """Return the file of the set that ``path`` leads to, or None.

        Args:
            path: The path.
            status: What ``os.stat`` returns for it.
        """
        same = self._by_identity.get((status.st_dev, status.st_ino))
        if same is not None:
            with suppress(OSError):  # it was removed, and another file may have its inode
                if os.path.samestat(status, os.stat(same)):
                    return same
        return self._by_path.get(os.path.realpath(path))
