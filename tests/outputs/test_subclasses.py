"""A subclass that changes nothing but its constructor is written, or refused, as the layer of PyTorch is."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from pytorch_layers import LAYERS, LOSSES, REFUSED, WITH_EXAMPLE
from test_pytorch_layers import name
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dpnn_bridge import to_lua
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.loaders.t7_writer import dumps


def subclassed(model: nn.Module) -> nn.Module:
    """Return a copy in which the layers of ``torch.nn`` are of classes that are derived from them."""
    model = copy.deepcopy(model)
    for layer in model.modules():
        kind = type(layer)
        if kind.__module__.startswith("torch.nn.modules.") and not parametrize.is_parametrized(layer):
            layer.__class__ = type(f"My{kind.__name__}", (kind,), {"__module__": __name__})
    return model


@pytest.mark.parametrize("layer", copy.deepcopy([layer for layer, _ in [*LAYERS, *LOSSES]]), ids=name)  # as made
def test_a_layer_is_written_as_that_of_pytorch(layer: nn.Module) -> None:
    assert dumps(to_lua(subclassed(layer))) == dumps(
        to_lua(copy.deepcopy(layer))
    )  # without the gradients of other tests


@pytest.mark.parametrize(("layer", "shape", "_"), copy.deepcopy(WITH_EXAMPLE), ids=name)
def test_an_example_shows_its_dimensions(layer: nn.Module, shape: tuple[int, ...], _: str) -> None:
    x = torch.randn(shape, dtype=next((p.dtype for p in layer.parameters()), None))
    assert dumps(to_lua(subclassed(layer), input=x)) == dumps(to_lua(layer, input=x))


@pytest.mark.parametrize(("layer", "advice"), REFUSED, ids=name)
def test_it_is_refused_for_the_same_reason(layer: nn.Module, advice: str) -> None:
    with pytest.raises(ConversionError) as error:
        to_lua(nn.Sequential(subclassed(layer)))
    assert advice in str(error.value)
    assert error.value.path == "0"


class Doubling(nn.Linear):
    def __getattr__(self, name: str) -> Any:
        value: Any = super().__getattr__(name)
        return 2 * value if name == "weight" else value


class Watching(nn.Linear):
    def __getattribute__(self, name: str) -> Any:
        return super().__getattribute__("bias" if name == "weight" else name)


class Fixed(nn.LeakyReLU):
    @property
    def negative_slope(self) -> float:  # type: ignore[override]
        return 0.3

    @negative_slope.setter
    def negative_slope(self, value: float) -> None:
        pass


class Tripling(nn.Linear):
    def _call_impl(self, *args: Any, **kwargs: Any) -> Any:
        return 3 * super()._call_impl(*args, **kwargs)


class Centred(nn.Conv2d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(input, weight - weight.mean(), bias)


@pytest.mark.parametrize("layer", [Doubling(3, 3), Watching(3, 3), Fixed(), Tripling(3, 3), Centred(2, 3, 3)], ids=name)
def test_one_that_computes_something_else_is_refused(layer: nn.Module) -> None:
    with pytest.raises(ConversionError, match="its forward differs from the forward of"):
        to_lua(nn.Sequential(nn.Identity(), layer))


def test_the_model_keeps_its_classes() -> None:
    model = subclassed(nn.Sequential(nn.Conv1d(2, 3, 3), nn.Softmax(0)))
    kinds = [type(m) for m in model.modules()]
    to_lua(model)
    assert [type(m) for m in model.modules()] == kinds
