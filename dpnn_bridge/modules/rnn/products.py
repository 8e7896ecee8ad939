"""Shared functions of the sequence kernels: matrix products, sums of gates, and second derivatives.

The products use oneDNN if it is faster than PyTorch's BLAS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

#: minimum number of multiply-adds of a product for which oneDNN is faster
_MIN_MULTIPLY_ADDS = 750_000
#: minimum of weight elements times products for which reordering a weight for oneDNN saves time
_MIN_REORDERED = 1_500_000


def is_ordinary(weight: Tensor | None) -> bool:
    """Return whether a weight is a plain tensor; a subclass, such as a quantized tensor, may lack operations."""
    return weight is None or type(weight) in (Tensor, nn.Parameter)


def fit(x: Tensor, weight: Tensor, state: Sequence[Tensor], size: int) -> bool:
    """Return whether the tensors have one dtype and device, and the elements of the state have :math:`(N, size)`."""
    types = {(v.dtype, v.device) for v in (x, weight, *state)}
    return len(types) == 1 and is_ordinary(weight) and all(v.shape == (x.shape[1], size) for v in state)


def has_onednn() -> bool:
    """Return whether oneDNN is available and enabled."""
    return torch.backends.mkldnn.is_available() and torch._C._get_mkldnn_enabled()  # pyright: ignore[reportAttributeAccessIssue]


def _takes_onednn(x: Tensor, weight: Tensor) -> bool:
    """Return whether to compute ``x @ weight.t()`` with oneDNN: for large float32 matrices on a CPU."""
    return (
        x.dtype == torch.float32
        and x.device.type == "cpu"
        and x.shape[0] * weight.numel() >= _MIN_MULTIPLY_ADDS
        and has_onednn()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute ``x @ weight.t() + bias``, without autograd.

    Args:
        x: input :math:`(N, I)`.
        weight: weight :math:`(O, I)`.
        bias: bias :math:`(O)`, or None.
    """
    if _takes_onednn(x, weight):
        x, weight = _dense(x), _dense(weight)
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return x.mm(weight.t()) if bias is None else torch.addmm(bias, x, weight.t())


def _dense(matrix: Tensor) -> Tensor:
    """Return the matrix without gaps between rows or columns, because oneDNN is slow for other strides."""
    if matrix.stride(0) == 1:
        return matrix.t().contiguous().t()
    return matrix.contiguous()


def in_layout(matrix: Tensor, row_major: bool) -> Tensor:
    """Return a matrix in row-major or column-major layout; with mixed layouts, splitting and concatenating is slow."""
    return matrix if row_major else matrix.t().contiguous().t()


def weight_gradient(gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Compute the gradient of ``weight`` in ``x @ weight.t()``, without autograd, in the memory layout of ``weight``.

    Args:
        gradient: gradient of the product, :math:`(N, O)`.
        x: input :math:`(N, I)`.
        weight: weight :math:`(O, I)`.
    """
    if weight.is_contiguous():
        return product(gradient.t(), x.t())
    return product(x.t(), gradient.t()).t()


class Products:
    """Computes ``x @ weight.t()`` for many ``x``, optionally plus an addend, without autograd.

    Args:
        weight: weight :math:`(O, I)`.
        rows: number of rows of each ``x``.
        count: expected number of products.
    """

    def __init__(self, weight: Tensor, rows: int, count: int) -> None:
        self._transposed = weight.t()
        self._weight: Tensor | None = None
        if _takes_onednn(weight.new_empty(rows, 0), weight):
            weight = _dense(weight)
            reorder = weight.is_contiguous() and count * weight.numel() >= _MIN_REORDERED
            self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, rows) if reorder else weight

    def __call__(self, x: Tensor, addend: Tensor | None = None) -> Tensor:
        """Return the product plus ``addend``, as a new tensor.

        Args:
            x: input :math:`(N, I)`.
            addend: addend :math:`(N, O)`, or None.
        """
        if self._weight is None:
            return x.mm(self._transposed) if addend is None else torch.addmm(addend, x, self._transposed)
        if addend is None:
            return torch.ops.mkldnn._linear_pointwise(x, self._weight, None, "none", [], "")
        return torch.ops.mkldnn._linear_pointwise.binary(x, addend, self._weight, None, "add")

    def add_to(self, addend: Tensor, x: Tensor) -> None:
        """Add the product to ``addend`` in place."""
        if self._weight is None:
            addend.addmm_(x, self._transposed)
        else:
            addend.copy_(self(x, addend))


def gate_sums(
    x: Tensor, weight: Tensor, recurrent: Tensor, bias: Tensor, gates: int, factors: tuple[Tensor, Tensor] | None
) -> Callable[..., tuple[Tensor, ...]]:
    """Return a function that computes the gates' arguments of a time step, with differentiable operations.

    Args:
        x: input :math:`(T, N, I)`.
        weight, recurrent, bias: weights of input and state, and bias; the rows of all gates are concatenated.
        gates: number of gates.
        factors: dropout factors of each gate's input, :math:`(gates, T, N, I)`, and state, :math:`(T, gates, N, H)`; N
            may be 1. None: no dropout.

    Returns:
        A function of the time step, the state :math:`(N, H)` and a slice of gates. It returns a tuple with
        ``weight @ x + recurrent @ state + bias`` of each gate.
    """
    by_input, by_state = (m.reshape(gates, -1, m.shape[1]).transpose(1, 2) for m in (weight, recurrent))
    dropped = x.expand(gates, *x.shape) if factors is None else x * factors[0]
    sums = torch.baddbmm(bias.reshape(gates, 1, -1), dropped.reshape(gates, -1, x.shape[2]), by_input)
    steps = sums.view(gates, *x.shape[:2], -1).unbind(1)

    def sums_at(t: int, state: Tensor, selected: slice = slice(None)) -> tuple[Tensor, ...]:
        addend, matrices = steps[t][selected], by_state[selected]
        states = state.expand(len(addend), *state.shape) if factors is None else state * factors[1][t, selected]
        return torch.baddbmm(addend, states, matrices).unbind(0)

    return sums_at


def differentiable(
    function: Callable[..., Sequence[Tensor]], inputs: Sequence[Any], needed: Sequence[bool], gradients: Sequence[Any]
) -> tuple[Tensor | None, ...]:
    """Compute differentiable gradients of a function, for second derivatives.

    Args:
        function: function of ``inputs`` with differentiable operations; returns tensors.
        inputs: tensors and other values.
        needed: whether each argument of the caller, ``inputs`` first, needs a gradient.
        gradients: gradients of the results, or None.

    Returns:
        The gradient of each element of ``needed``, or None.
    """
    # views, because one input may be computed from another
    aliases = [v.view_as(v) if isinstance(v, Tensor) else v for v in inputs]
    return pulled_back(function(*aliases), aliases, needed, gradients, create_graph=True)


def pulled_back(
    results: Sequence[Tensor], inputs: Sequence[Any], needed: Sequence[bool], gradients: Sequence[Any], **options: bool
) -> tuple[Tensor | None, ...]:
    """Compute gradients with autograd in a backward function.

    Args:
        results: tensors computed from ``inputs``.
        inputs: tensors and other values.
        needed: whether each argument of the caller, ``inputs`` first, needs a gradient.
        gradients: gradients of the results, or None.
        **options: arguments of ``torch.autograd.grad``.

    Returns:
        The gradient of each element of ``needed``, or None.
    """
    pairs = [(r, g) for r, g in zip(results, gradients, strict=True) if g is not None]
    if not pairs:
        return (None,) * len(needed)
    sources = [v for v, n in zip(inputs, needed, strict=False) if n]
    outputs, grad_outputs = (list(values) for values in zip(*pairs, strict=True))
    computed = iter(torch.autograd.grad(outputs, sources, grad_outputs, allow_unused=True, **options))
    return tuple(next(computed) if n else None for n in needed)
