"""Declare reductions, scans, norms and histograms. Sums are accumulated in double, or in 64 bits for integer types."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from dpnn_bridge.lua.arguments import INTEGER_TYPES, as_long, check_dim
from dpnn_bridge.lua.dispatch import FLOAT_TYPES, torch_function
from dpnn_bridge.lua.ops.copying import copy_into
from dpnn_bridge.lua.ops.overlap import overlapping
from dpnn_bridge.lua.ops.pointwise import pointwise
from dpnn_bridge.lua.ops.shape import narrowed
from dpnn_bridge.lua.ops.slices import by_slices, repeated, resized, resized_like, scan, slices
from dpnn_bridge.lua.tensor import IN_ORDER, Tensor, TorchError, cast_number, square_root


def accumulated(t: torch.Tensor) -> torch.Tensor:
    """Convert to the type in which TH accumulates."""
    return t.to(_accumulated_type(t))


def _accumulated_type(t: torch.Tensor) -> torch.dtype:
    return torch.float64 if t.is_floating_point() else torch.int64


def _sum(x: torch.Tensor, dim: int) -> torch.Tensor:
    if not 0 < x.numel() <= IN_ORDER or not x.is_floating_point():
        return x.sum(dim)
    return x.cumsum(dim).select(dim, -1)


def _reduce_all(f: Callable[..., torch.Tensor], t: Tensor) -> float:
    """Return the sum or product of all elements: in logical order for up to ``IN_ORDER`` floats, else in any order."""
    x = t.t
    if t.numel > IN_ORDER or not x.is_floating_point():
        total = torch.sum if f is _sum else f
        return total(x, dtype=_accumulated_type(x)).item()
    return f(accumulated(x).reshape(-1), 0).item()


def _accumulate(
    f: Callable[..., torch.Tensor], step: Callable[..., torch.Tensor], start: float, r: Tensor, t: Tensor, dim: int
) -> None:
    """Reduce along ``dim`` as TH does: adjacent elements with ``f``, others with ``step``, beginning with ``start``."""
    if not resized(r, t, dim):
        x = t.t if step is torch.mul and t.stride[dim] != 1 else accumulated(t.t)  # a product of floats may overflow
        r.assign(f(x, dim).unsqueeze(dim))
    elif t.stride[dim] == 1:
        by_slices(lambda to, source: to.write(f(accumulated(source.t), 0)), dim, t, r)
    else:
        r.write(torch.full(r.size, start, dtype=r.t.dtype))
        total = repeated(r, dim, t.size[dim])
        pointwise(step, total, total, t)


def _reduction(
    name: str,
    f: Callable[..., torch.Tensor],
    step_of: Callable[..., torch.Tensor],
    empty: float,
    types: tuple[str, ...],
    start: str,
    step: str,
    step_apart: str = "",
) -> None:
    """Declare a reduction of all elements, and along a dimension.

    Args:
        name: name of the function.
        f: reduces a dimension, called as ``f(x, dim)``.
        step_of: adds an element to the result.
        empty: result for a tensor without elements, and start of a reduction along a dimension.
        types: element types.
        start, step: start value and step of LuaJIT's loops.
        step_apart: step of LuaJIT's loops if elements are not adjacent, or ``product`` for a product with ones, which
            is exact for sums of integers.
    """

    @torch_function(name, "T", types=types, small=("reduce_all", start, step, "tonumber(total)"))
    def of_all(t: Tensor) -> float:
        if not t.numel:
            return empty
        return _reduce_all(f, t)

    @torch_function(name, "R T i", types=types, small=("reduce_along", start, step, "total", step_apart or step))
    def along(r: Tensor, t: Tensor, dim: int) -> None:
        _accumulate(f, step_of, empty, r, t, check_dim(t, dim))


_ADD, _MULTIPLY = "total = total + x", "total = total * x"
_reduction("sum", _sum, torch.add, 0, FLOAT_TYPES, "0", _ADD, "total = R(total + x)")
_reduction("sum", _sum, torch.add, 0, INTEGER_TYPES, "0", _ADD, "product")
_reduction("prod", torch.prod, torch.mul, 1, FLOAT_TYPES, "1", _MULTIPLY, "total = R(total * x)")
_reduction("prod", torch.prod, torch.mul, 1, INTEGER_TYPES, "1LL", _MULTIPLY)


@torch_function("mean", "T", types=FLOAT_TYPES, small=("reduce_all", "0", _ADD, "total / n"))
def mean(t: Tensor) -> float:
    if not t.numel:
        raise TorchError("bad argument #1 (empty Tensor)")
    return _reduce_all(_sum, t) / t.numel


@torch_function(
    "mean",
    "R T i",
    types=FLOAT_TYPES,
    small=("reduce_along", "0", _ADD, "R(total) / n", "total = R(total + x)", "total / n"),
)
def mean_along(r: Tensor, t: Tensor, dim: int) -> None:
    _accumulate(_sum, torch.add, 0, r, t, check_dim(t, dim))
    pointwise(torch.div, r, r, numbers=(t.size[dim],))


def _root(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Compute the square root in the element type, as C's sqrtf for floats."""
    return square_root(values.to(like.dtype))


def _spread(name: str, finish: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
    """Declare var or std. If the boolean argument is true, they divide by n instead of n - 1."""

    @torch_function(name, "T b=0", types=FLOAT_TYPES, small=("spread", "root" if name == "std" else ""))
    def of_all(t: Tensor, biased: bool) -> float:
        if not t.numel:
            raise TorchError("bad argument #1 (empty Tensor)")
        x = accumulated(t.t)
        centred = x - x.mean()
        variance = (centred * centred).sum() / (t.numel if biased else t.numel - 1)
        return finish(variance, x).item()

    mean = "(total / n)"
    variance = f"max(0, v and other / n - {mean} * {mean} or other / (n - 1) - R(n / (n - 1)) * {mean} * {mean})"
    step = "total = total + x other = other + R(x * x)"
    total = f"sqrt(R({variance}))" if name == "std" else variance

    @torch_function(name, "R T i b=0", types=FLOAT_TYPES, small=("reduce_along", "0", step, total))
    def along(r: Tensor, t: Tensor, dim: int, biased: bool) -> None:
        if resized(r, t, check_dim(t, dim)):
            by_slices(lambda to, source: along(to, source, 0, biased), dim, t, r)
            return
        n = t.size[dim]
        mean = accumulated(t.t).sum(dim, keepdim=True) / n
        squares = accumulated(t.t * t.t).sum(dim, keepdim=True)
        ratio = 1.0 if biased else float(t.t.new_tensor(float(n)) / t.t.new_tensor(float(n - 1)))
        variance = squares / (n if biased else n - 1) - ratio * mean * mean
        r.assign(finish(variance.clamp(min=0), t.t))


_spread("var", lambda v, _: v)
_spread("std", _root)


@torch_function("trace", "T", small=("trace",))
def trace(t: Tensor) -> float:
    if t.dim != 2:
        raise TorchError("bad argument #1 (expected a matrix)")
    return accumulated(torch.diagonal(t.t)).sum().item()


@torch_function("numel", "T", small=("numel",))
def numel(t: Tensor) -> int:
    return t.numel


def _scan(
    name: str,
    f: Callable[..., torch.Tensor],
    step: Callable[..., torch.Tensor],
    types: tuple[str, ...],
    start: str,
    step_in_lua: str,
) -> None:
    @torch_function(name, "R T i=1", types=types, small=("scan", start, step_in_lua))
    def run(r: Tensor, t: Tensor, dim: int) -> None:
        check_dim(t, dim)
        if resized_like(r, t):
            scan(step, accumulated(t.t.new_tensor(int(start[0]))), r, t, dim)
        else:
            r.assign(f(accumulated(t.t), dim))


_scan("cumsum", torch.cumsum, torch.add, FLOAT_TYPES, "0", _ADD)
_scan("cumsum", torch.cumsum, torch.add, INTEGER_TYPES, "0LL", _ADD)
_scan("cumprod", torch.cumprod, torch.mul, FLOAT_TYPES, "1", _MULTIPLY)
_scan("cumprod", torch.cumprod, torch.mul, INTEGER_TYPES, "1LL", _MULTIPLY)


def _powers(x: torch.Tensor, p: float) -> torch.Tensor:
    """Return |x|^p, computed in the element type and converted to double."""
    return (x != 0).double() if p == 0 else torch.pow(x.abs(), x.new_tensor(float(p))).double()


def _power_sum(x: torch.Tensor, p: float, dim: int) -> torch.Tensor:
    return _powers(x, p).sum(dim, keepdim=True)


def _power_root(total: torch.Tensor, p: float, like: torch.Tensor) -> torch.Tensor:
    return torch.pow(total.to(like.dtype), like.new_tensor(1 / p))


#: number of elements up to which LuaJIT's loop is faster than PyTorch's functions
_AT_ANY_SIZE = str(1 << 26)

_NORM = (
    "0",
    "total = total + (v == 2 and x * x or v == 1 and abs(x) or v == 0 and (x == 0 and 0 or 1) or pow(abs(x), v))",
    "v == 2 and sqrt(total) or v <= 1 and v >= 0 and v % 1 == 0 and total or R(pow(R(total), R(1 / R(v))))",
)


@torch_function("norm", "T n=2", types=FLOAT_TYPES, small=("reduce_all", *_NORM, _AT_ANY_SIZE))
def norm(t: Tensor, p: float) -> float:
    x, p = t.t.reshape(-1), cast_number(p, t.ty)
    if p == 2:
        return math.sqrt(_sum(accumulated(x) * accumulated(x), 0).item())
    total = _power_sum(x, p, 0)
    return (total if p in (0, 1) else _power_root(total, p, x)).item()


@torch_function(
    "norm",
    "R T n i",
    types=FLOAT_TYPES,
    small=("reduce_along", "0", "total = total + pow(abs(x), v)", "pow(R(total), R(1 / R(v)))"),
)
def norm_along(r: Tensor, t: Tensor, p: float, dim: int) -> None:
    if resized(r, t, check_dim(t, dim, 3)):
        by_slices(lambda to, source: norm_along(to, source, p, 0), dim, t, r)
        return
    p = cast_number(p, t.ty)
    total = _power_sum(t.t, p, dim)
    r.assign(total if p == 0 else _power_root(total, p, t.t))


_DIST = (
    "0",
    "total = R(total + pow(abs(R(x - y)), v))",
    "v == 0 and (n == 1 and 1 or 1 / 0) or R(pow(total, R(1 / R(v))))",
    _AT_ANY_SIZE,
)


@torch_function("dist", "T T n=2", types=FLOAT_TYPES, small=("reduce_all", *_DIST))
def dist(a: Tensor, b: Tensor, p: float) -> float:
    """Compute the p-norm of a - b by TH's formula, which gives infinity for p = 0 and more than one element."""
    if a.numel != b.numel:
        raise TorchError(f"inconsistent tensor size, expected {a.shape_text} and {b.shape_text}")
    p = cast_number(p, a.ty)
    if p == 0:
        return float(a.numel) if a.numel < 2 else math.inf
    x = a.t.reshape(-1) - b.t.reshape(-1)
    if 0 < a.numel <= IN_ORDER:  # TH's total has the element type
        total = torch.from_numpy(np.cumsum(_powers(x, p).to(x.dtype).numpy()))[-1]
    else:
        total = _power_sum(x, p, 0)
    return _power_root(total, p, x).item()


@torch_function("match", "r T T n=1", small=("match",))
def match(r: Tensor, a: Tensor, b: Tensor, gain: float) -> None:
    """Compute squared distances between all rows of two matrices, times a gain."""
    if not (a.numel and b.numel):
        raise TorchError("bad argument #2 (empty Tensor)")
    r.resize((a.size[0], b.size[0]))
    for m in (a, b):
        if m.is_contiguous():  # TH copies others first
            m.resize((m.size[0], m.numel // m.size[0]))
    x, y = (m.t.contiguous().view(m.size[0], -1) for m in (a, b))
    if x.shape[1] != y.shape[1]:
        raise TorchError("bad argument #3 (m1 and m2 must have the same inner vector dim)")
    if overlapping(r, a, b):
        _match_in_order(r, x, y, cast_number(gain, r.ty))
        return
    differences = (row - y for row in x)  # one row at a time, to save memory
    r.assign(cast_number(gain, r.ty) * torch.stack([(d * d).sum(-1, dtype=x.dtype) for d in differences]))


def _match_in_order(r: Tensor, x: torch.Tensor, y: torch.Tensor, gain: float) -> None:
    """Write the distances one by one, as TH does; they may overwrite elements that are read later."""
    assert r.storage is not None
    flat = r.storage.flat
    for i, row in enumerate(x):
        for j, other in enumerate(y):
            difference = row - other
            total = gain * (difference * difference).sum(dtype=x.dtype)
            flat[r.offset + i * len(y) + j] = total


@torch_function("renorm", "r s n i n", types=FLOAT_TYPES, small=("renorm",))
def renorm(r: Tensor, s: Tensor, p: float, dim: int, limit: float) -> None:
    check_dim(s, dim, 3)
    if s.dim < 2:
        raise TorchError(f"bad argument #1 (need at least 2 dimensions, got {s.dim} dimensions)")
    if not p > 0:  # also for NaN
        raise TorchError("bad argument #2 (non-positive-norm not supported)")
    p, limit = cast_number(p, s.ty), cast_number(limit, s.ty)
    if resized_like(r, s):
        for i in range(s.size[dim]):
            to, row = narrowed(r, dim, i, 1), narrowed(s, dim, i, 1)
            norm, scale = _norm_and_scale(row.t, p, dim, limit)
            if norm.item() > limit:
                pointwise(torch.mul, to, row, numbers=(scale.item(),))
            else:
                copy_into(to, row)
        return
    x = s.t
    norms, scales = _norm_and_scale(x, p, dim, limit)
    r.assign(torch.where(norms > limit, x * scales, x))


def _norm_and_scale(x: torch.Tensor, p: float, dim: int, limit: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the norm of each slice along ``dim``, and the factor that scales the slice to the limit."""
    rows = x.movedim(dim, -1).reshape(-1, x.shape[dim])
    powers = _powers(accumulated(rows) if p == 2 else rows, p)
    if len(rows) > IN_ORDER:
        total = powers.sum(0).to(x.dtype)
    else:
        total = x.new_zeros(rows.shape[1])
        for row in powers:  # TH's total has the element type
            total = (total + row).to(x.dtype)
    total = total.view([-1 if d == dim else 1 for d in range(x.dim())])
    norms = torch.pow(total.double(), x.new_tensor(1 / p).double()).to(x.dtype)
    return norms, (limit / (norms.double() + 1e-7)).to(x.dtype)


def _limits(low: float, high: float, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the range of the bins in the element type: (low, high), or the range of the elements if both are equal."""
    first, last = x.new_tensor(low), x.new_tensor(high)
    if first == last:
        if not x.numel():
            raise TorchError("bad argument #1 (tensor must have one dimension)")
        first, last = x.min(), x.max()
    return (first - 1, last + 1) if first == last else (first, last)


def _check_bins(bins: float) -> int:
    if as_long(bins) < 1:  # also for NaN; Torch7 would write before the start of the result
        raise TorchError(f"bad argument #2 ({bins:g} bins, expected at least one)")
    return as_long(bins)


def _bins_of(x: torch.Tensor, count: int, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Return the indices of the bins of elements between ``low`` and ``high``."""
    bins = (x - low) / (high - low) * count
    if not bins.isfinite().all():  # C converts them to the lowest integer, and Torch7 would write outside the result
        raise TorchError(f"bad argument #1 (no bins from {low.item():g} to {high.item():g})")
    return bins.long().clamp(max=count - 1)


@torch_function("histc", "R T n=100 n=0 n=0", types=FLOAT_TYPES, small=("histogram",))
def histc(r: Tensor, t: Tensor, bins: float, low: float, high: float) -> None:
    count = _check_bins(bins)
    if r.storage is not None:
        r.resize((count,))
        if overlapping(r, t):
            _count_in_order(r, t, low, high)
            return
    x = t.t.reshape(-1)
    r.assign(_histogram(x, count, *_limits(low, high, x)))


@torch_function("bhistc", "R T n=100 n=0 n=0", types=FLOAT_TYPES, small=("histogram", "rows"))
def bhistc(r: Tensor, t: Tensor, bins: float, low: float, high: float) -> None:
    if t.dim != 2:
        raise TorchError(f"bad argument #2 (invalid dimension {t.dim}, the input must be a 2d tensor)")
    count = _check_bins(bins)
    if r.storage is not None:
        r.resize((t.size[0], count))
        if overlapping(r, t):
            _count_in_order(r, t, low, high)
            return
    limits = _limits(low, high, t.t)
    r.assign(torch.stack([_histogram(row, count, *limits) for row in t.t]))


def _count_in_order(r: Tensor, t: Tensor, low: float, high: float) -> None:
    """Count elements one by one, as TH does; the bins may overwrite elements that are read later."""
    r.write(torch.zeros(r.size))
    first, last = _limits(low, high, t.t)
    for row, to in slices(1, t, r) if r.dim == 2 else [(t, r)]:
        assert to.storage is not None
        assert row.storage is not None
        bins, flat = to.storage.flat[to.offset : to.offset + to.size[0]], row.storage.flat
        for index in row.storage_indices().tolist():
            x = flat[index]
            if first <= x <= last:
                bins[_bins_of(x, len(bins), first, last)] += 1


def _histogram(x: torch.Tensor, bins: int, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    return torch.bincount(_bins_of(x[(x >= low) & (x <= high)], bins, low, high), minlength=bins)
