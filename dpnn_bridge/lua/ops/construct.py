"""Create tensors: constructors, sequences, triangles, diagonals and concatenation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

import torch

from dpnn_bridge.lua.arguments import as_long, check_real
from dpnn_bridge.lua.dispatch import FLOAT_TYPES, torch_function
from dpnn_bridge.lua.ops.copying import copy_into
from dpnn_bridge.lua.ops.elementwise import fill
from dpnn_bridge.lua.ops.overlap import overlapping
from dpnn_bridge.lua.ops.pointwise import pointwise
from dpnn_bridge.lua.ops.shape import narrowed, point_to
from dpnn_bridge.lua.ops.slices import resized_like
from dpnn_bridge.lua.tensor import DTYPES, Tensor, TorchError, cast_number


def new_tensor(ty: str, *args: Any) -> Tensor:
    """Return ``torch.*Tensor(...)`` without tables, for which Lua calls :func:`tensor_of_numbers`."""
    t = Tensor(ty)
    point_to(t, args, 1)
    return t


def tensor_of_numbers(ty: str, numbers: Sequence[float], sizes: Sequence[int]) -> Tensor:
    if not numbers:
        return Tensor(ty)
    values = [check_real(v, 1, ty) if isinstance(v, str) else cast_number(v, ty) for v in numbers]
    return Tensor.fresh(torch.tensor(values, dtype=DTYPES[ty]).view(tuple(sizes)))


@torch_function("zeros", "r L", small=("constant", "0"))
def zeros(r: Tensor, sizes: tuple[int, ...]) -> None:
    r.resize(sizes)
    if r.size:
        r.t.zero_()


@torch_function("ones", "r L", small=("constant", "1"))
def ones(r: Tensor, sizes: tuple[int, ...]) -> None:
    r.resize(sizes)
    if r.size:
        r.t.fill_(1)


@torch_function("eye", "r n n=0", small=("eye",))
def eye(r: Tensor, rows: float, columns: float) -> None:
    n, m = as_long(rows), as_long(columns)
    if n <= 0:
        raise TorchError("bad argument #1 (invalid argument)")
    r.resize((n, m if m > 0 else n))
    fill(r, 0)
    fill(_diagonal(r, 0, 0, min(r.size)), 1)


@torch_function("range", "r n n n=1", small=("range",))
def range_(r: Tensor, first: float, last: float, step: float) -> None:
    dtype = torch.float64
    if r.ty not in FLOAT_TYPES:
        dtype, first, last, step = torch.int64, as_long(first), as_long(last), as_long(step)
    if step == 0:
        raise TorchError("bad argument #3 (step must be a non-null number)")
    if (step > 0) != (last >= first) and first != last:
        raise TorchError("bad argument #2 (upper bound and larger bound incoherent with step sign)")
    distance = last - first
    count = as_long(distance / step + 1) if r.ty in FLOAT_TYPES else as_long(abs(distance)) // abs(step) + 1
    _fill(r, torch.arange(max(count, 0), dtype=dtype) * step + first)


def _fill(r: Tensor, values: torch.Tensor) -> None:
    """Write a 1-D sequence to a result, which is resized unless it has as many elements already."""
    if r.numel == len(values):
        r.write(values)
    else:
        r.assign(values)


def _check_points(r: Tensor, name: str, first: float, last: float, count: float) -> int:
    n = as_long(count)
    if n == r.numel == 1 != r.dim:
        raise TorchError("bad argument #1 (tensor must have one dimension)")
    if not (n > 1 or (n == 1 and first == last)):
        raise TorchError(f"bad argument #3 (invalid number of points for {name})")
    return n


@torch_function("linspace", "r n n n=100", types=FLOAT_TYPES, small=("linspace",))
def linspace(r: Tensor, first: float, last: float, count: float) -> None:
    first, last = cast_number(first, r.ty), cast_number(last, r.ty)
    _fill(r, _points(r, first, last, _check_points(r, "linspace", first, last, count)))


def _points(r: Tensor, first: float, last: float, n: int) -> torch.Tensor:
    """Return n points at equal distances; each operation is rounded to the type of the result."""
    steps = torch.arange(n, dtype=DTYPES[r.ty]) * (last - first)
    return first + steps / max(n - 1, 1)


@torch_function("logspace", "r n n n=100", types=FLOAT_TYPES, small=("logspace",))
def logspace(r: Tensor, first: float, last: float, count: float) -> None:
    first, last = cast_number(first, r.ty), cast_number(last, r.ty)
    _fill(r, torch.pow(10.0, _points(r, first, last, _check_points(r, "logspace", first, last, count)).double()))


@torch_function("tril", "R T n=0", small=("band", "lower"))
def tril(r: Tensor, t: Tensor, k: float) -> None:
    _band(torch.tril, r, t, as_long(k))


@torch_function("triu", "R T n=0", small=("band", "upper"))
def triu(r: Tensor, t: Tensor, k: float) -> None:
    _band(torch.triu, r, t, as_long(k))


def _band(f: Callable[..., torch.Tensor], r: Tensor, t: Tensor, k: int) -> None:
    if t.dim != 2:
        raise TorchError(f"bad argument #1 (expected a matrix, got a {t.dim}D tensor)")
    if not resized_like(r, t):
        r.assign(f(t.t, k))
        return
    assert r.storage is not None
    assert t.storage is not None
    flat, origins = r.storage.flat, t.storage.flat
    band = f(torch.ones(t.size, dtype=torch.uint8), k).bool()
    for to, source, mask in zip(r.storage_indices().view(t.size), t.storage_indices().view(t.size), band, strict=True):
        if f is torch.tril:  # writes the zeros first; triu writes them last
            flat[to[~mask]] = 0
        for target, origin in zip(to[mask].tolist(), source[mask].tolist(), strict=True):
            flat[target] = origins[origin]
        if f is torch.triu:
            flat[to[~mask]] = 0


@torch_function("diag", "R T n=0", small=("diag",))
def diag(r: Tensor, t: Tensor, k: float) -> None:
    if t.dim not in (1, 2):
        raise TorchError("bad argument #1 (matrix or a vector expected)")
    k = as_long(k)
    if t.dim == 2 and not -t.size[0] < k < t.size[1]:
        r.resize(())
        raise TorchError(f"bad argument #2 (a matrix of {t.shape_text} has no diagonal {k})")
    above, below = max(k, 0), max(-k, 0)
    if t.dim == 1:
        source, n = t.alias(), t.size[0] + above + below
        r.resize((n, n))
        fill(r, 0)
        pointwise(lambda x: x, _diagonal(r, above, below, source.size[0]), source)
    else:
        n = min(t.size[0] - below, t.size[1] - above)
        source = _diagonal(t, above, below, n)
        r.resize((n,))
        pointwise(lambda x: x, r, source)


def _diagonal(t: Tensor, above: int, below: int, n: int) -> Tensor:
    rows, columns = t.stride
    return Tensor(t.ty, t.storage, t.offset + above * columns + below * rows, (n,), (rows + columns,))


@torch_function("cat", "R T T i=-1")
def cat_two(r: Tensor, a: Tensor, b: Tensor, dim: int) -> None:
    _concatenate(r, [a, b], dim)


@torch_function("cat", "R A i=-1")
def cat_list(r: Tensor, tensors: list[Any], dim: int) -> None:
    tensors = list(takewhile(lambda t: t is not None, tensors))  # a table ends at its first nil
    if not tensors:
        raise TorchError(f"invalid arguments: expected a table of torch.{r.ty}Tensor, found an empty one")
    for t in tensors:
        if not isinstance(t, Tensor) or t.ty != r.ty:
            raise TorchError(f"expected torch.{r.ty}Tensor in tensor array")
    _concatenate(r, tensors, dim)


def _concatenate(r: Tensor, tensors: list[Tensor], dim: int) -> None:
    """Concatenate along ``dim``; -2 is the default, the last dimension. Empty tensors are skipped."""
    parts = [t for t in tensors if t.numel]
    dims = max((t.dim for t in parts), default=0)
    d = max(dims - 1, 0) if dim == -2 else dim
    if d < 0:
        raise TorchError(f"bad argument #4 (invalid dimension {dim + 1})")
    if not parts:
        return
    dims = max(dims, d + 1)
    sizes = [t.size + (1,) * (dims - t.dim) for t in parts]
    if len({(*size[:d], *size[d + 1 :]) for size in sizes}) > 1:
        raise TorchError("inconsistent tensor sizes")
    r.resize((*sizes[0][:d], sum(size[d] for size in sizes), *sizes[0][d + 1 :]))
    first, by_blocks = 0, d == 0 and r.is_contiguous() and all(t.is_contiguous() for t in parts)
    for t in parts:  # one after the other, because the result may be one of them
        count = t.size[d] if d < t.dim else 1
        part = narrowed(r, d, first, count)
        if by_blocks and overlapping(part, t):
            part.write(t.t.clone())
        else:
            copy_into(part, t)
        first += count
