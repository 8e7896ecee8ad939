"""Extrema, sorting and order statistics. Indices are 1-based LongTensors."""

from __future__ import annotations


import torch

from dpnn_bridge.lua.dispatch import torch_function
from dpnn_bridge.lua.ops.reduce import check_dim
from dpnn_bridge.lua.tensor import Tensor, TorchError


def _extremum(name: str, greatest: bool) -> None:
    """NaN wins and the first of equal values is taken."""

    @torch_function(name, "T")
    def whole(t: Tensor) -> float:
        if not t.numel:
            raise TorchError("bad argument #1 (tensor must have one dimension)")
        return (t.t.max() if greatest else t.t.min()).item()

    @torch_function(name, "R IR T i")
    def along(r: Tensor, index: Tensor, t: Tensor, dim: int) -> None:
        check_dim(t, dim)
        x = t.t
        best = x.amax(dim, keepdim=True) if greatest else x.amin(dim, keepdim=True)
        hits = x == best
        if x.is_floating_point():
            hits = torch.where(torch.isnan(best), torch.isnan(x), hits)
        index.assign(hits.to(torch.uint8).argmax(dim, keepdim=True) + 1)
        r.assign(best)


_extremum("max", greatest=True)
_extremum("min", greatest=False)


@torch_function("sort", "R IR T i=last b=0")
def sort(r: Tensor, index: Tensor, t: Tensor, dim: int, descending: bool) -> None:
    check_dim(t, dim)
    values, order = torch.sort(t.t, dim=dim, descending=descending, stable=True)
    index.assign(order + 1)
    r.assign(values)


@torch_function("topk", "R IR T n=1 i=last b=0 b=0")
def topk(r: Tensor, index: Tensor, t: Tensor, k: float, dim: int, greatest: bool, ordered: bool) -> None:
    check_dim(t, dim, 3)
    k = int(k)
    if not 0 < k <= t.size[dim]:
        raise TorchError(f"bad argument #2 (k not in range for dimension: {k} of {t.size[dim]})")
    values, order = torch.sort(t.t, dim=dim, descending=greatest, stable=True)
    index.assign(order.narrow(dim, 0, k) + 1)
    r.assign(values.narrow(dim, 0, k))


def _kth(r: Tensor, index: Tensor, t: Tensor, k: int, dim: int) -> None:
    check_dim(t, dim, 3)
    if not 0 < k <= t.size[dim]:
        raise TorchError(f"bad argument #3 (selected index {k} out of range)")
    values, order = torch.sort(t.t, dim=dim, stable=True)
    index.assign(order.narrow(dim, k - 1, 1) + 1)
    r.assign(values.narrow(dim, k - 1, 1))


@torch_function("kthvalue", "R IR T n i=last")
def kthvalue(r: Tensor, index: Tensor, t: Tensor, k: float, dim: int) -> None:
    _kth(r, index, t, int(k), dim)


@torch_function("median", "R IR T i=last")
def median(r: Tensor, index: Tensor, t: Tensor, dim: int) -> None:
    """The lower one of two middle values."""
    check_dim(t, dim, 3)
    _kth(r, index, t, (t.size[dim] + 1) // 2, dim)


@torch_function("mode", "R IR T i=last")
def mode(r: Tensor, index: Tensor, t: Tensor, dim: int) -> None:
    """The smallest of the most frequent values, with the index of its last occurrence."""
    check_dim(t, dim, 3)
    x = t.t.movedim(dim, -1)
    counts = (x.unsqueeze(-1) == x.unsqueeze(-2)).sum(-1)
    frequent = counts == counts.amax(-1, keepdim=True)
    values, order = torch.sort(x, dim=-1, stable=True)
    first = frequent.gather(-1, order).to(torch.uint8).argmax(-1, keepdim=True)
    best = values.gather(-1, first)
    positions = torch.arange(1, x.shape[-1] + 1).expand(x.shape)
    index.assign(torch.where(x == best, positions, 0).amax(-1, keepdim=True).movedim(-1, dim))
    r.assign(best.movedim(-1, dim))


