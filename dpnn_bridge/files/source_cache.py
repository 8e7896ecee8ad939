"""Read a file once for several conversions: each model of a file is converted on its own."""

from __future__ import annotations

from contextlib import AbstractContextManager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from dpnn_bridge.base.scoped import scoped
from dpnn_bridge.base.shards import checksum_of, state_of
from dpnn_bridge.legacy.pickles import read_source
from dpnn_bridge.loaders.encoding import Encoding
from dpnn_bridge.loaders.origin import LocalFile


class SourceCache:
    """The structure and the checksum of the file that was read last, as long as it does not change.

    A conversion changes nothing in the structure, and elements are read from the file for each conversion.
    """

    def __init__(self) -> None:
        self._path, self._state = Path(), list[tuple[int, ...]]()
        self._found: dict[str, Any] = {}

    def of(self, path: Path) -> dict[str, Any]:
        """Return what is known of a file, for more of it to be added."""
        state = state_of(path)
        if not state or (path, state) != (self._path, self._state):
            self._path, self._state, self._found = path, state, {}
        return self._found


_cache: ContextVar[SourceCache | None] = ContextVar("the file that was read last", default=None)


def using_cache(cache: SourceCache) -> AbstractContextManager[None]:
    """Take from ``cache`` inside the ``with`` block what it knows, and add to it what is read."""
    return scoped(_cache, cache)


def read_once(file: LocalFile) -> tuple[Any, Encoding] | None:
    """Return what :func:`~dpnn_bridge.legacy.pickles.read_source` returns."""
    found = _found(file.path)
    if "contents" not in found:
        found["contents"] = read_source(file)
    return found["contents"]


def checksum_once(path: Path) -> str:
    """Return what :func:`~dpnn_bridge.base.shards.checksum_of` returns."""
    found = _found(path)
    if "checksum" not in found:
        found["checksum"] = checksum_of(path)
    return found["checksum"]


def _found(path: Path) -> dict[str, Any]:
    cache = _cache.get()
    return {} if cache is None else cache.of(path)
