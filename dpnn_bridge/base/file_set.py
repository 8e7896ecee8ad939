"""Recognize a file of a set by its identity, under any name or link."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress

StrPath = str | os.PathLike[str]


class FileSet:
    """A set of files that recognizes a file under another name, in constant time.

    Args:
        files: Paths of the files. A file that does not exist yet is recognized by its path. For a file in a store, its
            :func:`~dpnn_bridge.base.remote.url_place`.

    Attributes:
        urls: The files in stores.
    """

    def __init__(self, files: Iterable[StrPath]) -> None:
        files = tuple(files)
        self.urls = {file for file in files if isinstance(file, str) and "://" in file}
        self._by_path: dict[str, StrPath] = {}
        self._by_identity: dict[tuple[int, int], StrPath] = {}
        for file in (file for file in files if file not in self.urls):
            with suppress(OSError, ValueError):
                self._by_path.setdefault(os.path.realpath(file), file)
                status = os.stat(file)
                self._by_identity.setdefault((status.st_dev, status.st_ino), file)

    def find(self, path: StrPath, status: os.stat_result) -> StrPath | None:
        """Return the path in the set that refers to the same file as ``path``, or None.

        Args:
            path: The path of an existing file.
            status: Result of ``os.stat(path)``.
        """
        same = self._by_identity.get((status.st_dev, status.st_ino))
        if same is not None:
            with suppress(OSError):  # the file of the set was removed; another file may have its inode
                if os.path.samestat(status, os.stat(same)):
                    return same
        return self._by_path.get(os.path.realpath(path))
