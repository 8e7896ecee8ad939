"""Run modules that users wrote in Python for ``torch.legacy.nn`` inside converted models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.compare.nested import map_tensors, tensors

#: called with a module of the user, its input and the gradient of its output; computes the parameter gradients
Accumulate = Callable[[Any, Any, Any], None]

_accumulations: list[Accumulate | None] = [None]

#: methods that compute
_COMPUTING = ("updateOutput", "updateGradInput", "accGradParameters")


def overrides(obj: Any, name: str) -> bool:
    """Return whether an object has its own method of this name, not the method of its class in ``torch.legacy.nn``."""
    method = getattr(type(obj), name, None)
    return name in obj.__dict__ or (method is not None and not method.__module__.startswith("dpnn_bridge.legacy"))


def is_user_module(obj: Any) -> bool:
    """Return whether an object computes its output or its gradients with its own methods, as modules of users do."""
    return any(overrides(obj, name) for name in _COMPUTING)


@contextmanager
def accumulating(accumulate: Accumulate | None) -> Iterator[None]:
    """Compute the parameter gradients of users' modules by ``accumulate`` inside the ``with`` block; None: do not."""
    _accumulations.append(accumulate)
    try:
        yield
    finally:
        _accumulations.pop()


def _nested_like(structure: Any, values: Iterator[Any]) -> Any:
    return map_tensors(lambda _: next(values), structure)


class _RunUserModule(torch.autograd.Function):
    """Forward and backward pass of a module of the user.

    ``structures`` contains the nested input; the forward pass appends the nested output.
    """

    @staticmethod
    def forward(ctx: Any, part: Any, structures: list[Any], anchor: Tensor | None, *inputs: Tensor) -> Any:
        ctx.part, ctx.input = part, _nested_like(structures[0], iter([x.data for x in inputs]))
        ctx.output = output = part.updateOutput(ctx.input)
        structures.append(output)
        return tuple(t.clone() for t in tensors(output))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        part, accumulate = ctx.part, _accumulations[-1]
        grad_output = _nested_like(ctx.output, iter(gradients))
        grad_input = part.updateGradInput(ctx.input, grad_output)
        if accumulate is not None:
            accumulate(part, ctx.input, grad_output)
        needed = ctx.needs_input_grad[3:]
        return None, None, None, *(tensors(grad_input) if any(needed) else [None] * len(needed))


class UserModule(nn.Module):
    """Module that calls ``updateOutput``, ``updateGradInput`` and ``accGradParameters`` of a Python object.

    Attributes:
        part: the object.
        anchor: a leaf that requires gradients, so that autograd calls the object even if its input does not; or None.
    """

    def __init__(self, part: Any) -> None:
        super().__init__()
        self.part = part
        self.anchor: Tensor | None = None

    def forward(self, input: Any) -> Any:
        structures = [map_tensors(torch.detach, input)]
        outputs = _RunUserModule.apply(self.part, structures, self.anchor, *tensors(input))
        return _nested_like(structures[1], iter(outputs))
