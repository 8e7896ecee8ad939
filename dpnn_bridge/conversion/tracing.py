"""What modules do while a tracer records them."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import fx, nn

Forward = Callable[[Any, Any], Any]


def leaf(forward: Forward) -> Forward:
    """Lets ``torch.fx`` record the module as one step, as it does with the layers of ``torch.nn``.

    A tracer that runs the forward would fail where it asks for a size. The root of a trace is run as any other.
    """

    @wraps(forward)
    def recorded(self: nn.Module, input: Any) -> Any:
        first = input[0] if isinstance(input, (list, tuple)) and input else input
        if isinstance(first, fx.Proxy) and isinstance(first.tracer, fx.Tracer):
            path = first.tracer.path_of_module(self)
            if path:
                return first.tracer.create_proxy("call_module", path, (input,), {})
        return forward(self, input)

    return recorded


def is_traced() -> bool:
    """Whether ``torch.jit.trace`` records what runs: a program that writes into its own weights cannot be frozen."""
    return torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
