"""Declare extrema, sorting and order statistics. Indices are 1-based LongTensors."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dpnn_bridge.lua.arguments import as_long, check_dim
from dpnn_bridge.lua.dispatch import torch_function
from dpnn_bridge.lua.ops.copying import copy_into
from dpnn_bridge.lua.ops.shape import narrowed
from dpnn_bridge.lua.ops.slices import by_slices, repeated, resized
from dpnn_bridge.lua.tensor import Tensor, TorchError
from dpnn_bridge.torch7.quicksort import EXACT_LIMIT, positions, select_positions, sort_positions


def _extremum(name: str, greatest: bool) -> None:
    """Declare max or min: the result is NaN if there is one, otherwise the first of equal values."""

    step = f"if not (x {'<=' if greatest else '>='} total) and total == total then total, position = x, k end"

    @torch_function(
        name, "T", small=("reduce_all", "at(q, iq)", step.replace(", position = x, k", " = x"), "tonumber(total)")
    )
    def of_all(t: Tensor) -> float:
        if not t.numel:
            raise TorchError("bad argument #1 (tensor must have one dimension)")
        return (t.t.max() if greatest else t.t.min()).item()

    @torch_function(name, "R IR T i", small=("reduce_along", "at(q, j)", step, "total"))
    def along(r: Tensor, index: Tensor, t: Tensor, dim: int) -> None:
        if resized(r, t, check_dim(t, dim)):
            _extremum_in_order(along, greatest, r, index, t, dim)
            return
        values, positions = (t.t.max if greatest else t.t.min)(dim, keepdim=True)
        r.assign(values)
        index.assign(positions.add_(1))


_extremum("max", greatest=True)
_extremum("min", greatest=False)


def _extremum_in_order(
    along: Callable[..., None], greatest: bool, r: Tensor, index: Tensor, t: Tensor, dim: int
) -> None:
    """Select in TH's order: slice by slice if elements along ``dim`` are adjacent, else element by element."""
    if t.stride[dim] == 1:
        by_slices(lambda to, at, source: along(to, at, source, 0), dim, t, r, index)
        return
    index.assign(torch.ones(r.size, dtype=torch.int64))
    copy_into(r, narrowed(t, dim, 0, 1))
    if t.size[dim] == 1:
        return
    best = repeated(r, dim, t.size[dim])
    assert r.storage is not None
    assert index.storage is not None
    flat, indices = r.storage.flat.numpy(), index.storage.flat.numpy()
    number = torch.arange(1, t.size[dim] + 1).reshape([-1 if d == dim else 1 for d in range(t.dim)]).expand(t.size)
    at = repeated(index, dim, t.size[dim]).storage_indices()
    for k, source, to, to_index in zip(
        number.reshape(-1).tolist(),
        t.storage_indices().tolist(),
        best.storage_indices().tolist(),
        at.tolist(),
        strict=True,
    ):
        x, limit = flat[source], flat[to]
        if not (x <= limit if greatest else x >= limit) and limit == limit:
            flat[to], indices[to_index] = x, k


def _store(r: Tensor, index: Tensor, x: torch.Tensor, order: torch.Tensor, dim: int) -> None:
    """Write the positions ``order`` along the last dimension of ``x``, and the values there, to the results."""
    values = x.gather(-1, order)
    index.assign((order + 1).movedim(-1, dim))
    r.assign(values.movedim(-1, dim))


@torch_function("sort", "R IR T i=last b=0", small=("sort",))
def sort(r: Tensor, index: Tensor, t: Tensor, dim: int, descending: bool) -> None:
    if r is not t and resized(r, t, check_dim(t, dim), t.size[dim]):
        copy_into(r, t)
        t = r
    if r is t and r.overlaps() and r.dim > 1:  # the elements of a slice that overlaps are all one
        by_slices(lambda to, at, source: sort(to, at, source, 0, descending), dim, t, r, index)
        return
    x = t.t.movedim(check_dim(t, dim), -1)
    _store(r, index, x, positions(x, lambda v: sort_positions(v, descending), descending), dim)


@torch_function("topk", "R IR T n=1 i=last b=0 b=0", small=("topk",))
def topk(r: Tensor, index: Tensor, t: Tensor, k: float, dim: int, greatest: bool, ordered: bool) -> None:
    """Select the k smallest or greatest elements; unordered results are in the order of quickselect."""
    k, n = as_long(k), t.size[check_dim(t, dim, 3)]
    if not 0 < k <= n:
        raise TorchError(f"bad argument #2 (k not in range for dimension: {k} of {n})")
    overlap = resized(r, t, dim, k)
    if r is t:  # TH reads as many elements as before the resize
        t = Tensor(r.ty, r.storage, r.offset, (*r.size[:dim], n, *r.size[dim + 1 :]), r.stride)
    if overlap:
        by_slices(lambda to, at, source: topk(to, at, source, k, 0, greatest, ordered), dim, t, r, index)
        return
    x = t.t.movedim(dim, -1)
    if x.numel() > EXACT_LIMIT:
        order = torch.topk(x, k, largest=greatest).indices
    else:
        rows = x.reshape(-1, n).tolist()
        chosen = [_choose(row, k, greatest, ordered) for row in rows]
        order = torch.tensor(chosen).reshape(*x.shape[:-1], k)
    _store(r, index, x, order, dim)


def _choose(row: list[float], k: int, greatest: bool, ordered: bool) -> list[int]:
    skip = len(row) - k if greatest else 0
    at = list(range(len(row))) if greatest and skip == 0 else select_positions(row, skip - 1 if greatest else k - 1)
    part = at[skip : skip + k]
    if ordered and greatest:
        return [part[i] for i in sort_positions([row[i] for i in part], True)]
    if ordered:
        return [part[i] for i in sort_positions([row[i] for i in part[: k - 1]])] + part[k - 1 :]
    return part


def _kth(r: Tensor, index: Tensor, t: Tensor, k: int, dim: int) -> None:
    n = t.size[check_dim(t, dim, 3)]
    if not 0 < k <= n:
        raise TorchError(f"bad argument #3 (selected index {k} out of range)")
    overlap = resized(r, t, dim)
    k = min(k, t.size[dim])
    if overlap:
        by_slices(lambda to, at, source: _kth(to, at, source, k, 0), dim, t, r, index)
        return
    x = t.t.movedim(dim, -1)
    _store(r, index, x, positions(x, lambda v: select_positions(v, k - 1)).narrow(-1, k - 1, 1), dim)


@torch_function("kthvalue", "R IR T n i=last", small=("kthvalue",))
def kthvalue(r: Tensor, index: Tensor, t: Tensor, k: float, dim: int) -> None:
    _kth(r, index, t, as_long(k), dim)


@torch_function("median", "R IR T i=last", small=("median",))
def median(r: Tensor, index: Tensor, t: Tensor, dim: int) -> None:
    """Compute the median; with an even number of elements, the lower of the two middle ones."""
    _kth(r, index, t, (t.size[check_dim(t, dim, 3)] + 1) // 2, dim)


@torch_function("mode", "R IR T i=last", small=("mode",))
def mode(r: Tensor, index: Tensor, t: Tensor, dim: int) -> None:
    """Compute the mode, the smallest of the most frequent values, and the index of the last one in sorted order."""
    if resized(r, t, check_dim(t, dim, 3)):
        by_slices(lambda to, at, source: mode(to, at, source, 0), dim, t, r, index)
        return
    x = t.t.movedim(dim, -1)
    order = positions(x, sort_positions)
    values = x.gather(-1, order)
    runs = torch.zeros_like(order)  # number of the run of equal values for each position
    runs[..., 1:] = (values[..., 1:] != values[..., :-1]).cumsum(-1)
    counts = torch.zeros_like(runs).scatter_add_(-1, runs, torch.ones_like(runs)).gather(-1, runs)
    n = x.shape[-1]
    # the first position of the most frequent value, then the end of its run
    frequent = counts == counts.amax(-1, keepdim=True)
    first = frequent.to(torch.uint8).argmax(-1, keepdim=True)
    last = torch.where(runs == runs.gather(-1, first), torch.arange(n), 0).amax(-1, keepdim=True)
    _store(r, index, x, order.gather(-1, last), dim)
