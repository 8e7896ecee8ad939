"""Layers that normalize each sample independently of the batch."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.registry import lua_class


def _norm(input: Tensor, p: float, eps: float) -> Tensor:
    """Return the p-norm of each row, with ``eps`` inside the root, of shape :math:`(N, 1)`."""
    if p == math.inf:
        return input.abs().amax(1, keepdim=True) + eps
    return (input.abs().pow(p).sum(1, keepdim=True) + eps).pow(1 / p)


class _Normalized(torch.autograd.Function):
    """Divides rows by their p-norm, with the gradient that Torch7 computes."""

    generate_vmap_rule = True

    @staticmethod
    def forward(input: Tensor, p: float, eps: float) -> tuple[Tensor, Tensor]:
        norm = _norm(input, p, eps)
        return input / norm, norm

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float, float], output: tuple[Tensor, Tensor]) -> None:
        input, ctx.p, ctx.eps = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(input, output[1])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        input, norm = ctx.saved_tensors
        grad, p = grad_outputs[0], ctx.p
        if torch.is_grad_enabled():  # for second derivatives
            norm = _norm(input, p, ctx.eps)
        cross = (input * grad).sum(1, keepdim=True)
        if p == math.inf:
            largest = input.abs().argmax(1, keepdim=True)
            slope = torch.zeros_like(input).scatter(1, largest, input.gather(1, largest) / norm)
            return (norm * grad - slope * cross) / norm.square(), None, None
        magnitude = input.abs() + ctx.eps if p < 2 else input.abs()  # Torch7 avoids 1/0 for p < 2 only
        slope = input if p == 2 else input * magnitude.pow(p - 2)
        power = norm.pow(p)
        return (power * grad - slope * cross) / (power * norm), None, None


@lua_class("nn.Normalize")
class Normalize(nn.Module):
    """Divides a vector, or every row of a batch, by its p-norm.

    Args:
        p: order of the norm, above 0; may be infinite.
        eps: added to the sum of the powers before the root, or to the infinity norm.

    Shape:
        - Input, output: :math:`(N, C)` or :math:`(C)`.

    Differs from PyTorch:
        :func:`torch.nn.functional.normalize` clamps the norm instead of adding eps. For p < 2 the gradient adds
        eps to absolute values, and for the infinity norm only the first largest element contributes to it.

    Lua:
        ``nn.Normalize(p, eps)``, Normalize.lua

    Raises:
        ValueError: the input has more than 2 dimensions.
    """

    def __init__(self, p: float, eps: float = 1e-10) -> None:
        super().__init__()
        self.p, self.eps = p, eps

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() > 2:
            raise ValueError(f"expected a vector or a batch of vectors, found shape {tuple(input.shape)}")
        rows = input.unsqueeze(0) if input.dim() == 1 else input
        return _Normalized.apply(rows, float(self.p), self.eps)[0].view(input.shape)

    class Lua(LuaClass):
        scalars = ("p", "eps")
        defaults = {"eps": 1e-10}
        scratch = ("norm", "normp", "buffer", "buffer2", "cross")


@lua_class("nn.LayerNormalization")
class LayerNormalization(nn.Sequential):
    """Layer normalization, composed of Torch7's modules.

    Args:
        *modules: subtraction of the mean, :class:`Normalize`, multiplication by a constant and, if affine, gain and
            bias.

    Shape:
        - Input, output: :math:`(N, C)` or :math:`(C)`.

    Differs from PyTorch:
        As in Torch7, means of other rows are subtracted in a batch: the means, repeated C times, are stored with shape
        :math:`(C, N)` and read with shape :math:`(N, C)`. For single samples and batches of one, the result equals
        :class:`torch.nn.LayerNorm` with ``eps / C``.

    Lua:
        ``nn.LayerNormalization(nOutput, bias, eps, affine)``, LayerNormalization.lua
    """

    class Lua(LuaClass):
        container = True
