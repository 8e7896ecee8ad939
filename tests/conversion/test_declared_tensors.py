"""What a mapping declares must be in the file: no converted module keeps values that its constructor made."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from formula import linear, lua, random
from torch import nn

from dpnn_bridge import LuaClass, lua_class, to_lua, to_torch
from dpnn_bridge.conversion import budget, registry
from dpnn_bridge.errors import ConversionError


class Scale(nn.Module):
    def __init__(self, size: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size)) if bias else None
        self.inner = nn.Linear(size, size)

    def forward(self, x: Any) -> Any:
        return x * self.weight


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    registry.discover()
    monkeypatch.setattr(registry, "_BY_NAME", dict(registry._BY_NAME))
    monkeypatch.setattr(registry, "_BY_TYPE", dict(registry._BY_TYPE))


def mapping(**declared: Any) -> None:
    lua_class("my.Scale")(type("ScaleClass", (LuaClass,), {"torch_type": Scale, **declared}))


WEIGHTS = {"weight": "weight", "inner": "inner.weight", "innerBias": "inner.bias"}


def scale(**fields: Any) -> Any:
    return lua("my.Scale", weight=random(3), inner=random(3, 3), innerBias=random(3), **fields)


def test_a_declared_tensor_that_the_file_lacks_is_an_error() -> None:
    mapping(tensors={**WEIGHTS, "bias": "bias"}, sizes={"weight": "size"})
    with pytest.raises(ConversionError, match=r"the field 'bias' of shape \(3,\) is missing or empty"):
        to_torch(scale())
    module = to_torch(scale(bias=random(3, seed=1)))
    assert torch.equal(module.get_parameter("bias"), random(3, seed=1))


def test_an_error_names_the_place() -> None:
    net = lua("nn.Sequential", lua("nn.Tanh"), lua("nn.Sequential", lua("nn.Linear", weight=3)))
    with pytest.raises(ConversionError, match="found int") as caught:
        to_torch(net)
    assert caught.value.path == "modules[2].modules[1]"


def test_a_conversion_may_take_what_the_file_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "BYTES", 0)
    monkeypatch.setattr(budget, "TENSORS", 0)
    assert to_torch(linear(3, 2)).weight.shape == (2, 3)


def test_an_optional_tensor_says_whether_it_is_there() -> None:
    mapping(tensors={**WEIGHTS, "bias": "bias"}, sizes={"weight": "size"}, optional={"bias": "bias"})
    assert to_torch(scale()).bias is None
    assert "bias" not in to_lua(to_torch(scale()))
    assert torch.equal(to_torch(scale(bias=random(3, seed=1))).get_parameter("bias"), random(3, seed=1))


def test_an_optional_tensor_may_keep_what_the_constructor_made() -> None:
    mapping(tensors={**WEIGHTS, "bias": "bias"}, sizes={"weight": "size"}, optional={"bias": None})
    assert torch.equal(to_torch(scale()).get_parameter("bias"), torch.zeros(3))


def test_a_parameter_that_no_field_gives_is_an_error() -> None:
    mapping(tensors={"weight": "weight"}, sizes={"weight": "size"}, constant_kwargs={"bias": False})
    with pytest.raises(ConversionError, match=r"no field maps to the parameter inner\.(weight|bias) of Scale"):
        to_torch(scale())


def test_sizes_name_what_the_shape_should_be() -> None:
    mapping(tensors=WEIGHTS, sizes={"weight": ("size", None)})
    with pytest.raises(ConversionError, match=r"'weight' has shape \(3,\), expected 2 dimensions \(size, any\)"):
        to_torch(scale())
    with pytest.raises(ConversionError, match="expected a tensor in field 'weight', found int"):
        to_torch(lua("my.Scale", weight=3))


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_a_stock_layer_without_a_tensor_is_refused_or_has_none(name: str) -> None:
    fields: dict[str, Any] = {"weight": random(2, 3), "bias": random(2)}
    del fields[name]
    if name == "bias":
        assert to_torch(lua("nn.Linear", **fields)).bias is None
    else:
        with pytest.raises(ConversionError, match="weight"):
            to_torch(lua("nn.Linear", **fields))
    norm: dict[str, Any] = {
        "running_mean": random(3),
        "running_var": random(3),
        "eps": 1e-5,
        "momentum": 0.1,
        "weight": random(3),
    }
    assert to_torch(lua("nn.BatchNormalization", **norm)).bias is None


def test_a_conversion_takes_no_random_numbers() -> None:
    before = torch.get_rng_state()
    to_torch(lua("nn.Linear", weight=random(2, 3), bias=random(2)))
    assert torch.equal(before, torch.get_rng_state())


def test_a_module_that_a_caller_gives_is_drawn() -> None:
    from dpnn_bridge.conversion import convert_object
    from dpnn_bridge.conversion.options import Options

    inner = lua("their.Own")
    net = lua("nn.Sequential", inner)
    made: list[nn.Linear] = []

    def fallback(obj: Any, ctx: Any) -> nn.Module:
        torch.manual_seed(0)
        made.append(nn.Linear(3, 3))
        return made[-1]

    convert_object(net, Options(fallback=fallback))
    torch.manual_seed(0)
    assert torch.equal(made[0].weight, nn.Linear(3, 3).weight)
