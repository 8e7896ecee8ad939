"""Compute powers, quotients and shifts of integers with the conversions of C on x86."""

from __future__ import annotations

from typing import Any

import torch


def c_int(x: torch.Tensor) -> torch.Tensor:
    """Convert integers shorter than C's ``int`` to int32, as C does before it multiplies."""
    return x.to(torch.int32) if x.dtype in (torch.uint8, torch.int8, torch.int16) else x


def int_pow(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Compute the power in double precision, then convert to ``int``, or to ``long`` for Long.

    A value out of range becomes the lowest integer of ``int`` or ``long``, as on x86.
    """
    values = torch.pow(x.double(), y.double())
    bits = 63 if x.dtype == torch.int64 else 31
    fits = (values > -(2.0**bits) - (bits == 31)) & (values < 2.0**bits)
    return torch.where(fits, values, -(2.0**bits)).to(torch.int64).to(x.dtype)


def quotient(x: torch.Tensor, y: Any) -> torch.Tensor:
    """Divide integers by ``y``, a tensor or a number other than 0, and truncate towards zero.

    A divisor of -1 negates, because the CPU stops the program if it divides the lowest integer by -1.
    """
    if not isinstance(y, torch.Tensor):
        return -x if y == -1 else torch.div(x, y, rounding_mode="trunc")
    negates = y == -1
    return torch.where(negates, -x, torch.div(x, y.masked_fill(negates, 1), rounding_mode="trunc"))


def left_shifted(x: torch.Tensor, y: Any) -> torch.Tensor:
    """Shift to the left by ``y`` bits, a tensor or a number."""
    return torch.bitwise_left_shift(x, _shift_count(x, y))


def right_shifted(x: torch.Tensor, y: Any) -> torch.Tensor:
    """Shift to the right by ``y`` bits, a tensor or a number, and fill with zeros."""
    count, size = _shift_count(x, y), 8 * x.element_size()
    shifted = torch.bitwise_right_shift(x, count)
    if x.dtype == torch.uint8:
        return shifted
    ones = torch.tensor(-1, dtype=x.dtype)
    return shifted.bitwise_and_(~torch.bitwise_left_shift(ones, size - count))  # PyTorch fills with the sign bit


def _shift_count(x: torch.Tensor, y: Any) -> Any:
    """Return the number of bits that x86 shifts: the low 5 bits of ``y``, or 6 for ``long``."""
    size = 8 * x.element_size()
    count = y & max(size - 1, 31)
    return count.clamp(max=size) if isinstance(y, torch.Tensor) else min(count, size)
