"""Shared code of the sequence kernels: matrix products, sums of gates, and second derivatives.

oneDNN computes the products if it is faster than PyTorch's BLAS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

#: a product of fewer multiply-adds takes less time than oneDNN's preparations
_SMALL = 750_000
#: minimum of elements times products for which reordering a weight for oneDNN saves time
_MANY = 1_500_000


def is_ordinary(weight: Tensor | None) -> bool:
    """Return whether a weight is a tensor of PyTorch, not of a subclass, whose operations may be few (quantized)."""
    return weight is None or type(weight) in (Tensor, nn.Parameter)


def fit(x: Tensor, weight: Tensor, state: Sequence[Tensor], size: int) -> bool:
    """Return whether input, weight and state are of one type on one device, and the state :math:`(N, \\text{size})`."""
    kinds = {(v.dtype, v.device) for v in (x, weight, *state)}
    return len(kinds) == 1 and is_ordinary(weight) and all(v.shape == (x.shape[1], size) for v in state)


def has_onednn() -> bool:
    """Return whether oneDNN is there and enabled."""
    return torch.backends.mkldnn.is_available() and torch._C._get_mkldnn_enabled()  # pyright: ignore[reportAttributeAccessIssue]


def _takes_onednn(x: Tensor, weight: Tensor) -> bool:
    """Return whether oneDNN computes ``x @ weight.t()``: float32 on a CPU, and large enough."""
    return (
        x.dtype == torch.float32
        and x.device.type == "cpu"
        and x.shape[0] * weight.numel() >= _SMALL
        and has_onednn()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute ``x @ weight.t() + bias``, without autograd.

    Args:
        x: :math:`(N, I)`.
        weight: :math:`(O, I)`.
        bias: :math:`(O)`, or None.
    """
    if _takes_onednn(x, weight):
        x, weight = _dense(x), _dense(weight)
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return x.mm(weight.t()) if bias is None else torch.addmm(bias, x, weight.t())


def _dense(matrix: Tensor) -> Tensor:
    """Return the matrix without gaps between its rows or columns, over which oneDNN would go element by element."""
    if matrix.stride(0) == 1:
        return matrix.t().contiguous().t()
    return matrix.contiguous()


def in_layout(matrix: Tensor, row_major: bool) -> Tensor:
    """Return a matrix in a memory layout: to cut or join gradients of another one takes several times as long."""
    return matrix if row_major else matrix.t().contiguous().t()


def weight_gradient(gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Compute the gradient of ``weight`` in ``x @ weight.t()``, without autograd, in the memory layout of ``weight``.

    Args:
        gradient: of the product, :math:`(N, O)`.
        x: :math:`(N, I)`.
        weight: :math:`(O, I)`.
    """
    if weight.is_contiguous():
        return product(gradient.t(), x.t())
    return product(x.t(), gradient.t()).t()


class Products:
    """Computes ``x @ weight.t()``, plus an addend, for many ``x``, without autograd.

    Args:
        weight: :math:`(O, I)`.
        rows: number of rows of each ``x``.
        count: how many products will follow.
    """

    def __init__(self, weight: Tensor, rows: int, count: int) -> None:
        self._transposed = weight.t()
        self._weight: Tensor | None = None
        if _takes_onednn(weight.new_empty(rows, 0), weight):
            weight = _dense(weight)
            pays = weight.is_contiguous() and count * weight.numel() >= _MANY
            self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, rows) if pays else weight

    def __call__(self, x: Tensor, addend: Tensor | None = None) -> Tensor:
        """Return the product, or its sum with ``addend``, as a new tensor.

        Args:
            x: :math:`(N, I)`.
            addend: :math:`(N, O)`, or None.
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
    """Return a function that computes the sums of the gates of a time step, by operations that autograd knows.

    Args:
        x: :math:`(T, N, I)`.
        weight, recurrent, bias: of input and state, one gate below the other.
        gates: their number.
        factors: of the input of each gate, :math:`(gates, T, N, I)`, and of the state, :math:`(T, gates, N, H)`, for
            dropout; 1 in place of N if all rows have the same. None: no dropout.

    Returns:
        A function of the time step, the state :math:`(N, H)` and a range of gates, which returns their sums.
    """
    by_input, by_state = (m.reshape(gates, -1, m.shape[1]).transpose(1, 2) for m in (weight, recurrent))
    dropped = x.expand(gates, *x.shape) if factors is None else x * factors[0]
    sums = torch.baddbmm(bias.reshape(gates, 1, -1), dropped.reshape(gates, -1, x.shape[2]), by_input)
    steps = sums.view(gates, *x.shape[:2], -1).unbind(1)

    def of_step(t: int, state: Tensor, chosen: slice = slice(None)) -> tuple[Tensor, ...]:
        addend, matrices = steps[t][chosen], by_state[chosen]
        states = state.expand(len(addend), *state.shape) if factors is None else state * factors[1][t, chosen]
        return torch.baddbmm(addend, states, matrices).unbind(0)

    return of_step


def differentiable(
    function: Callable[..., Sequence[Tensor]], inputs: Sequence[Any], needed: Sequence[bool], gradients: Sequence[Any]
) -> tuple[Tensor | None, ...]:
    """Compute the gradients of a function so that they can be differentiated in turn.

    Args:
        function: takes ``inputs`` and returns tensors, by operations that autograd knows.
        inputs: tensors and other values.
        needed: for each argument of the caller, the inputs first, whether a gradient is asked for.
        gradients: those of the results, or None.

    Returns:
        For each of ``needed`` the gradient, or None.
    """
    aliases = [v.view_as(v) if isinstance(v, Tensor) else v for v in inputs]  # one may be computed from another
    return pulled_back(function(*aliases), aliases, needed, gradients, create_graph=True)


def pulled_back(
    results: Sequence[Tensor], inputs: Sequence[Any], needed: Sequence[bool], gradients: Sequence[Any], **options: bool
) -> tuple[Tensor | None, ...]:
    """Compute gradients by autograd inside of a backward function.

    Args:
        results: computed from ``inputs``.
        inputs: tensors and other values.
        needed: for each argument of the caller, the inputs first, whether a gradient is asked for.
        gradients: those of the results, or None.
        **options: handed to ``torch.autograd.grad``.

    Returns:
        For each of ``needed`` the gradient, or None.
    """
    pairs = [(r, g) for r, g in zip(results, gradients, strict=True) if g is not None]
    if not pairs:
        return (None,) * len(needed)
    wanted = [v for v, n in zip(inputs, needed, strict=False) if n]
    given = [list(values) for values in zip(*pairs, strict=True)]
    found = iter(torch.autograd.grad(given[0], wanted, given[1], allow_unused=True, **options))
    return tuple(next(found) if n else None for n in needed)
