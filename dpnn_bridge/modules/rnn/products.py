"""What the kernels for whole sequences share: matrix products, and gradients of gradients.

Products are left to oneDNN where it is faster than the BLAS that PyTorch was built with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

#: a product of fewer multiply-adds takes less time than oneDNN's preparations
_SMALL = 750_000
#: from so many products with one weight on, arranging the weight for oneDNN pays
_MANY = 10


def fit(x: Tensor, weight: Tensor, state: Sequence[Tensor], size: int) -> bool:
    """Return whether input, weight and state are of one type on one device, and the state :math:`(N, \\text{size})`."""
    kinds = {(v.dtype, v.device) for v in (x, weight, *state)}
    return len(kinds) == 1 and all(v.shape == (x.shape[1], size) for v in state)


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
    return matrix if matrix.is_contiguous() or matrix.t().is_contiguous() else matrix.contiguous()


class Transposed(torch.autograd.Function):
    """A matrix transposed, in memory too, as is its gradient: to cut or join others takes several times as long."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        return matrix.t().contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.t().contiguous()


class AddedProduct:
    """Computes ``addend + x @ weight.t()`` for many ``x``, without autograd.

    Args:
        weight: :math:`(O, I)`.
        rows: number of rows of each ``x``.
        count: how many products will follow.
    """

    def __init__(self, weight: Tensor, rows: int, count: int) -> None:
        self._transposed = weight.t()
        self._packed: Tensor | None = None
        if _takes_onednn(weight.new_empty(rows, 0), weight):
            many, weight = count >= _MANY, _dense(weight)
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows) if many else weight

    def __call__(self, addend: Tensor, x: Tensor) -> Tensor:
        """Return ``addend``, to which the product was added in place.

        Args:
            addend: :math:`(N, O)`.
            x: :math:`(N, I)`.
        """
        if self._packed is None:
            return addend.addmm_(x, self._transposed)
        return addend.copy_(torch.ops.mkldnn._linear_pointwise.binary(x, addend, self._packed, None, "add"))


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
