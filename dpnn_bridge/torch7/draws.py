"""Replace PyTorch's random numbers by those of Torch7, for references with a seed but without random numbers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from dpnn_bridge.torch7.random import Generator


def torch7_random(seed: float | None) -> AbstractContextManager[Any]:
    """Make modules draw Torch7's random numbers after ``torch.manualSeed(seed)``.

    ``F.dropout``, ``bernoulli_``, ``normal_``, ``rand_like`` and ``randn_like`` draw from Torch7's generator, in the
    order in which the modules run. Other functions, such as ``torch.rand``, still draw from PyTorch's generator.

    Args:
        seed: The seed; None changes nothing.
    """
    if seed is None:
        return nullcontext()
    from dpnn_bridge.torch7.random import Generator  # slow import

    return Draws(Generator(int(seed)))


class Draws(TorchFunctionMode):
    """Context manager that replaces PyTorch's random functions by methods of Torch7's generator."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.fill_bernoulli, self.fill_normal, self.fill_uniform = map(
            _not_compiled, (generator.fill_bernoulli, generator.fill_normal, generator.fill_uniform)
        )
        self.draws: dict[Callable[..., Any], Callable[..., Tensor]] = {
            Tensor.bernoulli_: self.bernoulli_,
            Tensor.normal_: self.normal_,
            torch.rand_like: self.rand_like,
            torch.randn_like: self.randn_like,
            F.dropout: self.dropout,
        }

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return self.draws.get(func, func)(*args, **(kwargs or {}))

    def bernoulli_(self, t: Tensor, p: float = 0.5) -> Tensor:
        return self.fill_bernoulli(t, p)

    def normal_(self, t: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
        return self.fill_normal(t, mean, std)

    def rand_like(self, t: Tensor) -> Tensor:
        return self.fill_uniform(torch.empty_like(t))

    def randn_like(self, t: Tensor) -> Tensor:
        return self.fill_normal(torch.empty_like(t))

    def dropout(self, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or not p:
            return x
        noise = self.fill_bernoulli(torch.empty_like(x), 1 - p)
        return x * (noise / (1 - p))  # in this order, Torch7's result to the last bit


def _not_compiled(function: Callable[..., Tensor]) -> Any:
    """Let compiled modules call a function of numpy instead of compiling it. Without them, no compiler is imported."""
    return torch.compiler.disable(function) if "torch._dynamo" in sys.modules else function
