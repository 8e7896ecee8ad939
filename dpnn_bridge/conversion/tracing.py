"""Control how ``torch.fx`` and ``torch.jit.trace`` record the modules of this package."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import fx, nn

from dpnn_bridge.base.scoped import scoped

Forward = Callable[..., Any]
_ModuleT = TypeVar("_ModuleT", bound=nn.Module)


def leaf(forward: Forward) -> Forward:
    """Decorate a ``forward`` so that ``torch.fx`` records a call of the module as one node, as for stock layers.

    Tracing through the ``forward`` would fail where it uses the size of a tensor. The root of a trace and modules with
    submodules are traced through, so that their layers become nodes. A class with a true attribute ``fx_leaf`` is one
    node although it has submodules.
    """

    @wraps(forward)
    def recorded(self: nn.Module, input: Any, *args: Any, **kwargs: Any) -> Any:
        proxy = _proxy_in(input)
        if proxy is not None and isinstance(proxy.tracer, fx.Tracer):
            path = proxy.tracer.path_of_module(self)
            if path and (not self._modules or getattr(self, "fx_leaf", False)):
                return proxy.tracer.create_proxy("call_module", path, (input, *args), kwargs)
        return forward(self, input, *args, **kwargs)

    recorded.is_recorded = True  # type: ignore[attr-defined]
    return recorded


def _proxy_in(value: Any) -> fx.Proxy | None:
    """Return the first proxy in nested lists, tuples and dicts, or None."""
    if isinstance(value, fx.Proxy):
        return value
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    for item in items:
        proxy = _proxy_in(item)
        if proxy is not None:
            return proxy
    return None


def record_as_leaf(kind: type[_ModuleT]) -> type[_ModuleT]:
    """Apply :func:`leaf` to the ``forward`` that a class of this package defines or inherits, unless it was applied."""
    owner: Any = next((c for c in kind.__mro__ if "forward" in c.__dict__), nn.Module)
    if owner.__module__.startswith("dpnn_bridge.") and not is_recorded(owner):
        owner.forward = leaf(owner.forward)
    return kind


def is_recorded(kind: type) -> bool:
    """Return whether :func:`leaf` was applied to the ``forward`` that a class defines."""
    return hasattr(kind.__dict__.get("forward"), "is_recorded")


_AS_TRACED = ContextVar("modules run as they are traced", default=False)


def as_traced() -> AbstractContextManager[None]:
    """Make :func:`is_traced` return True inside the ``with`` block. Modules then do not change their weights."""
    return scoped(_AS_TRACED, True)


def also_inside_as_traced(function: Callable[[], bool]) -> Callable[[], bool]:
    """Decorate a function that returns whether modules are traced, to return True inside :func:`as_traced` as well.

    The generated ``.py`` file copies the function without the decorator.
    """

    @wraps(function)
    def either() -> bool:
        return function() or (not torch.compiler.is_compiling() and _AS_TRACED.get())

    return either


@also_inside_as_traced
def is_traced() -> bool:
    """Return whether ``torch.jit.trace`` is recording or :func:`as_traced` is active; then weights must not change."""
    return torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
