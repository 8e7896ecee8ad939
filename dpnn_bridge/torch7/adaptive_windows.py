"""Compute adaptive max pooling with the windows of THNN's SpatialAdaptiveMaxPooling.c."""

from __future__ import annotations

from collections.abc import Sequence

import torch

#: the first row of each window, and the row after its last row
Bounds = tuple[torch.Tensor, torch.Tensor]


def bounds(count: int, size: int) -> Bounds:
    """Return the first row of each of ``count`` windows, and the row after its last row.

    They are computed in single precision, as in C: the third of 5 windows over 25 rows has 6 rows.
    """
    edges = torch.arange(count + 1, dtype=torch.float32) / torch.tensor(count, dtype=torch.float32) * size
    return edges[:-1].floor().long(), edges[1:].ceil().long()


def _are_exact(bounds: Bounds, size: int) -> bool:
    """Return whether the bounds equal those of PyTorch, which computes them in integers."""
    first, end = bounds
    count, steps = len(first), torch.arange(len(first) + 1) * size
    return torch.equal(first, steps[:-1] // count) and torch.equal(end, -(-steps[1:] // count))


def adaptive_maxima(x: torch.Tensor, rows: Bounds, columns: Bounds) -> Sequence[torch.Tensor]:
    """Return the maximum of each window and its position in the channel."""
    sizes = [len(rows[0]), len(columns[0])]
    if _are_exact(rows, x.shape[2]) and _are_exact(columns, x.shape[3]):
        return torch.ops.aten.adaptive_max_pool2d(x, sizes)
    maxima, at = [], []
    for top, bottom in zip(*map(torch.Tensor.tolist, rows), strict=True):
        for left, right in zip(*map(torch.Tensor.tolist, columns), strict=True):
            value, n = x[:, :, top:bottom, left:right].flatten(2).max(-1)
            maxima.append(value)
            at.append((top + n // (right - left)) * x.shape[3] + left + n % (right - left))
    return [torch.stack(values, -1).reshape(*x.shape[:2], *sizes) for values in (maxima, at)]
