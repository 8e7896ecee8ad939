"""Recognize files under several names or links: a file of a set, and two names of one file."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

from dpnn_bridge.base.folder_locks import LONGEST_PATH
from dpnn_bridge.base.folders import temporary_folder
from dpnn_bridge.base.remote import Location, url_place
from dpnn_bridge.errors import OptionError

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
        for file in (file for file in files if file not in self.urls and len(str(Path(file))) <= LONGEST_PATH):
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


def check_distinct(*outputs: Location | None) -> None:
    """Raise an error if two outputs are the same file, also through links to folders or in other case, or one place.

    Args:
        *outputs: Files and URLs; a manifest without links, because lines are appended to their targets.

    Raises:
        OptionError: Two outputs are the same file.
    """
    same: tuple[Location, Location] | None = find_same(output for output in outputs if isinstance(output, Path))
    places: dict[str, str] = {}
    for url in (output for output in outputs if isinstance(output, str)):
        place = url_place(url)
        if place in places:
            same = places[place], url
        places[place] = url
    if same is not None:
        raise OptionError(
            f"two outputs are the same file: {same[0]} and {same[1]}; choose another name for one of them"
        )


def find_same(files: Iterable[Path]) -> tuple[Path, Path] | None:
    """Return two paths that name one file, which need not exist yet, or None.

    Args:
        files: Paths. Links to folders are followed, and links to files are not. A folder may be mounted twice.
    """
    place_of = cache(_place)
    groups: dict[tuple[object, str], dict[str, Path]] = {}
    folders: dict[object, Path] = {}
    for file in files:
        folder, identity, missing = place_of(file.parent)
        name = os.path.join(missing, file.name)
        similar = groups.setdefault((identity, folded(name)), {})
        if name in similar:
            return similar[name], file
        similar[name], folders[identity] = file, folder
    pairs = (_find_same_name(folders[key[0]], similar) for key, similar in groups.items() if len(similar) > 1)
    return next(filter(None, pairs), None)


def _place(parent: Path) -> tuple[Path, object, str]:
    """Return the existing folder in a path, its identity, and the missing folders of the path, relative to it."""
    path = Path(os.path.abspath(parent))
    with suppress(OSError):  # a link that cannot be read is left to writing, which names the output
        path = Path(os.path.realpath(parent))
    folder = next((found for found in (path, *path.parents) if os.path.isdir(found)), path)  # False for a disk error
    identity: object = folder
    with suppress(OSError):
        status = os.stat(folder)
        if status.st_ino:  # some file systems have no inode numbers
            identity = status.st_dev, status.st_ino
    return folder, identity, os.path.relpath(path, folder)


def _find_same_name(folder: Path, similar: dict[str, Path]) -> tuple[Path, Path] | None:
    """Create files of these names in a temporary folder: only the file system knows which names are equal there."""
    with suppress(OSError), temporary_folder(folder) as temporary:
        created: dict[Path, Path] = {}
        for name, file in similar.items():
            path = temporary / name
            if path.exists():
                return next(((first, file) for other, first in created.items() if other.samefile(path)), None)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            created[path] = file
    return None
