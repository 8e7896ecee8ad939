"""Run modules of users that were written in Python for ``torch.legacy.nn``, inside converted models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.compare.nested import map_tensors, tensors

_SCALE: list[float | None] = [None]


@contextmanager
def accumulating(scale: float | None) -> Iterator[None]:
    """Scale parameter gradients by ``scale`` inside the ``with`` block; with None, do not compute them."""
    _SCALE.append(scale)
    try:
        yield
    finally:
        _SCALE.pop()


def _nested_like(structure: Any, values: Iterator[Any]) -> Any:
    return map_tensors(lambda _: next(values), structure)


class _RunUserModule(torch.autograd.Function):
    """Forward and backward pass of a module of the user.

    ``structures`` contains the nested input; the forward pass appends the nested output.
    """

    @staticmethod
    def forward(ctx: Any, part: Any, structures: list[Any], *inputs: Tensor) -> Any:
        ctx.part, ctx.input = part, _nested_like(structures[0], iter([x.data for x in inputs]))
        ctx.output = output = part.updateOutput(ctx.input)
        structures.append(output)
        return tuple(t.clone() for t in tensors(output))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        part, scale = ctx.part, _SCALE[-1]
        grad_output = _nested_like(ctx.output, iter(gradients))
        grad_input = part.updateGradInput(ctx.input, grad_output)
        if scale is not None:
            part.accGradParameters(ctx.input, grad_output, scale)
        return None, None, *tensors(grad_input)


class Foreign(nn.Module):
    """Module that calls ``updateOutput``, ``updateGradInput`` and ``accGradParameters`` of a Python object."""

    def __init__(self, part: Any) -> None:
        super().__init__()
        self.__dict__["part"] = part

    def forward(self, input: Any) -> Any:
        structures = [map_tensors(torch.detach, input)]
        outputs = _RunUserModule.apply(self.part, structures, *tensors(input))
        return _nested_like(structures[1], iter(outputs))
