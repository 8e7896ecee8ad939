"""Recognize files under several names or links: a file of a set, and two names of one file."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from dpnn_bridge.base.folders import temporary_folder

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


def folded(name: str) -> str:
    """Return a text that is equal for all names of one file, also if the file system ignores case or Unicode forms."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def find_same(files: Iterable[Path]) -> tuple[Path, Path] | None:
    """Return two paths that name one file, which need not exist yet, or None.

    Args:
        files: Paths; links to folders are followed, and links to files are not.
    """
    by_name: dict[str, dict[str, Path]] = {}
    for file in files:
        path = os.path.join(os.path.realpath(file.parent), file.name)
        similar = by_name.setdefault(folded(path), {})
        if path in similar:
            return similar[path], file
        similar[path] = file
    pairs = (_find_same_name(similar) for similar in by_name.values() if len(similar) > 1)
    return next(filter(None, pairs), None)


def _find_same_name(similar: dict[str, Path]) -> tuple[Path, Path] | None:
    """Create files of these names in a temporary folder: only the file system knows which names are equal there."""
    common = Path(os.path.commonpath(map(os.path.dirname, similar)))
    existing = next((folder for folder in (common, *common.parents) if folder.is_dir()), common)
    with suppress(OSError), temporary_folder(existing) as temporary:
        created: dict[Path, Path] = {}
        for path, file in similar.items():
            name = temporary / os.path.relpath(path, common)
            if name.exists():
                return next(first for other, first in created.items() if other.samefile(name)), file
            name.parent.mkdir(parents=True, exist_ok=True)
            name.touch()
            created[name] = file
    return None
