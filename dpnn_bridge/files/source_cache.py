"""Read a file once for several conversions, because each model of a file is converted separately."""

from __future__ import annotations

from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any

from dpnn_bridge.base.scoped import scoped
from dpnn_bridge.base.shards import checksum_of
from dpnn_bridge.legacy.pickles import read_source
from dpnn_bridge.loaders.encoding import Encoding
from dpnn_bridge.loaders.origin import LocalFile


class SourceCache:
    """Cache for the structure and the checksum of the last file, valid until the file changes.

    Conversions do not modify the structure. The elements of tensors are read from the file for each conversion.
    """

    def __init__(self) -> None:
        self._versions: dict[str, tuple[int, ...]] = {}
        self._entries: dict[str, Any] = {}

    def of(self, file: LocalFile) -> dict[str, Any]:
        """Return the cached entries of a file, to read or extend."""
        if not file.versions or file.versions != self._versions:
            self._versions, self._entries = file.versions, {}
        return self._entries


_cache: ContextVar[SourceCache | None] = ContextVar("cache of the last file", default=None)


def using_cache(cache: SourceCache) -> AbstractContextManager[None]:
    """Use ``cache`` for all reads inside the ``with`` block."""
    return scoped(_cache, cache)


def read_once(file: LocalFile) -> tuple[Any, Encoding] | None:
    """Return the cached result of :func:`~dpnn_bridge.legacy.pickles.read_source`."""
    entries = _entries(file)
    if "contents" not in entries:
        entries["contents"] = read_source(file)
    return entries["contents"]


def checksum_once(file: LocalFile) -> str:
    """Return the cached result of :func:`~dpnn_bridge.base.shards.checksum_of`."""
    entries = _entries(file)
    if "checksum" not in entries:
        entries["checksum"] = checksum_of(file.path)
    return entries["checksum"]


def _entries(file: LocalFile) -> dict[str, Any]:
    cache = _cache.get()
    return {} if cache is None else cache.of(file)
