"""Files that appear complete or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dpnn_bridge.errors import OutputExistsError

StrPath = str | os.PathLike[str]


def check_output(path: StrPath, force: bool) -> None:
    """Raises :class:`OutputExistsError` when ``path`` exists and may not be replaced."""
    if os.path.exists(path) and not force:
        raise OutputExistsError(f"{path} exists; use --force (force=True) to replace it")


@contextmanager
def replacing(path: StrPath, *, force: bool) -> Iterator[Path]:
    """A temporary path that takes the place of ``path`` when the block ends well, and vanishes otherwise.

    It lies in a folder of its own beside ``path``: a file that exists before it is written is flushed to the disk by
    ext4 when it is closed, which doubles the time.
    """
    path = Path(path)
    check_output(path, force)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".dpnn-", dir=path.parent) as folder:
        temporary = Path(folder, path.name)
        yield temporary
        temporary.replace(path)
