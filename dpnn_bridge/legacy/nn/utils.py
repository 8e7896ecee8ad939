"""Provide ``torch.legacy.nn.utils`` of PyTorch 0.4.

Lua:
    nn's utils.lua.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from dpnn_bridge.legacy.casting import cast


def recursiveType(param: Any, type: Any, tensorCache: dict[Any, Any] | None = None) -> Any:
    """Cast the tensors in nested lists and modules; with one cache, tensors keep sharing memory."""
    return cast(param, type, {} if tensorCache is None else tensorCache)


def recursiveResizeAs(t1: Any, t2: Any) -> tuple[Any, Any]:
    """Resize the tensors of a nested list ``t1`` to the shapes of the tensors in ``t2``."""
    return _both(t1, t2, lambda a, b: a.resize_as_(b))


def recursiveCopy(t1: Any, t2: Any) -> tuple[Any, Any]:
    """Copy the tensors of a nested list ``t2`` into ``t1``."""
    return _both(t1, t2, lambda a, b: a.resize_as_(b).copy_(b))


def recursiveAdd(t1: Any, val: Any = 1, t2: Any = None) -> tuple[Any, Any]:
    """Add ``val * t2`` to the tensors of a nested list ``t1``; ``recursiveAdd(t1, t2)`` adds ``t2``."""
    factor, added = (1, val) if t2 is None else (val, t2)
    return _both(t1, added, lambda a, b: a.add_(b, alpha=factor))


def recursiveFill(t2: Any, val: float) -> Any:
    """Fill the tensors of a nested list with a number."""
    return _both(t2, t2, lambda a, b: a.fill_(val))[0]


def _both(target: Any, source: Any, change: Callable[[Tensor, Tensor], Tensor]) -> tuple[Any, Any]:
    """Call ``change`` for the tensors of two nested lists; missing elements of ``target`` are created."""
    if isinstance(source, list):
        target = target if isinstance(target, list) else [target]
        target += [None] * (len(source) - len(target))
        for i, value in enumerate(source):
            target[i] = _both(target[i], value, change)[0]
        return target, source
    if not isinstance(source, Tensor):
        raise RuntimeError(f"expected tensors or lists of tensors, got {type(source).__name__}")
    target = target if isinstance(target, Tensor) else source.new_empty(0)
    change(target, source)
    return target, source


def addSingletondimension(*args: Any) -> Tensor:
    """Insert a dimension of size 1. Arguments: ``(tensor, dim)``, or ``(view, tensor, dim)`` to change ``view``."""
    *view, tensor, dim = args
    return view[0].set_(tensor).unsqueeze_(dim) if view else tensor.unsqueeze(dim)


def contiguousView(output: Tensor | None, input: Tensor, *args: int) -> Tensor:
    """Return ``output`` as a view of ``input`` with another shape; copy ``input`` if it is not contiguous."""
    output = input.new_empty(0) if output is None else output
    if input.is_contiguous():
        return output.set_(input.view(*args))  # pyright: ignore[reportArgumentType]
    output.resize_as_(input).copy_(input)
    return output.set_(output.view(*args))  # pyright: ignore[reportArgumentType]


def clear(self: Any, *args: Any) -> Any:
    """Empty tensors and lists in fields of a module, and set other fields to None.

    Args:
        self: the module.
        *args: names of fields, or one list of names.
    """
    for name in args[0] if len(args) == 1 and isinstance(args[0], list) else args:
        value = getattr(self, name, None)
        if isinstance(value, Tensor):
            value.set_(value.new_empty(0))  # pyright: ignore[reportArgumentType]
        elif isinstance(value, list):
            value.clear()
        elif hasattr(self, name):
            setattr(self, name, None)
    return self
