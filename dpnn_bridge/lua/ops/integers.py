"""Powers and shifts of integers, with the conversions of C on x86."""

from __future__ import annotations

from collections.abc import Callable
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


def shifted(shift: Callable[..., torch.Tensor], x: torch.Tensor, y: Any) -> torch.Tensor:
    """Shift in a type of C that contains the elements, by the number's last bits as x86 does."""
    wide = 64 if x.dtype == torch.int64 else 32
    places = torch.as_tensor(y, dtype=torch.int64) & (wide - 1)
    size = 8 * x.element_size()
    bits = x.to(torch.int64) if size == 64 else x.to(torch.int64) & ((1 << size) - 1)  # the unsigned type of C
    return shift(bits, places).to(x.dtype)


def without_sign(x: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Shift the bits of 64-bit integers right, zeros from the left."""
    lowest = torch.bitwise_left_shift(torch.ones_like(places), (64 - places) & 63) - 1  # 64 - places bits that are set
    return (x >> places) & torch.where(places == 0, -1, lowest)
