"""Pass strings between Lua and Python. A Lua string is bytes; in Python it is a ``str`` with one character per byte."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

#: sequences of bytes that may be a character in UTF-8
_SEQUENCE = re.compile("[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
_NO_BYTE = re.compile("[^\0-\xff]+")


def from_system(text: str | os.PathLike[str]) -> str:
    """Return the Lua string of an argument, a path or a typed line: the bytes that the operating system has."""
    return os.fsencode(text).decode("latin-1")


def to_system(text: str) -> str:
    """Return the path that a Lua string names, as Python's ``os`` functions take it."""
    return os.fsdecode(text.encode("latin-1"))


def readable(text: str) -> str:
    """Return a Lua string for people: UTF-8 is decoded, other bytes are taken as Latin-1."""

    def decoded(found: re.Match[str]) -> str:
        return found[0].encode("latin-1").decode("utf-8", "replace")  # halves of characters are none

    return _SEQUENCE.sub(decoded, text)


def as_bytes(text: str) -> str:
    """Return text of Python as a Lua string: one byte per character, or UTF-8 if a character is no byte."""
    if text.isascii() or not _NO_BYTE.search(text):
        return text
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


def for_lua(text: str) -> str:
    """Return a message of Python as a Lua string: what is no byte becomes UTF-8."""
    return _NO_BYTE.sub(lambda found: found[0].encode("utf-8", "surrogateescape").decode("latin-1"), text)


def on_paths(code: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function of the operating system so that Lua strings go in and come out."""

    def call(*args: Any) -> Any:
        answer = code(*[to_system(a) if isinstance(a, str) else a for a in args])
        if isinstance(answer, tuple):
            return tuple(from_system(a) if isinstance(a, str) else a for a in answer)
        return from_system(answer) if isinstance(answer, str) else answer

    return call
