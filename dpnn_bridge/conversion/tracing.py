"""Control how ``torch.fx`` and other tracers record the modules of this package."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from functools import wraps
from typing import Any

import torch
from torch import fx, nn

from dpnn_bridge.base.scoped import scoped

Forward = Callable[..., Any]


def leaf(forward: Forward) -> Forward:
    """Let ``torch.fx`` record the module as one step, as it does with the layers of ``torch.nn``.

    A tracer that runs the forward would fail where it asks for a size. The root of a trace is run as any other.
    """
    return _recorded(forward, lambda module: True)


def leaf_without_members(kind: type[nn.Module]) -> None:
    """Make modules of a class single steps for ``torch.fx`` where they contain no other modules.

    Those that contain some are run, so that the layers inside are steps; a class with the attribute ``fx_leaf`` is one.
    """
    owner: Any = next((c for c in kind.__mro__ if "forward" in c.__dict__), nn.Module)
    if owner.__module__.startswith("dpnn_bridge.") and not hasattr(owner.forward, "is_leaf"):
        owner.forward = _recorded(
            owner.forward, lambda module: not module._modules or getattr(module, "fx_leaf", False)
        )


def _recorded(forward: Forward, is_leaf: Callable[[Any], bool]) -> Forward:
    @wraps(forward)
    def recorded(self: nn.Module, input: Any, *args: Any, **kwargs: Any) -> Any:
        first = input[0] if isinstance(input, (list, tuple)) and input else input
        if isinstance(first, fx.Proxy) and isinstance(first.tracer, fx.Tracer) and is_leaf(self):
            path = first.tracer.path_of_module(self)
            if path:
                return first.tracer.create_proxy("call_module", path, (input, *args), kwargs)
        return forward(self, input, *args, **kwargs)

    recorded.is_leaf = is_leaf  # type: ignore[attr-defined]
    return recorded


_ASSUMED = ContextVar("modules run as they are traced", default=False)


def as_traced() -> AbstractContextManager[None]:
    """Run modules inside the ``with`` block as ``torch.jit.trace`` records them: none changes its weights."""
    return scoped(_ASSUMED, True)


def or_assumed(function: Callable[[], bool]) -> Callable[[], bool]:
    """Decorate a function that tells whether modules are traced: it also returns True inside :func:`as_traced`.

    A ``.py`` output contains the function without this decorator.
    """

    @wraps(function)
    def either() -> bool:
        return function() or (not torch.compiler.is_compiling() and _ASSUMED.get())

    return either


@or_assumed
def is_traced() -> bool:
    """Return whether ``torch.jit.trace`` is recording. A program that changes its weights cannot be frozen."""
    return torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
