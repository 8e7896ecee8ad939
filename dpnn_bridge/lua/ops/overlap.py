"""Compute products whose result overlaps a factor or itself, in TH's order.

For integers TH uses loops, element by element. For floats TH calls BLAS, which multiplies the result by beta and then
computes the product from the changed memory (OpenBLAS, for matrices that it does not split into blocks).
"""

from __future__ import annotations

from dpnn_bridge.lua.dispatch import FLOAT_TYPES
from dpnn_bridge.lua.ops.copying import clone, contiguous, copy_into
from dpnn_bridge.lua.ops.pointwise import is_disjoint
from dpnn_bridge.lua.ops.shape import selected, transposed
from dpnn_bridge.lua.tensor import IN_ORDER, Tensor, cast_number


def overlapping(r: Tensor, *sources: Tensor) -> bool:
    """Return whether writing the result ``r`` may overwrite unread elements of a source, or of ``r`` itself."""
    if r.storage is None or not 0 < r.numel <= IN_ORDER:
        return False
    if r.overlaps():
        return True
    shared = [f for f in sources if f.storage is not None and f.storage.block is r.storage.block]
    return any(not is_disjoint(f, r) for f in shared)


def _transposed(t: Tensor) -> Tensor:
    return transposed(t, 0, 1)


class _Elements:
    """Access to the elements of a tensor by indices; numbers are converted to its type when they are stored."""

    def __init__(self, t: Tensor) -> None:
        assert t.storage is not None
        self.flat, self.offset, self.stride, self.ty = t.storage.flat.numpy(), t.offset, t.stride, t.ty

    def _index(self, index: tuple[int, ...]) -> int:
        return self.offset + sum(i * s for i, s in zip(index, self.stride, strict=True))

    def cast(self, value: float) -> float:
        return cast_number(value, self.ty)

    def __getitem__(self, index: tuple[int, ...]) -> float:
        return self.flat[self._index(index)].item()

    def __setitem__(self, index: tuple[int, ...], value: float) -> None:
        self.flat[self._index(index)] = self.cast(value)


def _scale(t: Tensor, beta: float) -> None:
    """Multiply by beta, for each element of the view once; beta 0 sets zeros."""
    if beta != 1:
        assert t.storage is not None
        flat, elements = t.storage.flat.numpy(), _Elements(t)
        for index in t.storage_indices().tolist():
            flat[index] = elements.cast(beta * flat[index].item()) if beta != 0 else 0


def _by_blas(r: Tensor, beta: float, alpha: float, x: Tensor, y: Tensor) -> None:
    if r.overlaps():
        return  # BLAS rejects such a result and does not change it
    _scale(r, beta)
    if alpha != 0:
        r.t.add_(x.t @ y.t, alpha=alpha)


def _is_blas_layout(t: Tensor) -> bool:
    """Return whether BLAS accepts the memory layout of a matrix; others are copied first."""
    rows, columns = t.stride
    return (rows == 1 and columns != 0) or (columns == 1 and rows != 0)


def add_mm(r: Tensor, beta: float, alpha: float, x: Tensor, y: Tensor) -> None:
    """Compute ``r = beta * r + alpha * x @ y`` like THTensor_(addmm)."""
    x, y = (f if _is_blas_layout(f) else contiguous(f) for f in (x, y))
    by_columns = r.stride[0] == 1 and r.stride[1] != 0
    if not _is_blas_layout(r):
        c = _transposed(clone(_transposed(r)))
    elif by_columns:
        c = r
    else:
        c, x, y = _transposed(r), _transposed(y), _transposed(x)
    if r.ty in FLOAT_TYPES:
        _by_blas(c, beta, alpha, x, y)
    else:
        to, left, right = _Elements(c), _Elements(x), _Elements(y)
        for i in range(c.size[0]):
            for j in range(c.size[1]):
                total = alpha * sum(left[i, k] * right[k, j] for k in range(x.size[1]))
                to[i, j] = total if beta == 0 else beta * to[i, j] + total
    if not _is_blas_layout(r):
        copy_into(r, c)


def add_mv(r: Tensor, beta: float, alpha: float, x: Tensor, y: Tensor) -> None:
    """Compute ``r = beta * r + alpha * x @ y`` of a matrix and a vector like THTensor_(addmv)."""
    by_columns = x.stride[0] == 1
    if not by_columns and x.stride[1] != 1:
        x = contiguous(x)
    if r.ty in FLOAT_TYPES and r.stride[0] > 0 and y.stride[0] > 0:
        _by_blas(r, beta, alpha, x, y)
        return
    to, left, right = _Elements(r), _Elements(x), _Elements(y)
    rows, columns = x.size
    if not by_columns:
        for i in range(rows):
            total = alpha * sum(left[i, k] * right[k,] for k in range(columns))
            to[i,] = total if beta == 0 else beta * to[i,] + total
        return
    _scale(r, beta)
    for k in range(columns):
        factor = to.cast(alpha * right[k,])
        for i in range(rows):
            to[i,] += factor * left[i, k]


def add_r(r: Tensor, beta: float, alpha: float, x: Tensor, y: Tensor) -> None:
    """Compute ``r = beta * r + alpha * x y'`` of two vectors like THTensor_(addr)."""
    _scale(r, beta)
    c = r
    if r.stride[0] != 1:
        c, x, y = _transposed(r if r.stride[1] == 1 else clone(r)), y, x
    if r.ty in FLOAT_TYPES and c.overlaps():
        return  # BLAS rejects such a result and does not change it
    to, left, right = _Elements(c), _Elements(x), _Elements(y)
    for j in range(c.size[1]):
        factor = to.cast(alpha * right[j,])
        for i in range(c.size[0]):
            to[i, j] += factor * left[i,]
    if 1 not in r.stride:
        copy_into(r, _transposed(c))


def badd_mm(r: Tensor, beta: float, alpha: float, x: Tensor, y: Tensor) -> None:
    """Compute each matrix of a batch like THTensor_(baddbmm)."""
    for i in range(r.size[0]):
        add_mm(selected(r, 0, i), beta, alpha, selected(x, 0, i), selected(y, 0, i))


def add_bmm(r: Tensor, beta: float, alpha: float, x: Tensor, y: Tensor) -> None:
    """Compute the sum of the products of a batch like THTensor_(addbmm)."""
    for i in range(x.size[0]):
        add_mm(r, beta if i == 0 else 1, alpha, selected(x, 0, i), selected(y, 0, i))
