"""Pickling of modules with :mod:`torch.nn.utils.parametrize` parametrizations."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize


def make_picklable(module: nn.Module) -> None:
    """Lets pickle and ``torch.save`` take a parametrized module, whose class PyTorch makes for it alone and refuses."""
    type(module).__reduce_ex__ = _reduce  # type: ignore[method-assign, assignment]


def _reduce(module: Any, protocol: Any) -> tuple[Any, ...]:
    plain = parametrize.type_before_parametrizations(module)
    return _restore, (plain, tuple(module.parametrizations)), module.__dict__


def _restore(plain: type[nn.Module], names: tuple[str, ...]) -> nn.Module:
    """An instance of a class like the one PyTorch makes; its state follows."""
    body = {"__reduce_ex__": _reduce, **{name: _property(name) for name in names}}
    kind = type(f"Parametrized{plain.__name__}", (plain,), body)
    return kind.__new__(kind)


def _property(name: str) -> property:
    def read(module: Any) -> Tensor:
        return module.parametrizations[name]()

    def write(module: Any, value: Tensor) -> None:
        module.parametrizations[name].right_inverse(value)

    return property(read, write)
