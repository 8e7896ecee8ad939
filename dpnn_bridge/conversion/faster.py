"""Faster ways of computing the same: they are tried first, and left out where a program is written or recorded."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

from dpnn_bridge.conversion.tracing import is_traced


def faster(attempt: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a method so that another function is tried first.

    Source that is copied into a ``.py`` is without this decorator.

    Args:
        attempt: takes the arguments of the method, and returns what the method would, or None where it cannot.
    """

    def decorated(method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def either(*args: Any) -> Any:
            result = attempt(*args) if is_plain() else None
            return method(*args) if result is None else result

        return either

    return decorated


def is_plain() -> bool:
    """Return whether PyTorch runs operations as they come, and nothing compiles, traces, casts or transforms them."""
    return not (
        torch.compiler.is_compiling()
        or is_traced()
        or torch.is_autocast_enabled()
        or torch.is_autocast_enabled("cpu")
        or torch._C._are_functorch_transforms_active()  # pyright: ignore[reportAttributeAccessIssue]
        or torch.autograd.forward_ad._current_level >= 0
    )
