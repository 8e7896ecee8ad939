"""Declare gather and scatter, which move elements at the positions in an index tensor along one dimension."""

from __future__ import annotations

from itertools import product

import torch

from dpnn_bridge.lua.dispatch import torch_function
from dpnn_bridge.lua.ops.overlap import overlapping
from dpnn_bridge.lua.ops.shape import narrowed
from dpnn_bridge.lua.tensor import Tensor, TorchError, cast_number


def _check_sizes(t: Tensor, dim: int, index: Tensor, other: Tensor) -> None:
    if not 0 <= dim < t.dim:
        raise TorchError("bad argument #3 (Index dimension is out of bounds)")
    if index.dim != t.dim or other.dim != t.dim:
        raise TorchError("bad argument #4 (Index tensor must have same dimensions as input tensor)")
    for d in range(t.dim):
        if d != dim and index.size[d] != t.size[d]:
            raise TorchError("bad argument #4 (Index tensor must have same size as input tensor apart from dim)")


def _zero_based(dim: int, index: Tensor, t: Tensor) -> torch.Tensor | None:
    """Return the index counted from 0; None if a position is out of range."""
    positions = index.t - 1
    return None if bool(((positions < 0) | (positions >= t.size[dim])).any()) else positions


def _in_order(gathers: bool, r: Tensor, dim: int, index: Tensor, s: Tensor) -> None:
    """Move elements one by one in TH's order, up to a position out of range.

    The first of the dimensions other than ``dim`` varies fastest.
    """
    order = [d for d in reversed(range(r.dim)) if d != dim] + [dim]
    targets, sources, rows = (t.t.permute(order) for t in (r, s, index))
    for at in product(*map(range, rows.shape[:-1])):
        target, source, row = targets[at], sources[at], rows[at]
        for k in range(len(row)):
            position = int(row[k]) - 1
            if not 0 <= position < len(source if gathers else target):
                raise TorchError("Invalid index in gather" if gathers else "Invalid index in scatter")
            if gathers:
                target[k] = source[position]
            else:
                target[position] = source[k]


@torch_function("gather", "T i I")
def gather_new(t: Tensor, dim: int, index: Tensor) -> Tensor:
    _check_sizes(t, dim, index, index)
    positions = _zero_based(dim, index, t)
    if positions is None:
        raise TorchError("Invalid index in gather")
    return Tensor.fresh(torch.gather(t.t, dim, positions))


@torch_function("gather", "X T i I")
def gather_into(r: Tensor, t: Tensor, dim: int, index: Tensor) -> None:
    _check_sizes(t, dim, index, r)
    if any(a != b for d, (a, b) in enumerate(zip(r.size, index.size, strict=True)) if d != dim):
        raise TorchError("bad argument #1 (result must have the size of the index apart from dim)")
    if r.size[dim] < index.size[dim]:
        raise TorchError("bad argument #1 (result is smaller than the index)")
    positions = _zero_based(dim, index, t)
    if positions is None or overlapping(r, index, t):
        _in_order(True, r, dim, index, t)
    else:
        narrowed(r, dim, 0, index.size[dim]).write(torch.gather(t.t, dim, positions))


@torch_function("scatter", "X i I T")
def scatter(r: Tensor, dim: int, index: Tensor, source: Tensor) -> None:
    _check_sizes(r, dim, index, source)
    _check_sizes(r, dim, source, source)
    if any(a > b for a, b in zip(index.size, source.size, strict=True)):
        raise TorchError("bad argument #4 (source is smaller than the index)")
    _scatter(r, dim, index, source)


@torch_function("scatter", "X i I n")
def scatter_fill(r: Tensor, dim: int, index: Tensor, value: float) -> None:
    _check_sizes(r, dim, index, index)
    values = Tensor.fresh(torch.full((1,), cast_number(value, r.ty), dtype=r.t.dtype).expand(index.size))
    _scatter(r, dim, index, values)


def _scatter(r: Tensor, dim: int, index: Tensor, source: Tensor) -> None:
    positions = _zero_based(dim, index, r)
    if positions is None or overlapping(r, index, source):
        _in_order(False, r, dim, index, source)
    else:
        r.t.scatter_(dim, positions, source.t)
