"""Reductions, scans, norms and histograms. Numbers accumulate in double (float types) or 64 bits (integers)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from dpnn_bridge.lua.dispatch import FLOAT_TYPES, torch_function
from dpnn_bridge.lua.tensor import Tensor, TorchError


def wide(t: torch.Tensor) -> torch.Tensor:
    """In the type that TH accumulates in."""
    return t.double() if t.is_floating_point() else t.long()


def check_dim(t: Tensor, dim: int, position: int = 2) -> int:
    if not 0 <= dim < t.dim:
        raise TorchError(f"bad argument #{position} (dimension {dim + 1} out of range of {t.dim}D tensor)")
    return dim


def _number(value: torch.Tensor) -> float:
    return value.item()


def _reduction(
    name: str, f: Callable[..., torch.Tensor], empty: float | None = 0, types: tuple[str, ...] | None = None
) -> None:
    options = {} if types is None else {"types": types}

    @torch_function(name, "T", **options)
    def whole(t: Tensor) -> float:
        if not t.numel and empty is not None:
            return empty
        return _number(f(wide(t.t).reshape(-1), 0))

    @torch_function(name, "R T i", **options)
    def along(r: Tensor, t: Tensor, dim: int) -> None:
        r.assign(f(wide(t.t), check_dim(t, dim)).unsqueeze(dim))


_reduction("sum", torch.sum)
_reduction("prod", torch.prod, empty=1)


@torch_function("mean", "T", types=FLOAT_TYPES)
def mean(t: Tensor) -> float:
    if not t.numel:
        raise TorchError("bad argument #1 (empty Tensor)")
    return _number(wide(t.t).sum() / t.numel)


@torch_function("mean", "R T i", types=FLOAT_TYPES)
def mean_along(r: Tensor, t: Tensor, dim: int) -> None:
    check_dim(t, dim)
    r.assign(wide(t.t).sum(dim, keepdim=True) / t.size[dim])


def _spread(name: str, finish: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """var and std; the boolean asks for division by n instead of n - 1."""

    @torch_function(name, "T b=0", types=FLOAT_TYPES)
    def whole(t: Tensor, biased: bool) -> float:
        if not t.numel:
            raise TorchError("bad argument #1 (empty Tensor)")
        return _number(finish(_variance(wide(t.t).reshape(-1), 0, biased)))

    @torch_function(name, "R T i b=0", types=FLOAT_TYPES)
    def along(r: Tensor, t: Tensor, dim: int, biased: bool) -> None:
        check_dim(t, dim)
        r.assign(finish(_variance(wide(t.t), dim, biased)))


def _variance(x: torch.Tensor, dim: int, biased: bool) -> torch.Tensor:
    n = x.shape[dim]
    centred = x - x.mean(dim, keepdim=True)
    return (centred * centred).sum(dim, keepdim=True) / (n if biased else n - 1)


_spread("var", lambda v: v)
_spread("std", torch.sqrt)


@torch_function("trace", "T")
def trace(t: Tensor) -> float:
    if t.dim != 2:
        raise TorchError("bad argument #1 (expected a matrix)")
    return _number(wide(torch.diagonal(t.t)).sum())


@torch_function("numel", "T")
def numel(t: Tensor) -> int:
    return t.numel


def _scan(name: str, f: Callable[..., torch.Tensor]) -> None:
    @torch_function(name, "R T i=1")
    def run(r: Tensor, t: Tensor, dim: int) -> None:
        check_dim(t, dim)
        r.assign(f(wide(t.t), dim))


_scan("cumsum", torch.cumsum)
_scan("cumprod", torch.cumprod)


def _norm(x: torch.Tensor, p: float, dim: int) -> torch.Tensor:
    if p == 0:
        return (x != 0).to(x.dtype).sum(dim, keepdim=True)
    if p == 1:
        return x.abs().sum(dim, keepdim=True)
    if p == 2:
        return torch.sqrt((x * x).sum(dim, keepdim=True))
    return torch.pow(torch.pow(x.abs(), p).sum(dim, keepdim=True), 1 / p)


@torch_function("norm", "T n=2", types=FLOAT_TYPES)
def norm(t: Tensor, p: float) -> float:
    return _number(_norm(wide(t.t).reshape(-1), p, 0))


@torch_function("norm", "R T n i", types=FLOAT_TYPES)
def norm_along(r: Tensor, t: Tensor, p: float, dim: int) -> None:
    check_dim(t, dim, 3)
    r.assign(_norm(wide(t.t), p, dim))


@torch_function("dist", "T T n=2", types=FLOAT_TYPES)
def dist(a: Tensor, b: Tensor, p: float) -> float:
    """TH sums |a - b|^p, also for p = 0 (then 1 per element, to the power 1/0)."""
    if a.numel != b.numel:
        raise TorchError(f"inconsistent tensor size, expected {a.shape_text} and {b.shape_text}")
    total = torch.pow((wide(a.t).reshape(-1) - wide(b.t).reshape(-1)).abs(), p).sum()
    return math.inf if p == 0 else _number(torch.pow(total, 1 / p))


@torch_function("renorm", "r s n i n", types=FLOAT_TYPES)
def renorm(r: Tensor, s: Tensor, p: float, dim: int, limit: float) -> None:
    check_dim(s, dim, 3)
    if s.dim < 2:
        raise TorchError("bad argument #2 (need at least 2 dimensions)")
    others = [d for d in range(s.dim) if d != dim]
    x = wide(s.t)
    norms = torch.pow(torch.pow(x.abs(), p).sum(others, keepdim=True), 1 / p)
    r.assign(x * torch.where(norms > limit, limit / (norms + 1e-7), 1.0))


def _bins(low: float, high: float, x: torch.Tensor) -> tuple[float, float]:
    if low == high:
        low, high = float(x.min()), float(x.max())
    return (low - 1, high + 1) if low == high else (low, high)


@torch_function("histc", "R T n=100 n=0 n=0", types=FLOAT_TYPES)
def histc(r: Tensor, t: Tensor, bins: float, low: float, high: float) -> None:
    x = t.t.reshape(-1)
    r.assign(_histogram(x, int(bins), *_bins(low, high, x)))


@torch_function("bhistc", "R T n=100 n=0 n=0", types=FLOAT_TYPES)
def bhistc(r: Tensor, t: Tensor, bins: float, low: float, high: float) -> None:
    if t.dim > 2:
        raise TorchError("bad argument #2 (expected a vector or a matrix)")
    rows = t.t.reshape(1, -1) if t.dim == 1 else t.t
    limits = _bins(low, high, rows)
    r.assign(torch.stack([_histogram(row, int(bins), *limits) for row in rows]))


def _histogram(x: torch.Tensor, bins: int, low: float, high: float) -> torch.Tensor:
    inside = x[(x >= low) & (x <= high)]
    at = ((inside - low) / (high - low) * bins).long().clamp(max=bins - 1)
    return torch.bincount(at, minlength=bins)
