"""Define autograd functions for gradients of Torch7 that are not the derivative of the result."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

#: key in the metadata of an operation: whether it or an earlier one adds to its gradient
_ADDS = "dpnn_bridge: adds to its gradient"


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
        ctx.adds_gradient = True

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
    def forward(value: Tensor, gradient: float, *sources: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.gradient, *sources = inputs
        ctx.adds_gradient = ctx.gradient != 0
        # only the shape is needed: a later layer may change a source in place
        ctx.save_for_backward(*(source.detach().new_zeros(()).expand_as(source) for source in sources))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0], None, *(torch.full_like(source, ctx.gradient) for source in ctx.saved_tensors)


def zero_gradient(value: Tensor, *sources: Tensor) -> Tensor:
    """Return a view of ``value``; the backward pass gives ``sources`` gradients of zeros instead of no gradients.

    So the modules that computed ``sources`` take part in the backward pass, as in Torch7. For example, the gradient of
    a :class:`~dpnn_bridge.modules.dpnn.reinforce.Reinforce` module does not depend on the gradient of its output.
    """
    sources = tuple(source for source in sources if source.requires_grad)
    return _ConstantGradient.apply(value, 0.0, *sources) if sources else value


def keep_gradients(value: Any, others: Any) -> Any:
    """Return a part of a table. If a layer that computed the other parts adds to its gradient, they get one of zeros.

    So the penalty of an :class:`~dpnn_bridge.modules.nn.passthrough.L1Penalty` counts although nothing uses its output,
    as in Torch7. The contexts of such functions of autograd have a true attribute ``adds_gradient``. They are not found
    under ``torch.compile``, and in reentrant checkpoints.

    Args:
        value: the part, a tensor or nested lists.
        others: nested lists of the other parts.
    """
    sources = [] if torch.compiler.is_compiling() else [t for t in _tensors(others) if t.requires_grad]
    if not any(_adds_gradient(source.grad_fn) for source in sources):
        return value
    return _connected(value, zero_gradient(sources[0].detach().new_zeros(()), *sources))


def _connected(value: Any, anchor: Tensor) -> Any:
    """Return a value whose tensors, which layers may overwrite, give ``anchor`` a gradient of zeros."""
    if isinstance(value, (list, tuple)):
        return [_connected(element, anchor) for element in value]
    is_real = isinstance(value, Tensor) and value.is_floating_point()
    return zero_gradient(value, anchor).clone() if is_real else value


def _adds_gradient(operation: Any) -> bool:
    """Return whether an operation or an earlier one adds to its gradient; each operation is visited once."""
    if operation is None:
        return False
    pending = [(operation, False)]
    while pending:
        node, visited = pending.pop()
        earlier = [n for n, _ in node.next_functions if n is not None]
        if visited:
            node.metadata[_ADDS] = any(n.metadata[_ADDS] for n in earlier)
        elif _ADDS not in node.metadata:
            if getattr(node, "adds_gradient", False):
                node.metadata[_ADDS] = True
            else:
                pending += [(node, True), *((n, False) for n in earlier)]
    return operation.metadata[_ADDS]


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for element in value.values() if isinstance(value, dict) else value:
            yield from _tensors(element)


def with_penalty(value: Tensor, penalty: Tensor) -> Tensor:
    """Return a view of ``value``; the backward pass also adds the gradient of ``penalty``."""
    return _ConstantGradient.apply(value, 1.0, penalty)
