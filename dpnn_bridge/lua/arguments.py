"""Parse the arguments of a call as Torch7 does: numbers, numeric strings, dimensions and tensors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch

from dpnn_bridge.lua.tensor import DTYPES, Storage, Tensor, TorchError, cast_number
from dpnn_bridge.lua.text import as_string
from dpnn_bridge.torch7.random import Generator

INTEGER_TYPES = ("Byte", "Char", "Short", "Int", "Long")

_LONG_MIN = -(1 << 63)
_SPACES = " \t\n\v\f\r"
_NUMERAL = re.compile(
    r"[-+]?(?:0x[\da-f.]+(?:p[-+]?\d+)?|[\d.]+(?:e[-+]?\d+)?|inf(?:inity)?|nan)", re.IGNORECASE | re.ASCII
)
_INTEGER = re.compile(rf"[{_SPACES}]*([-+]?)(?:0x([\da-f]+)|(0[0-7]*)|([1-9]\d*))", re.IGNORECASE | re.ASCII)


def as_number(value: Any) -> float | None:
    """Return a number, or the number that a string spells by Lua's rules; None for other values."""
    if isinstance(value, str):
        text = value.strip(_SPACES)
        if not _NUMERAL.fullmatch(text):
            return None
        try:
            return float.fromhex(text) if "x" in text.lower() else float(text)
        except (ValueError, OverflowError):
            return None
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _integer_of(text: str) -> int:
    """Parse the integer at the start of a string like C's ``strtol`` with base 0; return 0 if there is none."""
    match = _INTEGER.match(text)
    if match is None:
        return 0
    sign, hexadecimal, octal, decimal = match.groups()
    value = int(hexadecimal, 16) if hexadecimal else int(octal, 8) if octal else int(decimal)
    return max(_LONG_MIN, min(-value if sign == "-" else value, -_LONG_MIN - 1))


def describe(value: Any) -> str:
    """Return Torch7's name for the type of an argument."""
    if isinstance(value, (Tensor, Storage)):
        return value.class_name.removeprefix("torch.")
    if value is None:
        return "nil"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, (int, float)):
        return "number"
    return {str: "string", list: "table", Generator: "Generator"}.get(type(value), "table")


def element_type(name: Any) -> str | None:
    """Return the element type of a tensor class by its name, such as ``torch.FloatTensor``; None for other values."""
    ty = name.removeprefix("torch.").removesuffix("Tensor") if isinstance(name, str) else None
    return ty if ty in DTYPES and name == f"torch.{ty}Tensor" else None


def as_long(value: float) -> int:
    """Convert a number to C's ``long`` as x86 does: truncate towards zero; NaN and overflow give the lowest integer."""
    try:
        number = int(value)
    except (OverflowError, ValueError):  # infinite, NaN
        return _LONG_MIN
    return number if _LONG_MIN <= number < -_LONG_MIN else _LONG_MIN


def check_int(value: Any, position: int) -> int:
    """Convert argument number ``position`` to an integer with :func:`as_long`."""
    return as_long(check_number(value, position))


def check_dim(t: Tensor, dim: int, position: int = 2) -> int:
    """Return ``dim``, counted from 0, if the tensor has this dimension; raise an error otherwise."""
    if not 0 <= dim < t.dim:
        raise TorchError(f"bad argument #{position} (dimension {dim + 1} out of range of {t.dim}D tensor)")
    return dim


def dimension(t: Tensor, dim: Any, position: int = 2) -> int:
    """Convert argument number ``position``, a dimension counted from 1, to a dimension counted from 0."""
    return check_dim(t, check_int(dim, position) - 1, position)


def check_number(value: Any, position: int) -> float:
    number = as_number(value)
    if number is None:
        raise TorchError(f"bad argument #{position} (number expected, got {describe(value)})")
    return number


def check_string(value: Any, position: int) -> str:
    """Return a string, or a number as Lua prints it."""
    text = as_string(value)
    if not isinstance(text, str):
        raise TorchError(f"bad argument #{position} (string expected, got {describe(value)})")
    return text


def check_real(value: Any, position: int, ty: str) -> float:
    """Convert argument number ``position`` to element type ``ty``.

    Integer types parse a string with C's ``strtol``, which accepts any string.
    """
    if isinstance(value, str) and ty in INTEGER_TYPES:
        return torch.tensor(_integer_of(value)).to(DTYPES[ty]).item()
    return cast_number(check_number(value, position), ty)


def counted(values: Sequence[Any]) -> Sequence[Any]:
    """Drop the nils at the end of the arguments, which Lua's ``#{...}`` does not count."""
    n = len(values)
    while n and values[n - 1] is None:
        n -= 1
    return values[:n]


def check_end(more: Sequence[Any]) -> None:
    """Raise an error for extra arguments; for methods that count their arguments."""
    if more:
        raise TorchError(f"invalid arguments: {' '.join(map(describe, more))} at the end")


def check_tensor(value: Any, position: int, ty: str) -> Tensor:
    if not isinstance(value, Tensor) or value.ty != ty:
        raise TorchError(f"bad argument #{position} (torch.{ty}Tensor expected, got {describe(value)})")
    return value
