"""Reductions, scans, norms and histograms. Sums accumulate in double (float types) or 64 bits (integers)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from dpnn_bridge.lua.dispatch import FLOAT_TYPES, INTEGER_TYPES, check_dim, torch_function
from dpnn_bridge.lua.tensor import IN_ORDER, Tensor, TorchError, cast_number, square_root


def wide(t: torch.Tensor) -> torch.Tensor:
    """Convert to the type in which TH accumulates."""
    return t.double() if t.is_floating_point() else t.long()


def _sum(x: torch.Tensor, dim: int) -> torch.Tensor:
    if not 0 < x.numel() <= IN_ORDER or not x.is_floating_point():
        return x.sum(dim)
    return x.cumsum(dim).select(dim, -1)


def resized_first(r: Tensor, t: Tensor, dim: int, start: float | None = None) -> None:
    """Resize a result that is also the source first, as Torch7 does; sums start from ``start``."""
    if r is t:
        r.resize((*t.size[:dim], 1, *t.size[dim + 1 :]))
        if start is not None and t.stride[dim] != 1:
            r.t.fill_(start)


def _number(value: torch.Tensor) -> float:
    return value.item()


def _reduction(
    name: str,
    f: Callable[..., torch.Tensor],
    empty: float,
    types: tuple[str, ...],
    start: str,
    step: str,
    apart: str = "",
) -> None:
    """Declare with the start and the step of LuaJIT's loops; ``apart`` is the step if elements are not adjacent."""

    @torch_function(name, "T", types=types, small=("whole", start, step, "tonumber(total)"))
    def whole(t: Tensor) -> float:
        if not t.numel:
            return empty
        return _number(f(wide(t.t).reshape(-1), 0))

    @torch_function(name, "R T i", types=types, small=("along", start, step, "total", apart or step))
    def along(r: Tensor, t: Tensor, dim: int) -> None:
        resized_first(r, t, check_dim(t, dim), empty)
        r.assign(f(wide(t.t), dim).unsqueeze(dim))


_ADD, _MULTIPLY = "total = total + x", "total = total * x"
_reduction("sum", _sum, 0, FLOAT_TYPES, "0", _ADD, "total = R(total + x)")
_reduction("sum", _sum, 0, INTEGER_TYPES, "0", _ADD)
_reduction("prod", torch.prod, 1, FLOAT_TYPES, "1", _MULTIPLY)
_reduction("prod", torch.prod, 1, INTEGER_TYPES, "1LL", _MULTIPLY)


@torch_function("mean", "T", types=FLOAT_TYPES, small=("whole", "0", _ADD, "total / n"))
def mean(t: Tensor) -> float:
    if not t.numel:
        raise TorchError("bad argument #1 (empty Tensor)")
    return _number(_sum(wide(t.t).reshape(-1), 0) / t.numel)


@torch_function(
    "mean",
    "R T i",
    types=FLOAT_TYPES,
    small=("along", "0", _ADD, "R(total) / n", "total = R(total + x)", "total / n"),
)
def mean_along(r: Tensor, t: Tensor, dim: int) -> None:
    resized_first(r, t, check_dim(t, dim), 0)
    r.assign(_sum(wide(t.t), dim).unsqueeze(dim) / t.size[dim])


def _root(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Compute the square root in the element type, as sqrtf for floats."""
    return square_root(values.to(like.dtype))


def _spread(name: str, finish: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
    """Compute var or std; the boolean selects division by n instead of n - 1."""

    @torch_function(name, "T b=0", types=FLOAT_TYPES, small=("spread", "root" if name == "std" else ""))
    def whole(t: Tensor, biased: bool) -> float:
        if not t.numel:
            raise TorchError("bad argument #1 (empty Tensor)")
        x = wide(t.t)
        centred = x - x.mean()
        variance = (centred * centred).sum() / (t.numel if biased else t.numel - 1)
        return _number(finish(variance, x))

    mean = "(total / n)"
    variance = f"max(0, v and other / n - {mean} * {mean} or other / (n - 1) - R(n / (n - 1)) * {mean} * {mean})"
    step = "total = total + x other = other + R(x * x)"
    total = f"sqrt(R({variance}))" if name == "std" else variance

    @torch_function(name, "R T i b=0", types=FLOAT_TYPES, small=("along", "0", step, total))
    def along(r: Tensor, t: Tensor, dim: int, biased: bool) -> None:
        resized_first(r, t, check_dim(t, dim))
        n = t.size[dim]
        mean = wide(t.t).sum(dim, keepdim=True) / n
        squares = wide(t.t * t.t).sum(dim, keepdim=True)
        ratio = 1.0 if biased else float(t.t.new_tensor(float(n)) / t.t.new_tensor(float(n - 1)))
        variance = squares / (n if biased else n - 1) - ratio * mean * mean
        r.assign(finish(variance.clamp(min=0), t.t))


_spread("var", lambda v, _: v)
_spread("std", _root)


@torch_function("trace", "T", small=("trace",))
def trace(t: Tensor) -> float:
    if t.dim != 2:
        raise TorchError("bad argument #1 (expected a matrix)")
    return _number(wide(torch.diagonal(t.t)).sum())


@torch_function("numel", "T", small=("numel",))
def numel(t: Tensor) -> int:
    return t.numel


def _scan(name: str, f: Callable[..., torch.Tensor], types: tuple[str, ...], *small: str) -> None:
    @torch_function(name, "R T i=1", types=types, small=("scan", *small))
    def run(r: Tensor, t: Tensor, dim: int) -> None:
        check_dim(t, dim)
        r.assign(f(wide(t.t), dim))


_scan("cumsum", torch.cumsum, FLOAT_TYPES, "0", _ADD)
_scan("cumsum", torch.cumsum, INTEGER_TYPES, "0LL", _ADD)
_scan("cumprod", torch.cumprod, FLOAT_TYPES, "1", _MULTIPLY)
_scan("cumprod", torch.cumprod, INTEGER_TYPES, "1LL", _MULTIPLY)


def _power_sum(x: torch.Tensor, p: float, dim: int | list[int]) -> torch.Tensor:
    """Return the sum of |x|^p: powers in the element type, the sum in double."""
    if p == 0:
        return (x != 0).double().sum(dim, keepdim=True)
    return torch.pow(x.abs(), x.new_tensor(float(p))).double().sum(dim, keepdim=True)


def _power_root(total: torch.Tensor, p: float, like: torch.Tensor) -> torch.Tensor:
    return torch.pow(total.to(like.dtype), like.new_tensor(1 / p))


_NORM = (
    "0",
    "total = total + (v == 2 and x * x or v == 1 and abs(x) or v == 0 and (x == 0 and 0 or 1) or pow(abs(x), v))",
    "v == 2 and sqrt(total) or v <= 1 and v >= 0 and v % 1 == 0 and total or R(pow(R(total), R(1 / v)))",
)


@torch_function("norm", "T n=2", types=FLOAT_TYPES, small=("whole", *_NORM))
def norm(t: Tensor, p: float) -> float:
    x = t.t.reshape(-1)
    if p == 2:
        return math.sqrt(_sum(wide(x) * wide(x), 0).item())
    total = _power_sum(x, p, 0)
    return _number(total if p in (0, 1) else _power_root(total, p, x))


@torch_function(
    "norm",
    "R T n i",
    types=FLOAT_TYPES,
    small=("along", "0", "total = total + pow(abs(x), v)", "pow(R(total), R(1 / v))"),
)
def norm_along(r: Tensor, t: Tensor, p: float, dim: int) -> None:
    resized_first(r, t, check_dim(t, dim, 3))
    total = _power_sum(t.t, p, dim)
    r.assign(total if p == 0 else _power_root(total, p, t.t))


_DIST = ("0", "total = total + pow(abs(R(x - y)), v)", "v == 0 and 1 / 0 or R(pow(R(total), R(1 / v)))")


@torch_function("dist", "T T n=2", types=FLOAT_TYPES, small=("whole", *_DIST))
def dist(a: Tensor, b: Tensor, p: float) -> float:
    """Compute TH's sum of |a - b|^p, also for p = 0 (1 per element, to the power 1/0)."""
    if a.numel != b.numel:
        raise TorchError(f"inconsistent tensor size, expected {a.shape_text} and {b.shape_text}")
    if p == 0:
        return math.inf
    x = a.t.reshape(-1) - b.t.reshape(-1)
    return _number(_power_root(_power_sum(x, p, 0), p, x))


@torch_function("match", "r T T n=1", small=("match",))
def match(r: Tensor, a: Tensor, b: Tensor, gain: float) -> None:
    """Compute squared distances between all rows of two matrices, times a gain."""
    x, y = a.t.reshape(a.size[0], -1), b.t.reshape(b.size[0], -1)
    if x.shape[1] != y.shape[1]:
        raise TorchError("bad argument #3 (m1 and m2 must have the same inner vector dim)")
    difference = x[:, None, :] - y[None, :, :]
    r.assign(cast_number(gain, r.ty) * (difference * difference).sum(-1, dtype=x.dtype))


@torch_function("renorm", "r s n i n", types=FLOAT_TYPES, small=("renorm",))
def renorm(r: Tensor, s: Tensor, p: float, dim: int, limit: float) -> None:
    check_dim(s, dim, 3)
    if s.dim < 2:
        raise TorchError(f"bad argument #1 (need at least 2 dimensions, got {s.dim} dimensions)")
    if not p > 0:  # as NaN also is
        raise TorchError("bad argument #2 (non-positive-norm not supported)")
    x = s.t
    total = _power_sum(x if p != 2 else wide(x), p, [d for d in range(s.dim) if d != dim]).to(x.dtype)
    norms = torch.pow(total.double(), 1 / p).to(x.dtype)
    scale = (limit / (norms.double() + 1e-7)).to(x.dtype)
    r.assign(torch.where(norms > limit, x * scale, x))


def _bins(low: float, high: float, x: torch.Tensor) -> tuple[float, float]:
    if low == high:
        low, high = float(x.min()), float(x.max())
    return (low - 1, high + 1) if low == high else (low, high)


@torch_function("histc", "R T n=100 n=0 n=0", types=FLOAT_TYPES, small=("histogram",))
def histc(r: Tensor, t: Tensor, bins: float, low: float, high: float) -> None:
    if r is t:
        r.resize((int(bins),))
        _count_within(r.t[None], low, high)
        return
    x = t.t.reshape(-1)
    r.assign(_histogram(x, int(bins), *_bins(low, high, x)))


@torch_function("bhistc", "R T n=100 n=0 n=0", types=FLOAT_TYPES, small=("histogram", "rows"))
def bhistc(r: Tensor, t: Tensor, bins: float, low: float, high: float) -> None:
    if t.dim != 2:
        raise TorchError(f"bad argument #2 (invalid dimension {t.dim}, the input must be a 2d tensor)")
    if r is t:
        r.resize((t.size[0], int(bins)))
        _count_within(r.t, low, high)
        return
    limits = _bins(low, high, t.t)
    r.assign(torch.stack([_histogram(row, int(bins), *limits) for row in t.t]))


def _count_within(rows: torch.Tensor, low: float, high: float) -> None:
    """Count the elements of each row in the row itself, as Torch7 does if the result is also the source."""
    rows.fill_(0)
    low, high = _bins(low, high, rows)
    bins = rows.shape[1]
    for row in rows:
        for i in range(bins):
            if low <= row[i] <= high:
                row[min(int((float(row[i]) - low) / (high - low) * bins), bins - 1)] += 1


def _histogram(x: torch.Tensor, bins: int, low: float, high: float) -> torch.Tensor:
    inside = x[(x >= low) & (x <= high)]
    at = ((inside - low) / (high - low) * bins).long().clamp(max=bins - 1)
    return torch.bincount(at, minlength=bins)
