"""Pass strings between Lua and Python. A Lua string is bytes; in Python it is a ``str`` with one character per byte."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

from dpnn_bridge.base.regular import check_file
from dpnn_bridge.errors import FileAccessError, MissingFileError, NotT7Error
from dpnn_bridge.lua.tensor import TorchError

#: byte sequences that may be a character in UTF-8
_SEQUENCE = re.compile("[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
_BEYOND_BYTES = re.compile("[^\0-\xff]+")


def from_system(text: str | os.PathLike[str]) -> str:
    """Convert text of the operating system (an argument, a path, an input line) to a Lua string with its bytes."""
    return os.fsencode(text).decode("latin-1")


def to_system(text: str) -> str:
    """Convert a Lua string to a path for Python's ``os`` functions."""
    return os.fsdecode(text.encode("latin-1"))


def to_file(text: str) -> str:
    """Convert a Lua string to a path where a regular file is, or nothing.

    Raises:
        TorchError: there is a directory, or for example a named pipe, whose opening would not end.
    """
    path = to_system(text)
    try:
        check_file(path, names="")
    except MissingFileError:
        pass
    except (NotT7Error, FileAccessError) as error:
        raise TorchError(from_system(str(error))) from None
    return path


def readable(text: str) -> str:
    """Decode a Lua string for display: UTF-8 where it is valid, Latin-1 elsewhere."""

    def decoded(match: re.Match[str]) -> str:
        return match[0].encode("latin-1").decode("utf-8", "replace")  # surrogates are not valid UTF-8

    return _SEQUENCE.sub(decoded, text)


def as_bytes(text: str) -> str:
    """Convert Python text to a Lua string: one byte per character, or UTF-8 if a character exceeds one byte."""
    if text.isascii() or not _BEYOND_BYTES.search(text):
        return text
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


def for_lua(text: str) -> str:
    """Convert a message of Python to a Lua string; only characters that exceed one byte are encoded in UTF-8."""
    return _BEYOND_BYTES.sub(lambda match: match[0].encode("utf-8", "surrogateescape").decode("latin-1"), text)


def with_errors_for_lua(code: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function that Lua calls directly: the messages of its exceptions become Lua strings."""

    def call(*args: Any) -> Any:
        try:
            return code(*args)
        except Exception as error:
            raise RuntimeError(for_lua(str(error))) from error

    return call


def as_string(value: Any) -> Any:
    """Convert a number to a string, as Lua does where it expects a string; return other values unchanged."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return f"{value:.14g}" if is_number else value


def on_paths(code: Callable[..., Any], count: int | None = None) -> Callable[..., Any]:
    """Wrap a function of the operating system: convert Lua strings and numbers to paths, and strings in its results.

    Args:
        code: the function.
        count: number of arguments that are converted, from the first; None: all.
    """

    @with_errors_for_lua
    def call(*args: Any) -> Any:
        given = [as_string(value) for value in args[:count]]
        paths = [to_system(value) if isinstance(value, str) else value for value in given]
        result = code(*paths, *args[len(paths) :])
        if isinstance(result, tuple):
            return tuple(from_system(r) if isinstance(r, str) else r for r in result)
        return from_system(result) if isinstance(result, str) else result

    return call
