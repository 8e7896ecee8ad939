"""Numbers of text files, as C prints and reads them. With LuaJIT, ``prelude/ffi/text.lua`` does most of this."""

from __future__ import annotations

import math
import re
from contextlib import suppress
from typing import Any, BinaryIO

import numpy as np
import torch

from dpnn_bridge.lua.tensor import DTYPES, cast_number

_NUMPY = {ty: torch.empty(0, dtype=dtype).numpy().dtype for ty, dtype in DTYPES.items()}
_INTEGER = re.compile(rb"\s*([+-]?\d+)")
_REAL = re.compile(rb"\s*([+-]?(?:\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?|inf(?:inity)?|nan))", re.IGNORECASE)
_FORMATS = {"Half": "%.9g", "Float": "%.9g", "Double": "%.17g"}
#: bytes of a text that may begin a number, of which more is needed to know
_LONGEST = 64


def printed(ty: str, values: list[Any], separator: str) -> str:
    """Return the text of elements of type ``ty``."""
    form = _FORMATS.get(ty, "%d")
    text = separator.join([form] * len(values)) % tuple(values)
    if "nan" in text:  # Python writes no sign
        text = separator.join("-nan" if math.copysign(1, v) < 0 and v != v else form % v for v in values)
    return text


def read_number(stream: BinaryIO, ty: str) -> float | None:
    """Read a line with one number; return None, and leave the position unchanged, if the line is otherwise."""
    start = stream.tell()
    line = stream.readline(_LONGEST)
    match = (_REAL if ty in _FORMATS else _INTEGER).fullmatch(line, 0, len(line) - 1)
    if match and line.endswith(b"\n"):
        return cast_number(float(match[1]) if ty in _FORMATS else int(match[1]), ty)
    stream.seek(start)
    return None


def read_numbers(stream: BinaryIO, ty: str, count: int) -> np.ndarray:
    """Return elements of type ``ty``, ``count`` of them or those before something that is no number.

    The stream is behind the last one afterwards.
    """
    values = _of_a_line(stream, ty, count)
    if values is None:
        values = _one_by_one(stream, ty, count)
    if ty in _FORMATS:
        with np.errstate(over="ignore"):
            return np.array(values, np.float64).astype(_NUMPY[ty])
    return np.array([cast_number(v, ty) for v in values], _NUMPY[ty])


def _of_a_line(stream: BinaryIO, ty: str, count: int) -> list[Any] | None:
    """Return the numbers of a line, as Torch7 writes them; None, and the stream is where it was, if it is not one."""
    start = stream.tell()
    line = stream.readline(32 * count + 64)
    words = line.split()
    with suppress(ValueError):
        if len(words) == count and line.endswith(b"\n") and b"_" not in line:  # Python's float and int allow it
            values = list(map(float if ty in _FORMATS else int, words))
            stream.seek(start + len(line) - 1)
            return values
    stream.seek(start)
    return None


def _one_by_one(stream: BinaryIO, ty: str, count: int) -> list[Any]:
    """Return numbers with any space between them."""
    pattern = _REAL if ty in _FORMATS else _INTEGER
    values: list[Any] = []
    start = stream.tell()
    text, used = stream.read(32 * min(count, 1 << 16) + 64), 0
    while len(values) < count:
        match = pattern.match(text, used)
        incomplete = match.end() == len(text) if match else len(text[used:].lstrip()) < _LONGEST
        if incomplete and (more := stream.read(1 << 16)):
            text, start, used = text[used:] + more, start + used, 0
            continue
        if match is None:
            break
        values.append(float(match[1]) if ty in _FORMATS else int(match[1]))
        used = match.end()
    stream.seek(start + used)
    return values
