"""Let autograd use other gradients of a layer than those of its forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


class GivenGradients(torch.autograd.Function):
    """The output of a layer, whose gradients a function computes.

    ``apply(compute, output, *tensors)``: ``compute`` gets the gradient of the output and returns those of ``tensors``.
    If it returns None, the gradient goes on to the graph of ``output``. The result is a view of ``output``.
    """

    @staticmethod
    def forward(
        ctx: Any, compute: Callable[[Tensor], Sequence[Any] | None], output: Tensor, *tensors: Tensor
    ) -> Tensor:
        ctx.compute, ctx.unused = compute, [None] * len(tensors)
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        found = ctx.compute(gradients[0])
        return (None, gradients[0], *ctx.unused) if found is None else (None, None, *found)


def gradients_at(
    run: Callable[[list[Tensor]], Tensor], inputs: Sequence[Tensor], parameters: Sequence[Tensor], gradient: Tensor
) -> list[Tensor | None]:
    """Return the gradients of a layer for other inputs; None for tensors without a gradient.

    Args:
        run: function that runs the layer.
        inputs, parameters: tensors of its input, and its parameters.
        gradient: gradient of its output.
    """
    with torch.enable_grad():
        given = [x.detach().clone().requires_grad_(x.is_floating_point()) for x in inputs]
        output = run(given)
        trained = [t for t in (*given, *parameters) if t.requires_grad]
        found = torch.autograd.grad(output, trained, gradient, allow_unused=True) if trained else ()
    of_tensor = dict(zip(map(id, trained), found, strict=True))
    return [of_tensor.get(id(t)) for t in (*given, *parameters)]
