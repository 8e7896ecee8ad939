"""Lock temporary folders: their owners exclusively, programs that read files in an abandoned one together."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

#: names of temporary folders
NAME = re.compile(r"\.dpnn-[0-9a-f]{16}")
#: longest path that Linux opens; the folders of a longer one would take quadratic memory
LONGEST_PATH = 4096


@contextmanager
def keep_folders_of(*inputs: Path) -> Iterator[None]:
    """Keep temporary folders of killed programs that contain an input: lock them for the ``with`` block."""
    with ExitStack() as stack:
        if sys.platform != "win32":
            places = set[Path]()
            with suppress(OSError, ValueError):  # no name of a file, which the reader reports
                short = [path for path in inputs if len(os.fspath(path)) <= LONGEST_PATH]
                places = {p for path in short for p in (Path(os.path.abspath(path)), Path(os.path.realpath(path)))}
            for folder in {f for place in places for f in (place, *place.parents) if NAME.fullmatch(f.name)}:
                with suppress(OSError, ValueError):
                    stack.enter_context(opened(folder, shared=True))
        yield


@contextmanager
def opened(folder: Path, shared: bool = False) -> Iterator[bool]:
    """Open and lock a folder for the ``with`` block; yield whether the lock succeeded.

    Args:
        folder: the folder.
        shared: lock it to read its files, not to own it.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)  # a pipe would be waited for
    try:
        yield _can_lock(descriptor, shared)
    finally:
        os.close(descriptor)


def _can_lock(descriptor: int, shared: bool) -> bool:
    with suppress(OSError):
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        return True
    return False
