"""Run Python modules of users that were written for ``torch.legacy.nn`` inside converted models."""

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
    """Scale parameter gradients by ``scale`` inside the ``with`` block; None computes no parameter gradients."""
    _SCALE.append(scale)
    try:
        yield
    finally:
        _SCALE.pop()


def _restored(shape: Any, values: Iterator[Any]) -> Any:
    return map_tensors(lambda _: next(values), shape)


class _Pass(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Any, shape: list[Any], *inputs: Tensor) -> Any:
        ctx.part, ctx.input = part, _restored(shape[0], iter([x.data for x in inputs]))
        ctx.shape = output = part.updateOutput(ctx.input)
        shape.append(output)
        return tuple(t.clone() for t in tensors(output))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        part, scale = ctx.part, _SCALE[-1]
        given = _restored(ctx.shape, iter(gradients))
        found = part.updateGradInput(ctx.input, given)
        if scale is not None:
            part.accGradParameters(ctx.input, given, scale)
        return None, None, *tensors(found)


class Foreign(nn.Module):
    """Runs a Python object's ``updateOutput``, ``updateGradInput`` and ``accGradParameters``."""

    def __init__(self, part: Any) -> None:
        super().__init__()
        self.__dict__["part"] = part

    def forward(self, input: Any) -> Any:
        shape = [map_tensors(torch.detach, input)]
        outputs = _Pass.apply(self.part, shape, *tensors(input))
        return _restored(shape[1], iter(outputs))
