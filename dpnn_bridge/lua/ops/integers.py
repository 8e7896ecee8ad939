"""Powers and shifts of integers, with the conversions of C on x86."""

from __future__ import annotations

from typing import Any

import torch


def c_int(x: torch.Tensor) -> torch.Tensor:
    """Convert integers shorter than C's ``int`` to one, as C does before it multiplies."""
    return x.to(torch.int32) if x.dtype in (torch.uint8, torch.int8, torch.int16) else x


def int_pow(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Raise in double, then convert as x86 does: out of the range of C's conversion, its lowest value.

    C converts a double to an ``int`` for the types up to Int, and to a ``long`` for Long.
    """
    values = torch.pow(x.double(), y.double())
    bits = 63 if x.dtype == torch.int64 else 31
    fits = (values > -(2.0**bits) - (bits == 31)) & (values < 2.0**bits)
    return torch.where(fits, values, -(2.0**bits)).to(torch.int64).to(x.dtype)


def left_shifted(x: torch.Tensor, y: Any) -> torch.Tensor:
    """Shift to the left by as many bits as the elements of ``y``, or a number, say."""
    return torch.bitwise_left_shift(x, _places(x, y))


def right_shifted(x: torch.Tensor, y: Any) -> torch.Tensor:
    """Shift to the right with zeros from the left."""
    places, size = _places(x, y), 8 * x.element_size()
    shifted = torch.bitwise_right_shift(x, places)
    if x.dtype == torch.uint8:
        return shifted
    ones = torch.tensor(-1, dtype=x.dtype)
    return shifted.bitwise_and_(~torch.bitwise_left_shift(ones, size - places))  # PyTorch repeats the sign


def _places(x: torch.Tensor, y: Any) -> Any:
    """Return by how many bits x86 shifts: the last bits of the number, as it has for C's ``int`` or ``long``."""
    size = 8 * x.element_size()
    places = y & max(size - 1, 31)
    return places.clamp(max=size) if isinstance(y, torch.Tensor) else min(places, size)
