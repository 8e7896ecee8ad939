"""Read and write manifests: JSON Lines files with one line per conversion.

A line contains

    source, key, target   values of the task; local files have absolute paths
    sha256, arguments     checksum of the source; short checksum of the arguments that change the result
    target_sha256         checksum of the output; for shards see dpnn_bridge.base.shards.checksum_of
    verdict               "equal": the output was read back and equals the model; otherwise "failed"
    status, seconds       result of the task; duration
    message, exit_code    error of a failed task
    modules, parameters, unsupported, dpnn_bridge, host

If several lines have the same target, ``dpnn-convert`` reads the last one that is not ``failed``, and ``dpnn-verify``
the last one. Each line is appended in one write, so several programs may append to one file. ``cat`` joins several
manifests.
"""

from __future__ import annotations

import errno
import json
import os
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from dpnn_bridge.base.atomic import replacing
from dpnn_bridge.base.boundary import wrap_errors
from dpnn_bridge.base.display import listed
from dpnn_bridge.base.json_text import parse_json
from dpnn_bridge.base.reading import open_input, retry_eagain
from dpnn_bridge.base.regular import check_file
from dpnn_bridge.base.remote import manifest_path
from dpnn_bridge.base.writing import write_file
from dpnn_bridge.errors import OutputError, OutputExistsError, T7FormatError, T7Warning

Line = dict[str, Any]

#: required entries of a line, and the beginning of each line that this package writes
_REQUIRED, _LINE_START = ("source", "target", "verdict"), b'{"source": '
#: maximum size of a manifest (about two million lines) and of a line in bytes
_MAX_BYTES, _LONGEST_LINE = 1 << 30, 1 << 20


class Manifest:
    """A manifest to which lines are appended.

    Args:
        path: a new or existing file.

    Raises:
        OptionError: the path is a URL; object stores cannot append to a file.
        T7FormatError: the file is not a manifest.
        NotT7Error: the path is not a regular file, or the file is too large.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = manifest_path(path)
        self._file = os.path.realpath(self.path)  # a link that appears later in a shared folder is not followed
        lines, _ = _lines(self.path) if os.path.exists(self.path) else ([], [])
        self._last = {line["target"]: line for line in lines}
        self._equal = {line["target"]: line for line in lines if line["verdict"] == "equal"}

    def of(self, target: str) -> Line | None:
        """Return the last line for a target."""
        return self._last.get(target)

    def equal(self, target: str) -> Line | None:
        """Return the last line of a successful conversion to a target."""
        return self._equal.get(target)

    def add(self, line: Line) -> None:
        """Append a line in one write.

        Raises:
            OutputError: the line cannot be written.
        """
        self._last[line["target"]] = line
        if line.get("verdict") == "equal":
            self._equal[line["target"]] = line
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self._create(line):
                return
            with open(self._file, "ab+", buffering=0, opener=_open_without_link) as file:
                # a program that was killed may have left an incomplete last line
                incomplete = file.tell() and (file.seek(-1, 2), file.read(1))[1] != b"\n"
                text = b"\n" * bool(incomplete) + json.dumps(line).encode() + b"\n"
                if retry_eagain(lambda: file.write(text), str(self.path)) < len(text):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            reason = f"{error.strerror}; solve this and run the same command again to convert the missing files"
            raise OutputError(f"cannot write the manifest {self.path}: {reason}") from error

    def _create(self, line: Line) -> bool:
        """Create the file with its first line, complete or not at all; return False if the file exists."""
        if self.path.exists():
            return False
        try:
            with replacing(self.path, force=False) as temporary:
                write_file(temporary, json.dumps(line) + "\n")
        except OutputExistsError:  # another program has created it
            return False
        except OutputError as error:
            if isinstance(error.__cause__, OSError):  # the caller adds advice to the message
                raise error.__cause__ from error
            raise
        return True


def _open_without_link(name: str, flags: int) -> int:
    return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def last_lines(path: Path) -> dict[str, Line]:
    """Return the last line of each target, by target.

    Warns:
        T7Warning: a line is incomplete, because the program that wrote it was killed; the line is ignored.

    Raises:
        T7FormatError: a line is damaged.
        NotT7Error: the path is not a regular file, or the file is too large.
    """
    lines, incomplete = _lines(path)
    if incomplete:
        numbers = listed([str(number) for number in incomplete])
        which = f"line {numbers} is" if len(incomplete) == 1 else f"lines {numbers} are"
        advice = "run the conversion again to convert files that the other lines do not list"
        warnings.warn(f"{path}: {which} incomplete and ignored; {advice}", T7Warning, stacklevel=2)
    return {line["target"]: line for line in lines}


@wrap_errors(T7FormatError, "reading the manifest")
def _lines(path: Path) -> tuple[list[Line], list[int]]:
    """Return the lines of a manifest, and the numbers of incomplete lines of killed programs."""
    lines: list[Line] = []
    incomplete: list[int] = []
    check_file(path, _MAX_BYTES)
    with open_input(path) as file:
        for number, text in enumerate(iter(lambda: file.readline(_LONGEST_LINE), b""), 1):
            text = text.strip(b"\0\r\n")  # a machine that crashed may have left zeros instead of a line
            if not text.strip():  # two programs may have ended the same incomplete line
                continue
            pieces = _pieces(text)
            try:
                found = _complete(pieces)
            except (ValueError, RecursionError) as error:
                raise T7FormatError(
                    f"line {number} is not a manifest line: {error}; remove the line, or name another file",
                    source=str(path),
                ) from error
            if len(found) < len(pieces):
                incomplete.append(number)
            lines += found
    return lines, incomplete


def _complete(pieces: list[bytes]) -> list[Line]:
    """Return the complete objects of a line.

    Raises:
        ValueError, RecursionError: the last one is damaged, and not only cut.
    """
    found = []
    for piece in pieces:
        try:
            found.append(_parse_line(piece))
        except (ValueError, RecursionError) as error:
            if piece is pieces[-1] and not _is_cut(piece, error):
                raise
    return found


def _pieces(text: bytes) -> list[bytes]:
    """Return the objects of a line: one, or several if ``cat`` appended a manifest to a line without its end."""
    before, *others = text.split(_LINE_START)
    if not others or not (before or others[1:]):
        return [text]
    with suppress(ValueError, RecursionError):  # an object inside begins in the same way
        _parse_line(text)
        return [text]
    return [before] * bool(before) + [_LINE_START + other for other in others]


def _is_cut(text: bytes, error: Exception) -> bool:
    """Return whether the text is what a killed program left of a line, perhaps up to a string or a table inside."""
    at_end = isinstance(error, json.JSONDecodeError) and error.pos >= len(error.doc) - 1
    return text.startswith(b"{") and (at_end or not text.endswith(b"}"))


def _parse_line(text: bytes) -> Line:
    line = parse_json(text + b"\n")
    if not isinstance(line, dict) or not all(isinstance(line.get(name), str) for name in _REQUIRED):
        raise ValueError(f"it lacks one of {', '.join(_REQUIRED)}")
    return line
