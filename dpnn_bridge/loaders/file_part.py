"""Read a part of a file as an open file."""

from __future__ import annotations

from dpnn_bridge.loaders.source import FileSource

#: bytes that are read at once, and longest line
_BUFFER = 1 << 16


class FilePart:
    """A byte range of a source with the interface of an open file."""

    def __init__(self, source: FileSource, start: int = 0, size: int | None = None) -> None:
        self._source, self.position = source, start
        self._stop = source.size if size is None else start + size
        self._buffer, self._first = b"", 0

    def read(self, size: int) -> bytes:
        size = min(size, self._stop - self.position)
        if self.position < self._first or self.position + size > self._first + len(self._buffer):
            self._first = self.position
            self._buffer = self._source.read(self.position, min(max(size, _BUFFER), self._stop - self.position))
        data = self._buffer[self.position - self._first :][:size]
        self.position += len(data)
        return data

    def readline(self) -> bytes:
        start = self.position
        line = self.read(_BUFFER).partition(b"\n")[0] + b"\n"
        self.position = min(start + len(line), self._stop)
        return line
