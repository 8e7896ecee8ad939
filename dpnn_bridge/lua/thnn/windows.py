"""Add the last windows of pooling in ceil mode.

Without padding, THNN keeps a last window that begins beyond the end of the input, and PyTorch drops it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F


def last_windows(
    plane: Sequence[int],
    size: Sequence[int],
    stride: Sequence[int],
    pad: Sequence[int],
    dilation: Sequence[int],
    ceil: bool,
) -> list[int]:
    """Return, per dimension, how far after the end of the input THNN's additional window begins; -1 if it has none."""
    if not ceil or any(pad):
        return [-1] * len(plane)
    steps = zip(plane, size, stride, dilation, strict=True)
    starts = [math.ceil((n - d * (k - 1) - 1) / s) * s for n, k, s, d in steps]
    return [start - n if start >= n else -1 for start, n in zip(starts, plane, strict=True)]


def with_last(y: torch.Tensor, distances: Sequence[int], value: float) -> torch.Tensor:
    """Append the windows without elements to a result, with the given value."""
    extra = [n for distance in reversed(distances) for n in (0, int(distance >= 0))]
    return F.pad(y, extra, value=value) if any(extra) else y


def without_last(g: torch.Tensor, distances: Sequence[int]) -> torch.Tensor:
    """Remove the windows without elements from a gradient."""
    return g[(..., *(slice(n - int(d >= 0)) for n, d in zip(g.shape[-len(distances) :], distances, strict=True)))]


def averages_with_last(y: torch.Tensor, distances: Sequence[int]) -> torch.Tensor:
    """Append the averages of windows without elements: C divides 0 by the window's extent, which is 0 or negative."""
    y = with_last(y, distances, 0.0)
    for dim, distance in enumerate(distances, y.dim() - len(distances)):
        if distance == 0:
            y.select(dim, -1).fill_(math.nan)
    return y
