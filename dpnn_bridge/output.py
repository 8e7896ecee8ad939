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
    """A temporary file beside ``path`` that takes its place when the block ends well, and vanishes otherwise."""
    path = Path(path)
    check_output(path, force)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
