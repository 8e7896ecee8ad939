"""Define autograd functions for gradients of Torch7 that are not the derivative of the result."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class _Function(torch.autograd.Function):
    """Base class that stores the signature of ``forward``, which ``apply`` would otherwise compute at every call."""

    generate_vmap_rule = True

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.forward.__signature__ = inspect.signature(cls.forward)  # type: ignore[attr-defined]


class _WithGradientOf(_Function):
    @staticmethod
    def forward(value: Tensor, surrogate: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        return None, grads[0]


class _AddGradient(_Function):
    @staticmethod
    def forward(input: Tensor, extra: Tensor) -> Tensor:
        return input.view_as(input)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] + ctx.saved_tensors[0], None


class _ScaleGradient(_Function):
    @staticmethod
    def forward(input: Tensor, factor: float | Tensor) -> Tensor:
        return input.view_as(input)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Any], output: Tensor) -> None:
        ctx.factor = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.factor, None


class _ZeroGradient(_Function):
    @staticmethod
    def forward(input: Tensor) -> Tensor:
        return input.view_as(input)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return torch.zeros_like(grads[0])


def with_gradient_of(value: Tensor, surrogate: Tensor) -> Tensor:
    """Return a tensor with the elements of ``value`` and the gradient of ``surrogate``.

    Args:
        value: the result; gets no gradient.
        surrogate: a tensor of the same shape; gets the gradient of the result.
    """
    return _WithGradientOf.apply(value.detach(), surrogate)


def notice_gradient(input: Tensor, notice: Callable[[Tensor], None]) -> Tensor:
    """Return a view of ``input``; the backward pass calls ``notice`` with its gradient."""
    output = input.view_as(input)
    output.register_hook(notice)
    return output


def add_gradient(input: Tensor, extra: Tensor) -> Tensor:
    """Return a view of ``input``; the backward pass adds ``extra`` to its gradient."""
    return _AddGradient.apply(input, extra)


def scale_gradient(input: Tensor, factor: float | Tensor) -> Tensor:
    """Return a view of ``input``; the backward pass multiplies its gradient by ``factor``."""
    return _ScaleGradient.apply(input, factor)


def block_gradient(input: Tensor) -> Tensor:
    """Return a view of ``input``; its gradient is zero, also if that of the view is infinite or NaN."""
    return _ZeroGradient.apply(input)


class _RefuseGradient(_Function):
    @staticmethod
    def forward(input: Tensor, message: str) -> Tensor:
        return input.view_as(input)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, str], output: Tensor) -> None:
        ctx.message = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        raise RuntimeError(ctx.message)


def refuse_gradient(input: Tensor, message: str) -> Tensor:
    """Return a view of ``input``; the backward pass raises ``RuntimeError(message)``."""
    return _RefuseGradient.apply(input, message) if input.requires_grad else input


class _ConstantGradient(_Function):
    @staticmethod
    def forward(value: Tensor, source: Tensor, gradient: float) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])
        ctx.gradient = inputs[2]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        return grads[0], torch.full_like(ctx.saved_tensors[0], ctx.gradient), None


def zero_gradient(value: Tensor, source: Tensor) -> Tensor:
    """Return a view of ``value``; the backward pass gives ``source`` a gradient of zeros instead of no gradient.

    So the modules that computed ``source`` take part in the backward pass, as in Torch7. For example, the gradient of a
    :class:`~dpnn_bridge.modules.dpnn.reinforce.Reinforce` module does not depend on the gradient of its output.
    """
    return _ConstantGradient.apply(value, source, 0.0) if source.requires_grad else value


def with_penalty(value: Tensor, penalty: Tensor) -> Tensor:
    """Return a view of ``value``; the backward pass also adds the gradient of ``penalty``."""
    return _ConstantGradient.apply(value, penalty, 1.0)
