"""Map functions over nested values: tensors and numbers in lists and dicts, the equivalents of Torch7's tables.

Most functions call :func:`map_tensors`, which traverses the values.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from dpnn_bridge.base.display import keys_text, summarized
from dpnn_bridge.errors import VerificationError
from dpnn_bridge.torch7.gradient import with_gradient_of


def map_tensors(function: Callable[..., Any], value: Any, *others: Any, path: str = "") -> Any:
    """Return ``value`` with ``function`` applied to every tensor in its nested lists and dicts, in order.

    Args:
        function: called with the tensor, and the values at the same path in each of ``others``.
        value: a tensor or nested lists (or tuples, which become lists) and dicts; other values are returned unchanged.
        *others: values with the structure of ``value``.
        path: the name of ``value`` in messages.

    Raises:
        VerificationError: one of ``others`` has another structure; the message contains the path.
    """
    if isinstance(value, Tensor):
        return function(value, *others)
    if isinstance(value, (list, tuple)):
        for other in others:
            _check_same(path, isinstance(other, (list, tuple)) and len(other) == len(value), value, other)
        parts = zip(value, *others, strict=True)
        return [map_tensors(function, v, *rest, path=f"{path}[{i}]") for i, (v, *rest) in enumerate(parts, 1)]
    if isinstance(value, dict):
        for other in others:
            _check_same(path, isinstance(other, dict) and other.keys() == value.keys(), value, other)
        return {k: map_tensors(function, v, *(o[k] for o in others), path=f"{path}.{k}") for k, v in value.items()}
    return value


def _check_same(path: str, same: bool, value: Any, other: Any) -> None:
    if not same:
        raise VerificationError(f"{path or 'value'}: expected {_description(value)}, found {_description(other)}")


def _description(value: Any) -> str:
    if isinstance(value, dict):
        return f"a table with the {keys_text(value)}"
    return f"a table of {len(value)} values" if isinstance(value, (list, tuple)) else summarized(value)


def fields_of(value: Any) -> Any:
    """Return a dataclass, such as the output of a user's network, as a dict of its fields that are not None.

    Other values are returned unchanged.
    """
    if not is_dataclass(value) or isinstance(value, (type, dict)):
        return value
    return {f.name: v for f in fields(value) if (v := getattr(value, f.name)) is not None}


def map_fields(function: Callable[[Any], Any], value: Any) -> Any:
    """Return a copy of a dataclass with ``function`` applied to its fields that are not None."""
    changed = copy.copy(value)
    for name, inner in fields_of(value).items():
        object.__setattr__(changed, name, function(inner))  # the dataclass may be frozen
    return changed


def without_dataclasses(value: Any) -> Any:
    """Return a nested value in which every dataclass is a dict, see :func:`fields_of`, and every tuple a list."""
    value = fields_of(value)
    if isinstance(value, dict):
        return {k: without_dataclasses(v) for k, v in value.items()}
    return [without_dataclasses(v) for v in value] if isinstance(value, (list, tuple)) else value


def as_table(value: Any) -> Any:
    """Return an output with the structure that it has when it is read from a fixture.

    A Lua table contains no None, and lists are tables with the keys 1, 2, …: ``(None, x)`` is returned as ``{2: x}``,
    ``(x, None)`` and ``{1: x}`` as ``[x]``; dataclasses as by :func:`fields_of`.
    """
    value = fields_of(value)
    if isinstance(value, (list, tuple)):
        value = dict(enumerate(value, 1))
    if not isinstance(value, dict):
        return value
    entries = {k: as_table(v) for k, v in value.items() if v is not None}
    numbered = range(1, len(entries) + 1)
    return [entries[i] for i in numbered] if all(i in entries for i in numbered) else entries


def leaves(value: Any) -> Iterator[Any]:
    """Yield the tensors and numbers of a nested value in order."""
    if isinstance(value, (list, tuple)):
        for v in value:
            yield from leaves(v)
    elif isinstance(value, dict):
        for v in value.values():
            yield from leaves(v)
    else:
        yield value


def tensors(value: Any) -> list[Tensor]:
    """Return the tensors of a nested value in order."""
    return [v for v in leaves(value) if isinstance(v, Tensor)]


def sizes_text(value: Any) -> str:
    """Return the sizes of the tensors of a nested value as text, such as ``1x3x8x8, 5``."""
    return ", ".join("x".join(map(str, t.shape)) for t in tensors(value))


def first_tensor(value: Any) -> Tensor:
    """Return the first tensor of nested lists, depth first."""
    while isinstance(value, (list, tuple)):
        value = value[0]
    return value


def cast(value: Any, dtype: torch.dtype | None) -> Any:
    """Cast the floating-point tensors of a nested value to ``dtype``; None changes nothing."""
    return map_tensors(lambda t: t.to(dtype) if dtype is not None and t.is_floating_point() else t, value)


def detached(value: Any) -> Any:
    """Return a nested value detached from the autograd graph."""
    return map_tensors(Tensor.detach, value)


def copied(value: Any) -> Any:
    """Return a nested value whose tensors are copies without autograd history."""
    return map_tensors(lambda t: t.detach().clone(), value)


def random_like(value: Any) -> Any:
    """Return normal random numbers in the structure of a nested value, with the same seed for each tensor."""

    def draw(tensor: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.device, tensor.dtype)

    return map_tensors(draw, value)


def has_nan(value: Any) -> bool:
    """Return whether the sum of any tensor of a nested value is NaN."""
    return any(isinstance(v, Tensor) and bool(v.sum().isnan()) for v in leaves(value))


# ---------------------------------------------------------------------- gradients
def require_grad(value: Any) -> Any:
    """Set ``requires_grad`` of every floating-point tensor of a nested value."""
    return map_tensors(lambda t: t.requires_grad_() if t.is_floating_point() else t, value)


def gradients(value: Any) -> Any:
    """Return the gradients of the tensors of a nested value; zeros for a tensor without a gradient."""
    return map_tensors(lambda t: t.grad if t.grad is not None else torch.zeros_like(t), value)


def backward(output: Any, grad_output: Any) -> None:
    """Run the backward pass from nested outputs.

    Args:
        output: the outputs.
        grad_output: gradients with the structure of ``output``; None for ones, as for the loss of a criterion.

    Raises:
        VerificationError: ``grad_output`` has another structure than ``output``.
    """
    outputs = list(leaves(output))
    if grad_output is None:
        grads = [torch.ones_like(o) if isinstance(o, Tensor) else None for o in outputs]
    else:
        grads = list(leaves(_ordered_like(output, grad_output, "gradOutput")))
    if len(outputs) != len(grads):
        raise VerificationError(f"gradOutput has {len(grads)} tensors, the output {len(outputs)}")
    pairs = [
        (o, _gradient_of(o, g))
        for o, g in zip(outputs, grads, strict=True)
        if isinstance(o, Tensor) and o.requires_grad
    ]
    if pairs:
        # sums with the gradients `grads`, because autograd imports SymPy if it gets gradients as an argument
        torch.autograd.backward([(o * g).sum() for o, g in pairs])


def _gradient_of(output: Tensor, grad: Any) -> Tensor:
    expected = f"gradOutput: expected a tensor of shape {tuple(output.shape)}, found"
    try:
        grad = torch.as_tensor(grad, dtype=output.dtype, device=output.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise VerificationError(f"{expected} {summarized(grad)}") from error
    if grad.numel() != output.numel():
        raise VerificationError(f"{expected} a tensor of shape {tuple(grad.shape)}")
    return grad.reshape(output.shape)


def _ordered_like(output: Any, source: Any, path: str) -> Any:
    """Return ``source`` with the keys of its dicts in the order of the keys in ``output``."""
    if isinstance(output, dict):
        _check_same(path, isinstance(source, dict) and output.keys() <= source.keys(), output, source)
        return {k: _ordered_like(v, source[k], f"{path}.{k}") for k, v in output.items()}
    if isinstance(output, (list, tuple)) and isinstance(source, (list, tuple)) and len(output) == len(source):
        return [_ordered_like(o, g, f"{path}[{i}]") for i, (o, g) in enumerate(zip(output, source, strict=True), 1)]
    return source


# ---------------------------------------------------------------------- replacement of values
def like(tensor: Tensor, source: Any) -> Tensor | None:
    """Return ``source`` with shape, dtype and device of ``tensor``; None if the number of elements differs."""
    if not isinstance(source, Tensor) or source.numel() != tensor.numel():
        return None
    return source.to(tensor.device, tensor.dtype).reshape(tensor.shape)


def replaced(value: Any, source: Any) -> Any:
    """Return ``value`` with the elements of ``source``. The backward pass continues as from ``value``."""
    if isinstance(value, Tensor):
        replacement = like(value, source)
        return value if replacement is None else with_gradient_of(replacement.clone(), value)
    if isinstance(value, list) and isinstance(source, list) and len(source) == len(value):
        return [replaced(v, g) for v, g in zip(value, source, strict=True)]
    if isinstance(value, dict) and isinstance(source, dict):
        return {k: replaced(v, source.get(k)) for k, v in value.items()}
    return value
