"""Declare LAPACK routines, which exist as ``torch.f`` only. Most matrix results are column-major, as in Torch7."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dpnn_bridge.lua.dispatch import FLOAT_TYPES, torch_function
from dpnn_bridge.lua.tensor import Tensor, TorchError


def _lapack(name: str, inputs: str, results: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Declare a routine that is called with all results or with none; results are the first arguments of the code."""
    given = " ".join(["X"] * results)

    def register(code: Callable[..., None]) -> Callable[..., None]:
        def fresh(*args: object) -> object:
            outputs = [Tensor(next(a.ty for a in args if isinstance(a, Tensor))) for _ in range(results)]
            code(*outputs, *args)
            return outputs[0] if results == 1 else tuple(outputs)

        torch_function(name, f"{given} {inputs}", types=FLOAT_TYPES, modes="f", small=(name,))(code)
        torch_function(name, inputs, types=FLOAT_TYPES, modes="f", small=(name,))(fresh)
        return code

    return register


def _matrix(t: Tensor, square: bool = False) -> torch.Tensor:
    if t.dim != 2:
        raise TorchError(f"bad argument #1 (A should be 2 dimensional, got {t.shape_text})")
    if square and t.size[0] != t.size[1]:
        raise TorchError(f"bad argument #1 (A should be square, got {t.shape_text})")
    return t.t


def _columns(r: Tensor, values: torch.Tensor, source: Tensor | None = None) -> None:
    """Store a matrix in column-major order; in place (``r`` is ``source``), the layout of ``r`` does not change."""
    if r is source or (r.size == tuple(values.shape) and r.stride[0] == 1):
        r.write(values)
        return
    rows, columns = values.shape
    r.resize((columns, rows))
    r.geometry(r.storage, r.offset, (rows, columns), (r.stride[1], r.stride[0]))
    r.write(values)


def _right_side(b: Tensor, rows: int) -> torch.Tensor:
    if b.dim not in (1, 2):
        raise TorchError(f"bad argument #1 (B should have 1 or 2 dimensions, but has {b.dim})")
    if b.size[0] != rows:
        raise TorchError(f"bad argument #2 (A,B size incompatible: A has {rows} rows, B has {b.size[0]})")
    return b.t.reshape(b.size[0], -1)


def _check_diagonal(triangle: torch.Tensor, message: str) -> None:
    """Raise LAPACK's error if an element of the diagonal is 0; ``message`` contains ``{0}`` for its position."""
    zeros = (torch.diagonal(triangle) == 0).nonzero()
    if len(zeros):
        raise TorchError(message.format(int(zeros[0]) + 1))


@_lapack("gesv", "T T", 2)
def gesv(x: Tensor, lu: Tensor, b: Tensor, a: Tensor) -> None:
    matrix = _matrix(a, square=True)
    right = _right_side(b, a.size[0]).clone()
    factors, pivots, info = torch.linalg.lu_factor_ex(matrix)
    if int(info) > 0:
        raise TorchError(f"Lapack Error in gesv : U({int(info)},{int(info)}) is zero, singular U.")
    solution = torch.linalg.lu_solve(factors, pivots, right)
    _columns(lu, factors, a)
    _columns(x, solution, b)


@_lapack("gels", "T T", 2)
def gels(x: Tensor, qr: Tensor, b: Tensor, a: Tensor) -> None:
    """Solve least squares, with minimum norm if there are fewer rows than columns."""
    matrix, right = _matrix(a), _right_side(b, a.size[0])
    rows, columns = matrix.shape
    factors, tau = torch.geqrf(matrix if rows >= columns else matrix.mT.contiguous())
    _check_diagonal(factors, "Lapack Error in gels : The {0}-th diagonal element of the triangular factor of A is zero")
    if rows >= columns:
        rotated = torch.ormqr(factors, tau, right, transpose=True)
        solved = torch.linalg.solve_triangular(factors[:columns].triu(), rotated[:columns], upper=True)
        result = torch.cat([solved, rotated[columns:]])
    else:
        lower = torch.linalg.solve_triangular(factors[:rows].triu().mT, right, upper=False)
        padded = torch.cat([lower, lower.new_zeros(columns - rows, lower.shape[1])])
        result = torch.ormqr(factors, tau, padded)
    _columns(qr, factors if rows >= columns else factors.mT, a)
    _columns(x, result)
    x.geometry(x.storage, x.offset, (columns, x.size[1]), x.stride)  # the residuals stay in memory after the last row


@_lapack("trtrs", "T T c=UL c=NT c=NU", 2)
def trtrs(x: Tensor, ra: Tensor, b: Tensor, a: Tensor, uplo: str, trans: str, diag: str) -> None:
    matrix, right = _matrix(a, square=True), _right_side(b, a.size[0])
    if diag == "N":
        _check_diagonal(matrix, "Lapack Error in trtrs : A({0},{0}) is zero, singular A")
    triangle = matrix.triu() if uplo == "U" else matrix.tril()
    upper = uplo == "U"
    if trans == "T":
        triangle, upper = triangle.mT, not upper
    solution = torch.linalg.solve_triangular(triangle, right, upper=upper, unitriangular=diag == "U")
    _columns(ra, matrix)
    _columns(x, solution)


@_lapack("symeig", "T c=NV c=UL", 2)
def symeig(e: Tensor, v: Tensor, a: Tensor, jobz: str, uplo: str) -> None:
    values, vectors = torch.linalg.eigh(_matrix(a, square=True), UPLO=uplo)
    rest = vectors if jobz == "V" else _tridiagonal(a.t, uplo == "U")
    e.assign(values)
    _columns(v, rest)


def _tridiagonal(a: torch.Tensor, upper: bool) -> torch.Tensor:
    """Return the matrix that LAPACK leaves if only eigenvalues are computed: Householder's tridiagonal reduction."""
    a = a.clone() if upper else a.flip(0, 1).clone()  # flipped, the lower triangle is an upper triangle
    full = a.triu() + a.triu(1).mT
    for i in range(len(a) - 1, 0, -1):
        x = full[:i, i].clone()
        norm = torch.linalg.vector_norm(x[:-1])
        beta, tau = x[-1].clone(), x.new_zeros(())
        if norm > 0:
            beta = -torch.copysign(torch.hypot(x[-1], norm), x[-1])
            tau = (beta - x[-1]) / beta
            x[:-1] /= x[-1] - beta
        x[-1] = 1
        w = tau * (full[:i, :i] @ x)
        w -= 0.5 * tau * (w @ x) * x
        full[:i, :i] -= torch.outer(x, w) + torch.outer(w, x)
        a[: i - 1, i], a[i - 1, i], a[i, i] = x[:-1] if norm > 0 else 0, beta, full[i, i]
    a[0, 0] = full[0, 0]
    return a if upper else a.flip(0, 1)


@_lapack("eig", "T c=NV", 2)
def eig(e: Tensor, v: Tensor, a: Tensor, jobz: str) -> None:
    """Compute eigenvalues, n x 2 (real, imaginary), and eigenvectors; a complex pair is stored as two real columns."""
    values, vectors = torch.linalg.eig(_matrix(a, square=True))
    e.assign(torch.stack([values.real, values.imag], 1))
    if jobz == "V":
        real = vectors.real.clone()
        for k in range(1, len(values)):
            if values[k].imag < 0 and values[k - 1].imag > 0:
                real[:, k] = vectors[:, k - 1].imag
        _columns(v, real)


@_lapack("svd", "T c=SA", 3)
def svd(u: Tensor, s: Tensor, v: Tensor, a: Tensor, job: str) -> None:
    left, values, right = torch.linalg.svd(_matrix(a), full_matrices=job == "A")
    _columns(u, left)
    s.assign(values)
    v.assign(right.mT)


@_lapack("inverse", "T", 1)
def inverse(r: Tensor, a: Tensor) -> None:
    result, info = torch.linalg.inv_ex(_matrix(a, square=True))
    if int(info) > 0:
        raise TorchError(f"Lapack Error getrf : U({int(info)},{int(info)}) is 0, U is singular")
    _columns(r, result, a)


@_lapack("potrf", "T c=UL", 1)
def potrf(r: Tensor, a: Tensor, uplo: str) -> None:
    factor, info = torch.linalg.cholesky_ex(_matrix(a, square=True), upper=uplo == "U")
    if int(info) > 0:
        raise TorchError(f"Lapack Error in potrf : the leading minor of order {int(info)} is not positive definite")
    _columns(r, factor, a)


@_lapack("potrs", "T T c=UL", 1)
def potrs(r: Tensor, b: Tensor, factor: Tensor, uplo: str) -> None:
    _columns(r, torch.cholesky_solve(_right_side(b, factor.size[0]), _matrix(factor, square=True), upper=uplo == "U"))


@_lapack("potri", "T c=UL", 1)
def potri(r: Tensor, factor: Tensor, uplo: str) -> None:
    """Compute the inverse from a Cholesky factor, with both triangles; LAPACK computes only the triangle ``uplo``."""
    matrix = _matrix(factor, square=True)
    _check_diagonal(matrix, "Lapack Error potri : A({0},{0}) is 0, A cannot be factorized")
    _columns(r, torch.cholesky_inverse(matrix, upper=uplo == "U"))


def _pivoted_cholesky(a: torch.Tensor, limit: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the lower factor L and pivots p with a[p][:, p] = L L', from the lower triangle of a."""
    a = a.clone()
    n = len(a)
    lower, pivots = torch.zeros_like(a), torch.arange(n)
    rest = torch.diagonal(a).clone()
    limit = n * torch.finfo(a.dtype).eps * float(rest.max()) if limit < 0 else limit
    for k in range(n):
        best = k + int(rest[k:].argmax())
        if not float(rest[best]) > limit:  # also for NaN
            raise TorchError("Lapack Error pstrf : matrix is rank deficient or not positive semidefinite")
        swap = torch.arange(n)
        swap[[k, best]] = swap[[best, k]]
        a, rest, pivots = a[swap][:, swap], rest[swap], pivots[swap]
        lower = lower[swap]
        lower[k, k] = torch.sqrt(rest[k])
        lower[k + 1 :, k] = (a[k + 1 :, k] - lower[k + 1 :, :k] @ lower[k, :k]) / lower[k, k]
        rest[k + 1 :] -= lower[k + 1 :, k] ** 2
    return lower, pivots


@torch_function("pstrf", "T c=UL n=-1", types=FLOAT_TYPES, modes="f", small=("pstrf",))
def pstrf(a: Tensor, uplo: str, limit: float) -> tuple[Tensor, Tensor]:
    matrix = _matrix(a, square=True)
    lower, pivots = _pivoted_cholesky(matrix.mT if uplo == "U" else matrix, limit)
    factor = Tensor(a.ty)
    _columns(factor, lower.mT if uplo == "U" else lower)
    return factor, Tensor.fresh((pivots + 1).int())


@torch_function("pstrf", "T N T c=UL n=-1", types=FLOAT_TYPES, modes="f")
def pstrf_into(r: Tensor, pivots: Tensor, a: Tensor, uplo: str, limit: float) -> tuple[Tensor, Tensor]:
    factor, order = pstrf(a, uplo, limit)
    _columns(r, factor.t)
    pivots.assign(order.t)
    return r, pivots


@_lapack("qr", "T", 2)
def qr(q: Tensor, r: Tensor, a: Tensor) -> None:
    left, right = torch.linalg.qr(_matrix(a))
    _columns(q, left)
    r.assign(right)


@_lapack("geqrf", "T", 2)
def geqrf(r: Tensor, tau: Tensor, a: Tensor) -> None:
    factors, scales = torch.geqrf(_matrix(a))
    _columns(r, factors)
    tau.assign(scales)


@_lapack("orgqr", "T T", 1)
def orgqr(r: Tensor, a: Tensor, tau: Tensor) -> None:
    """Compute Q in the first ``tau.numel`` columns; the other columns are unchanged, as in Torch7."""
    full, k = _matrix(a).clone(), tau.numel
    full[:, :k] = torch.linalg.householder_product(full[:, :k], tau.t)
    _columns(r, full)


@_lapack("ormqr", "T T T c=LR c=NT", 1)
def ormqr(r: Tensor, a: Tensor, tau: Tensor, c: Tensor, side: str, trans: str) -> None:
    _columns(r, torch.ormqr(_matrix(a), tau.t, _matrix(c), left=side == "L", transpose=trans == "T"))
