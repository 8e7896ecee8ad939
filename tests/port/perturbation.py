"""Change one thing that a network computes with: an option, an activation, the order of two branches, or one weight."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from dpnn_bridge.modules.nn.container import Concat

Change = Callable[[], None]

#: options that are multiplied
FACTORS = {"eps": (1.5, 10, 1000), "negative_slope": (0.5, 1.1), "alpha": (0.9, 1.5), "beta": (0.9,), "k": (1.1,)}
FACTORS |= {"constant_scalar": (0.5, 1.001), "size": (3,)}
#: options that are turned round
FLIPS = ("ceil_mode", "count_include_pad", "align_corners")
#: layers that are put in the place of others
OTHERS: dict[str, tuple[Callable[[Any], nn.Module], ...]] = {
    "ReLU": (lambda m: nn.Identity(), lambda m: nn.LeakyReLU(1e-3), lambda m: nn.Softplus(20.0)),
    "ReLU6": (lambda m: nn.ReLU(),),
    "LeakyReLU": (lambda m: nn.ReLU(), lambda m: nn.ELU()),
    "ELU": (lambda m: nn.SELU(),),
    "Tanh": (lambda m: nn.Sigmoid(), lambda m: nn.Hardtanh(), lambda m: nn.Softsign()),
    "Sigmoid": (lambda m: nn.Tanh(), lambda m: nn.Hardsigmoid()),
    "MaxPool2d": (lambda m: nn.AvgPool2d(m.kernel_size, m.stride, m.padding, m.ceil_mode),),
    "AvgPool2d": (lambda m: nn.MaxPool2d(m.kernel_size, m.stride, m.padding, ceil_mode=m.ceil_mode),),
    "ReflectionPad2d": (lambda m: nn.ZeroPad2d(m.padding), lambda m: nn.ReplicationPad2d(m.padding)),
    "UpsamplingNearest2d": (lambda m: nn.UpsamplingBilinear2d(scale_factor=m.scale_factor),),
    "LogSoftmax": (lambda m: nn.Softmax(-1), lambda m: nn.Identity()),
    "PixelShuffle": (lambda m: nn.Sequential(nn.PixelShuffle(m.upscale_factor), nn.Identity()),),
}


def changes(model: nn.Module) -> Iterator[tuple[str, Change]]:
    """Every change of an option or a layer that this module knows, with its name; each is for a model of its own."""
    for name, layer in model.named_modules():
        for attribute, factors in FACTORS.items():
            if type(value := getattr(layer, attribute, None)) in (int, float) and value:
                for factor in factors:
                    yield f"{name}.{attribute} times {factor}", _set(layer, attribute, value * factor)
        for attribute in FLIPS:
            if isinstance(value := getattr(layer, attribute, None), bool):
                yield f"{name}.{attribute} = {not value}", _set(layer, attribute, not value)
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3) and layer.padding == (1, 1):
            yield f"{name}.dilation = 2", _set(layer, "dilation", (2, 2), "padding", (2, 2))
        if isinstance(layer, Concat) and len(layer) > 1:
            yield f"{name}: first two branches swapped", _swap(layer)
        for child_name, child in layer.named_children():
            for kind, others in OTHERS.items():
                if type(child).__name__ == kind:
                    for i, other in enumerate(others):
                        yield f"{name}.{child_name}: {kind} to {i}", _replace(layer, child_name, other(child))


def weight(model: nn.Module, rng: random.Random) -> tuple[str, Callable[[nn.Module], None]]:
    """One element of one parameter or running statistic, moved by a thousandth to a tenth of the largest.

    Rows of an embedding are left out: an example need not hold their words.
    """
    tables = {name for name, layer in model.named_modules() if isinstance(layer, nn.Embedding)}
    state = {n: t for n, t in model.state_dict().items() if n.rpartition(".")[0] not in tables}
    name, tensor = rng.choice([(n, t) for n, t in state.items() if t.is_floating_point()])
    index = tuple(rng.randrange(size) for size in tensor.shape)
    step = rng.choice((1e-3, 1e-2, 1e-1)) * max(float(tensor.abs().max()), 0.1)

    def change(other: nn.Module) -> None:
        with torch.no_grad():
            other.state_dict()[name][index] += step

    return f"{name}{list(index)} by {step:.1e}", change


def _set(layer: nn.Module, *pairs: Any) -> Change:
    def change() -> None:
        for attribute, value in zip(pairs[::2], pairs[1::2], strict=True):
            setattr(layer, attribute, value)

    return change


def _replace(layer: nn.Module, name: str, other: nn.Module) -> Change:
    return lambda: setattr(layer, name, other)


def _swap(layer: nn.Module) -> Change:
    def change() -> None:
        a, b, *_ = layer._modules
        layer._modules[a], layer._modules[b] = layer._modules[b], layer._modules[a]

    return change
