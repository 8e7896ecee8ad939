"""Compute strides of row-major order without gaps, as in a new tensor, and the extent of a view."""

from __future__ import annotations

from collections.abc import Sequence


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides of row-major order, in elements."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def is_contiguous(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Return whether elements with these strides are in row-major order without gaps."""
    step = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1:
            if stride != step:
                return False
            step *= size
    return True


def last_offset(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Return the offset of the last element of a non-empty view from its first element, in elements."""
    return sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
