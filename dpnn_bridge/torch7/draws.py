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


def torch7_random(seed: float | None, generator: Generator | None = None) -> AbstractContextManager[Any]:
    """Make modules draw Torch7's random numbers after ``torch.manualSeed(seed)``.

    ``F.dropout``, ``F.rrelu``, ``bernoulli_``, ``normal_``, ``multinomial``, ``rand_like`` and ``randn_like`` draw from
    Torch7's generator, in the order in which the modules run. Other functions, such as ``torch.rand``, still draw from
    PyTorch's generator.

    Args:
        seed: the seed; None changes nothing.
        generator: the generator to seed and to draw from, which other code may share; default: a new one.
    """
    if seed is None:
        return nullcontext()
    from dpnn_bridge.torch7.random import Generator  # slow import

    if generator is None:
        generator = Generator()
    generator.manual_seed(int(seed))
    return Draws(generator)


#: the instances of :class:`Draws` whose blocks run, the innermost last
_running: list[Draws] = []


def reseed(seed: int) -> None:
    """Let modules draw other numbers from here on, inside :func:`torch7_random` with a seed."""
    for draws in _running[-1:]:
        draws.generator.manual_seed(seed)


class Draws(TorchFunctionMode):
    """Context manager that replaces PyTorch's random functions by methods of Torch7's generator."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator
        self.fill_bernoulli, self.fill_normal, self.fill_uniform, self.slopes, self.multinomials = map(
            _not_compiled,
            (
                *(generator.fill_bernoulli, generator.fill_normal, generator.fill_uniform),
                *(generator.slopes, generator.multinomials),
            ),
        )
        self.draws: dict[Callable[..., Any], Callable[..., Tensor]] = {
            Tensor.bernoulli_: self.bernoulli_,
            Tensor.normal_: self.normal_,
            torch.rand_like: self.rand_like,
            torch.randn_like: self.randn_like,
            F.dropout: self.dropout,
            F.rrelu: self.rrelu,
            torch.multinomial: self.multinomial,
        }

    def __enter__(self) -> Draws:
        _running.append(self)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        _running.remove(self)
        super().__exit__(*error)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        draw, options = self.draws.get(func), dict(kwargs or {})
        own = options.pop("generator", None) is not None
        # Torch7 has no generator for one call, and no probability, mean or deviation per element
        if draw is None or own or any(isinstance(v, Tensor) for v in (*args[1:], *options.values())):
            return func(*args, **(kwargs or {}))
        return draw(*args, **options)

    def bernoulli_(self, t: Tensor, p: float = 0.5) -> Tensor:
        return self.fill_bernoulli(t, p)

    def normal_(self, t: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
        return self.fill_normal(t, mean, std) if std else t.fill_(mean)  # an error in Torch7

    def rand_like(self, input: Tensor, *, requires_grad: bool = False, **options: Any) -> Tensor:
        return self.fill_uniform(torch.empty_like(input, **options)).requires_grad_(requires_grad)

    def randn_like(self, input: Tensor, *, requires_grad: bool = False, **options: Any) -> Tensor:
        return self.fill_normal(torch.empty_like(input, **options)).requires_grad_(requires_grad)

    def dropout(self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or not p:
            return input
        noise = self.fill_bernoulli(torch.empty_like(input), 1 - p) / (1 - p)
        return _product(input, noise, inplace)

    def rrelu(
        self, input: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, inplace: bool = False
    ) -> Tensor:
        if not training:
            return F.rrelu(input, lower, upper, False, inplace)
        lower, upper = input.new_tensor([lower, upper]).tolist()
        return _product(input, self.slopes(input.detach(), lower, upper), inplace)

    def multinomial(self, input: Tensor, num_samples: int, replacement: bool = False) -> Tensor:
        return self.multinomials(input, num_samples, replacement)


def _product(input: Tensor, noise: Tensor, inplace: bool) -> Tensor:
    """Return the product, in this order: Torch7's result to the last bit."""
    if inplace and not (input.is_leaf and input.requires_grad):  # of which autograd refuses changes
        return input.mul_(noise)
    return input * noise


def _not_compiled(function: Callable[..., Tensor]) -> Any:
    """Let compiled modules call a function of numpy instead of compiling it. Without them, no compiler is imported."""
    return torch.compiler.disable(function) if "torch._dynamo" in sys.modules else function
