"""Format and parse numbers in text files as C does. With LuaJIT, ``prelude/ffi/text.lua`` does most of this."""

from __future__ import annotations

import math
import re
from contextlib import suppress
from typing import Any, BinaryIO

import numpy as np

from dpnn_bridge.lua.tensor import NUMPY_DTYPES, cast_number

_INTEGER = re.compile(rb"\s*([+-]?\d+)")
_REAL = re.compile(rb"\s*([+-]?(?:\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?|inf(?:inity)?|nan))", re.IGNORECASE)
_FORMATS = {"Half": "%.9g", "Float": "%.9g", "Double": "%.17g"}
#: longest number, in bytes; a shorter rest of the buffer may be the start of a number
_MAX_NUMBER = 64


def format_numbers(ty: str, values: list[Any], separator: str) -> str:
    """Format elements of type ``ty`` as C's printf does."""
    form = _FORMATS.get(ty, "%d")
    text = separator.join([form] * len(values)) % tuple(values)
    if "nan" in text:  # Python does not print its sign
        text = separator.join("-nan" if math.copysign(1, v) < 0 and v != v else form % v for v in values)
    return text


def read_number(stream: BinaryIO, ty: str) -> float | None:
    """Read a line that contains one number; if it does not, return None and do not change the position."""
    start = stream.tell()
    line = stream.readline(_MAX_NUMBER)
    match = (_REAL if ty in _FORMATS else _INTEGER).fullmatch(line, 0, len(line) - 1)
    if match and line.endswith(b"\n"):
        return cast_number(float(match[1]) if ty in _FORMATS else int(match[1]), ty)
    stream.seek(start)
    return None


def read_numbers(stream: BinaryIO, ty: str, count: int) -> np.ndarray:
    """Read ``count`` elements of type ``ty``, or fewer if something that is not a number precedes the end.

    Afterwards the position of the stream is the end of the last number.
    """
    values = _read_line(stream, ty, count)
    if values is None:
        values = _read_words(stream, ty, count)
    if ty in _FORMATS:
        with np.errstate(over="ignore"):
            return np.array(values, np.float64).astype(NUMPY_DTYPES[ty])
    return np.array([cast_number(v, ty) for v in values], NUMPY_DTYPES[ty])


def _read_line(stream: BinaryIO, ty: str, count: int) -> list[Any] | None:
    """Read a line of ``count`` numbers, as Torch7 writes it; otherwise return None and do not change the position."""
    start = stream.tell()
    line = stream.readline(32 * count + 64)
    words = line.split()
    with suppress(ValueError):
        # Python's float and int accept underscores
        if len(words) == count and line.endswith(b"\n") and b"_" not in line:
            values = list(map(float if ty in _FORMATS else int, words))
            stream.seek(start + len(line) - 1)
            return values
    stream.seek(start)
    return None


def _read_words(stream: BinaryIO, ty: str, count: int) -> list[Any]:
    """Read numbers that are separated by any white space."""
    pattern = _REAL if ty in _FORMATS else _INTEGER
    values: list[Any] = []
    start = stream.tell()
    text, used = stream.read(32 * min(count, 1 << 16) + 64), 0
    while len(values) < count:
        match = pattern.match(text, used)
        incomplete = match.end() == len(text) if match else len(text[used:].lstrip()) < _MAX_NUMBER
        if incomplete and (more := stream.read(1 << 16)):
            text, start, used = text[used:] + more, start + used, 0
            continue
        if match is None:
            break
        values.append(float(match[1]) if ty in _FORMATS else int(match[1]))
        used = match.end()
    stream.seek(start + used)
    return values
