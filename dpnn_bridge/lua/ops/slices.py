"""Compute functions along a dimension in TH's order, for results that overlap their source.

TH visits the slices along a dimension one after the other (TH_TENSOR_DIM_APPLY); the first of the other dimensions
varies fastest. A slice may contain results of the slices before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import torch

from dpnn_bridge.lua.ops.copying import clone
from dpnn_bridge.lua.ops.overlap import overlapping
from dpnn_bridge.lua.tensor import IN_ORDER, Tensor, cast_tensor


def resized(r: Tensor, t: Tensor, dim: int, size: int = 1) -> bool:
    """Resize a result to its source's sizes, with ``size`` in ``dim``; return whether it then overlaps the source."""
    if r.storage is None:
        return False
    r.resize((*t.size[:dim], size, *t.size[dim + 1 :]))
    return t.numel <= IN_ORDER and overlapping(r, t)


def resized_like(r: Tensor, t: Tensor) -> bool:
    """Resize a result to its source's sizes; return whether writing it overwrites unread elements of the source."""
    return resized(r, t, 0, t.size[0]) and (r.overlaps() or not r.same(t))


def slices(dim: int, *tensors: Tensor) -> Iterator[list[Tensor]]:
    """Yield the 1-D slices along ``dim`` of several tensors in TH's order; their other sizes must be equal."""
    others = [d for d in reversed(range(tensors[0].dim)) if d != dim]
    for at in product(*(range(tensors[0].size[d]) for d in others)):
        offsets = (t.offset + sum(i * t.stride[d] for i, d in zip(at, others, strict=True)) for t in tensors)
        yield [
            Tensor(t.ty, t.storage, o, (t.size[dim],), (t.stride[dim],)) for t, o in zip(tensors, offsets, strict=True)
        ]


def by_slices(f: Callable[..., object], dim: int, t: Tensor, r: Tensor, index: Tensor | None = None) -> None:
    """Call ``f(result [, index], source)`` for each slice, with a copy of the source."""
    if index is not None:
        index.resize(r.size)
    for source, *to in slices(dim, t, *(x for x in (r, index) if x is not None)):
        f(*to, clone(source))


def scan(step: Callable[..., torch.Tensor], start: torch.Tensor, r: Tensor, t: Tensor, dim: int) -> None:
    """Write the cumulative totals along ``dim``; totals have the type of ``start``."""
    for source, to in slices(dim, t, r):
        total = start
        for x, y in zip(source.t, to.t, strict=True):
            total = step(total, x.to(start.dtype))
            y.copy_(cast_tensor(total, r.ty))


def repeated(r: Tensor, dim: int, size: int) -> Tensor:
    """Return a view that expands ``dim``, of size 1, to ``size``."""
    sizes, strides = list(r.size), list(r.stride)
    sizes[dim], strides[dim] = size, 0
    return Tensor(r.ty, r.storage, r.offset, tuple(sizes), tuple(strides))
