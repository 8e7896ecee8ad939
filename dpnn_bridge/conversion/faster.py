"""Replace a method by a faster version, except when operations are traced, compiled or transformed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from functools import wraps
from typing import Any

import torch

from dpnn_bridge.base.scoped import scoped
from dpnn_bridge.conversion.tracing import is_traced

_ALLOWED = ContextVar("faster versions are allowed", default=True)


def faster(attempt: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a method with a faster version, which is tried first in eager mode.

    A ``.py`` output contains the method without this decorator.

    Args:
        attempt: faster version of the method with the same arguments; returns None for inputs it does not support.
    """

    def decorated(method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def either(*args: Any) -> Any:
            result = attempt(*args) if is_eager() else None
            return method(*args) if result is None else result

        return either

    return decorated


def without_faster() -> AbstractContextManager[None]:
    """Disable faster versions inside the ``with`` block, as in a ``.py`` output."""
    return scoped(_ALLOWED, False)


def is_eager() -> bool:
    """Return whether faster versions are enabled: no tracing, compiling, autocast, functorch or forward-mode AD."""
    return not (
        torch.compiler.is_compiling()
        or not _ALLOWED.get()
        or is_traced()
        or torch._C._is_any_autocast_enabled()
        or torch._C._are_functorch_transforms_active()  # pyright: ignore[reportAttributeAccessIssue]
        or torch.autograd.forward_ad._current_level >= 0
    )
