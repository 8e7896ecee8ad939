"""Products of vectors and matrices."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch

from dpnn_bridge.lua.dispatch import torch_function
from dpnn_bridge.lua.ops import overlap
from dpnn_bridge.lua.ops.copying import copy_into
from dpnn_bridge.lua.ops.elementwise import fill
from dpnn_bridge.lua.ops.slices import resized, slices
from dpnn_bridge.lua.tensor import Tensor, TorchError, cast_number, shape_text


@torch_function("dot", "T T", small=("dot",))
def dot(a: Tensor, b: Tensor) -> float:
    """Compute the dot product of all elements; the sum of integers wraps at the end of each evenly spaced run."""
    if a.numel != b.numel:
        raise TorchError(f"inconsistent tensor size, expected {a.shape_text} and {b.shape_text}")
    x, y = a.t.reshape(-1), b.t.reshape(-1)
    total: float = 0
    for first, last in _runs(a, b):
        part = x[first:last], y[first:last]
        if x.is_floating_point():
            total += float(torch.dot(*part))
        else:
            total += int((part[0] * part[1]).sum(dtype=x.dtype))
    return total


def _run_length(t: Tensor) -> int:
    """Return the number of elements, of the last dimensions, that lie at equal distances in memory."""
    length, step = 1, 0
    for n, stride in zip(reversed(t.size), reversed(t.stride), strict=True):
        if length > 1 and stride != step * length:
            break
        if n > 1:
            step = stride if length == 1 else step
            length *= n
    return length


def _runs(a: Tensor, b: Tensor) -> list[tuple[int, int]]:
    """Return the (first, end) of runs in which both tensors have a single stride; TH calls BLAS once per run."""
    bounds = {0, a.numel}
    for length in (_run_length(a), _run_length(b)):
        bounds |= set(range(0, a.numel, max(length, 1)))
    return list(itertools.pairwise(sorted(bounds)))


def _size_mismatch(names: str, a: Tensor, b: Tensor) -> TorchError:
    return TorchError(f"size mismatch, {names}: {a.shape_text}, {b.shape_text}")


def matrix_product(a: Tensor, b: Tensor) -> torch.Tensor:
    if a.dim != 2 or b.dim not in (1, 2) or a.size[1] != b.size[0]:
        raise _size_mismatch("m1, m2" if b.dim == 2 else "mat, vec", a, b)
    return a.t @ b.t


def _batch_product(a: Tensor, b: Tensor) -> torch.Tensor:
    if a.size[0] != b.size[0] or a.size[2] != b.size[1]:
        raise _size_mismatch("batch1, batch2", a, b)
    return torch.bmm(a.t, b.t)


def _outer(a: Tensor, b: Tensor) -> torch.Tensor:
    return a.t[:, None] * b.t[None, :]


#: computes ``r = beta * r + alpha * x y`` in TH's order if the result overlaps a factor, see overlap.py
InOrder = Callable[[Tensor, float, float, Tensor, Tensor], None]
Product = Callable[[Tensor, Tensor], torch.Tensor]


def _declare_product(name: str, dims: tuple[int, int], product: Product, in_order: InOrder) -> None:
    """Declare mm, mv, bmm or ger: an omitted result is allocated; a given result must have the right shape."""
    a, b = dims
    small = ("product", "r" if name == "ger" else name)

    @torch_function(name, f"T{a} T{b}", modes="f", small=small)
    def fresh(x: Tensor, y: Tensor) -> Tensor:
        return Tensor.fresh(product(x, y).add_(0))  # the product is added to zeros: no sum is -0

    @torch_function(name, f"X T{a} T{b}", small=small)
    def into(r: Tensor, x: Tensor, y: Tensor) -> None:
        fill(r, 0)  # before the product is computed, because the result may be one of its factors
        values = product(x, y).add_(0)
        if tuple(values.shape) != r.size:
            if r.dim != values.dim():
                expected = ("vector", "matrix", "3D tensor")[values.dim() - 1]
                raise TorchError(f"{expected} expected, got {r.dim}D tensor for t")
            raise _size_mismatch("t, product", r, Tensor.fresh(values))
        if overlap.overlapping(r, x, y):
            in_order(r, 0, 1, x, y)
        else:
            r.write(values)


_declare_product("mm", (2, 2), matrix_product, overlap.add_mm)
_declare_product("mv", (2, 1), matrix_product, overlap.add_mv)
_declare_product("bmm", (3, 3), _batch_product, overlap.badd_mm)
_declare_product("ger", (1, 1), _outer, overlap.add_r)


def _declare_addition(name: str, dim: int, dims: tuple[int, int], product: Product, in_order: InOrder) -> None:
    def add(r: Tensor, beta: float, m: Tensor, alpha: float, x: Tensor, y: Tensor) -> None:
        """Compute ``r = beta * m + alpha * product``; the products of a batch are added one after the other."""
        values = product(x, y)
        products = values.unbind(0) if values.dim() > dim else (values,)
        if tuple(products[0].shape) != m.size:
            raise TorchError(f"size mismatch, t: {m.shape_text}, product: {shape_text(products[0].shape)}")
        beta, alpha = cast_number(beta, m.ty), cast_number(alpha, m.ty)
        if r is not m and not r.same(m):
            r.resize_as(m)
        if overlap.overlapping(r, x, y):
            copy_into(r, m)
            in_order(r, beta, alpha, x, y)
            return
        zero = m.t.new_zeros(() if alpha != 0 else m.size)
        start = zero if beta == 0 else m.t if beta == 1 else beta * m.t
        for values in products if alpha != 0 else ():  # BLAS does not read the factors if alpha is 0
            start = start + (values if alpha == 1 else alpha * values)
        r.write(start)

    a, b = dims
    small = ("added", {"addbmm": "sum", "baddbmm": "bmm"}.get(name, name.removeprefix("add")))

    @torch_function(name, f"R n=1 T{dim} n=1 T{a} T{b}", modes="f", small=small)
    def run(r: Tensor, beta: float, m: Tensor, alpha: float, x: Tensor, y: Tensor) -> None:
        add(r, beta, m, alpha, x, y)

    @torch_function(name, f"X{dim} s{dim} n=1 T{a} T{b}", modes="m", small=small)
    def method(r: Tensor, m: Tensor, alpha: float, x: Tensor, y: Tensor) -> None:
        add(r, 1, m, alpha, x, y)

    @torch_function(name, f"X{dim} n s{dim} n T{a} T{b}", modes="m", small=small)
    def method_beta(r: Tensor, beta: float, m: Tensor, alpha: float, x: Tensor, y: Tensor) -> None:
        add(r, beta, m, alpha, x, y)


_declare_addition("addmv", 1, (2, 1), matrix_product, overlap.add_mv)
_declare_addition("addmm", 2, (2, 2), matrix_product, overlap.add_mm)
_declare_addition("addr", 2, (1, 1), _outer, overlap.add_r)
_declare_addition("addbmm", 2, (3, 3), _batch_product, overlap.add_bmm)
_declare_addition("baddbmm", 3, (3, 3), _batch_product, overlap.badd_mm)


@torch_function("cross", "R T T i=0", small=("cross",))
def cross(r: Tensor, a: Tensor, b: Tensor, dim: int) -> None:
    if a.size != b.size:
        raise TorchError(f"inconsistent tensor sizes {a.shape_text} {b.shape_text}")
    if dim < 0:
        dim = next((d for d, n in enumerate(a.size) if n == 3), -1)
        if dim < 0:
            raise TorchError("no dimension of size 3")
    if dim >= a.dim or a.size[dim] != 3:
        raise TorchError(f"bad argument #3 (dimension {dim + 1} does not have size 3)")
    if resized(r, a, dim, 3) or overlap.overlapping(r, b):
        for x, y, to in slices(dim, a, b, r):
            for k, i, j in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
                to.t[k] = x.t[i] * y.t[j] - x.t[j] * y.t[i]
        return
    x, y = a.t.movedim(dim, 0), b.t.movedim(dim, 0)
    i, j = [1, 2, 0], [2, 0, 1]
    r.assign((x[i] * y[j] - x[j] * y[i]).movedim(0, dim))  # each product is rounded, as in TH
