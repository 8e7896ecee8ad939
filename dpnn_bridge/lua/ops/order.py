"""Extrema, sorting and order statistics. Indices are 1-based LongTensors."""

from __future__ import annotations

import torch

from dpnn_bridge.lua.dispatch import check_dim, torch_function
from dpnn_bridge.lua.ops.reduce import resized_first
from dpnn_bridge.lua.tensor import Tensor, TorchError
from dpnn_bridge.torch7.quicksort import EXACT_LIMIT, positions, select_positions, sort_positions


def _extremum(name: str, greatest: bool) -> None:
    """Select extrema: NaN has precedence, then the first of equal values."""

    step = f"if not (x {'<=' if greatest else '>='} total) and total == total then total, place = x, k end"

    @torch_function(name, "T", small=("whole", "at(q, iq)", step.replace(", place = x, k", " = x"), "tonumber(total)"))
    def whole(t: Tensor) -> float:
        if not t.numel:
            raise TorchError("bad argument #1 (tensor must have one dimension)")
        return (t.t.max() if greatest else t.t.min()).item()

    @torch_function(name, "R IR T i", small=("along", "at(q, j)", step, "total"))
    def along(r: Tensor, index: Tensor, t: Tensor, dim: int) -> None:
        resized_first(r, t, check_dim(t, dim))
        values, places = (t.t.max if greatest else t.t.min)(dim, keepdim=True)
        r.assign(values)
        index.assign(places.add_(1))


_extremum("max", greatest=True)
_extremum("min", greatest=False)


def _store(r: Tensor, index: Tensor, x: torch.Tensor, order: torch.Tensor, dim: int) -> None:
    """Put the chosen positions of ``x`` (last dimension) and their values into the results."""
    values = x.gather(-1, order)
    index.assign((order + 1).movedim(-1, dim))
    r.assign(values.movedim(-1, dim))


@torch_function("sort", "R IR T i=last b=0", small=("sort",))
def sort(r: Tensor, index: Tensor, t: Tensor, dim: int, descending: bool) -> None:
    x = t.t.movedim(check_dim(t, dim), -1)
    _store(r, index, x, positions(x, lambda v: sort_positions(v, descending), descending), dim)


@torch_function("topk", "R IR T n=1 i=last b=0 b=0", small=("topk",))
def topk(r: Tensor, index: Tensor, t: Tensor, k: float, dim: int, greatest: bool, ordered: bool) -> None:
    """Select the k extrema; unordered results have quickselect's order."""
    k, n = int(k), t.size[check_dim(t, dim, 3)]
    if not 0 < k <= n:
        raise TorchError(f"bad argument #2 (k not in range for dimension: {k} of {n})")
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
    resized_first(r, t, dim)
    k = min(k, t.size[dim])
    x = t.t.movedim(dim, -1)
    _store(r, index, x, positions(x, lambda v: select_positions(v, k - 1)).narrow(-1, k - 1, 1), dim)


@torch_function("kthvalue", "R IR T n i=last", small=("kthvalue",))
def kthvalue(r: Tensor, index: Tensor, t: Tensor, k: float, dim: int) -> None:
    _kth(r, index, t, int(k), dim)


@torch_function("median", "R IR T i=last", small=("median",))
def median(r: Tensor, index: Tensor, t: Tensor, dim: int) -> None:
    """Compute the median; of two middle values, the lower one."""
    _kth(r, index, t, (t.size[check_dim(t, dim, 3)] + 1) // 2, dim)


@torch_function("mode", "R IR T i=last", small=("mode",))
def mode(r: Tensor, index: Tensor, t: Tensor, dim: int) -> None:
    """Compute the mode: the smallest of the most frequent values, with its last sorted position."""
    resized_first(r, t, check_dim(t, dim, 3))
    x = t.t.movedim(dim, -1)
    order = positions(x, sort_positions)
    values = x.gather(-1, order)
    runs = torch.zeros_like(order)  # number of the run of equal values that a place belongs to
    runs[..., 1:] = (values[..., 1:] != values[..., :-1]).cumsum(-1)
    counts = (runs.unsqueeze(-1) == runs.unsqueeze(-2)).sum(-1)
    n = x.shape[-1]
    # the first place of the most frequent value, then the end of its run
    frequent = counts == counts.amax(-1, keepdim=True)
    first = frequent.to(torch.uint8).argmax(-1, keepdim=True)
    last = torch.where(runs == runs.gather(-1, first), torch.arange(n), 0).amax(-1, keepdim=True)
    _store(r, index, x, order.gather(-1, last), dim)
