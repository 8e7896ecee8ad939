"""Models that are exported together, gradients of shared parameters, and other edges of the two conversions."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrize import register_parametrization

import dpnn_bridge
from dpnn_bridge.conversion import registry, to_lua, to_torch
from dpnn_bridge.conversion.convert import to_lua_value
from dpnn_bridge.conversion.distributed import is_equal
from dpnn_bridge.conversion.example_run import run
from dpnn_bridge.conversion.limits import ResourceLimitMode, ResourceLimits
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.lua_values import fresh
from dpnn_bridge.conversion.ties import plain_type
from dpnn_bridge.errors import ConversionError, ConversionLimitError
from dpnn_bridge.modules.nn import JoinTable
from dpnn_bridge.modules.rnn import LookupTableMaskZero
from dpnn_bridge.objects import LuaObject, LuaTensor
from dpnn_bridge.outputs.verification import run_traceable


@pytest.mark.parametrize(
    "layer", [LookupTableMaskZero(4, 2), nn.Embedding(4, 2, max_norm=0.1)], ids=["mask zero", "max norm"]
)
def test_an_example_does_not_change_a_model_that_is_exported(layer: nn.Embedding) -> None:
    """Both layers write to their weight when they run."""
    before = layer.weight.detach().clone()
    exported = to_lua(nn.Sequential(layer), input=torch.tensor([0, 1, 3]))
    assert torch.equal(layer.weight, before)
    assert exported["modules"][1]["weight"].numpy().tolist() == before.tolist()


def test_an_example_does_not_scale_the_weights_of_a_model_that_is_traced() -> None:
    layer = nn.Embedding(4, 2, max_norm=0.1)
    before = layer.weight.detach().clone()
    run_traceable(nn.Sequential(layer), torch.tensor([0, 1, 3]))
    assert torch.equal(layer.weight, before)


class Limited(nn.Module):
    max_norm = 1.0

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return input


def test_a_maximum_norm_of_another_module_is_no_table() -> None:
    run_traceable(Limited(), torch.ones(2))


def test_each_model_of_a_table_has_its_own_types() -> None:
    """All models had the type of the first, which Torch7 refuses to run."""
    models = {"single": nn.Sequential(nn.Linear(2, 2), nn.ReLU()), "double": nn.Sequential(nn.Linear(2, 2), nn.ReLU())}
    models["double"].double()
    table = to_lua_value(models)
    kinds = [table[name]["modules"][2]["_type"] for name in models]
    assert kinds == ["torch.FloatTensor", "torch.DoubleTensor"]


def test_dimensions_are_inferred_in_each_model_of_a_table() -> None:
    """They were inferred in the first model only."""
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Softmax(1))
    alone, table = to_lua(model), to_lua_value([nn.Sequential(nn.Linear(2, 2), nn.Softmax(1)), model])
    assert [m.class_name for m in table[2]["modules"].as_list()] == [m.class_name for m in alone["modules"].as_list()]


def test_an_error_names_the_path_in_its_own_model() -> None:
    """The path was searched in the first model of the table."""
    models = [nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.MultiheadAttention(2, 1)))]
    with pytest.raises(ConversionError, match=r"^1\.0 \(MultiheadAttention\)"):
        to_lua_value(models)


def test_modules_that_models_share_stay_shared() -> None:
    shared = nn.Linear(2, 2)
    table = to_lua_value([nn.Sequential(shared), nn.Sequential(nn.Tanh(), shared)])
    assert table[1]["modules"][1]["weight"].storage is table[2]["modules"][2]["weight"].storage


def linear(weight: LuaTensor, gradient: LuaTensor) -> LuaObject:
    bias = {name: LuaTensor.from_numpy(np.zeros(2)) for name in ("bias", "gradBias")}
    return fresh("nn.Linear", "torch.DoubleTensor", weight=weight, gradWeight=gradient, **bias)


@pytest.mark.parametrize(("same", "expected"), [(False, 11.0), (True, 1.0)])
def test_gradients_of_a_shared_parameter_are_added(same: bool, expected: float) -> None:
    """The last gradient replaced the others. Torch7's ``updateParameters`` applies each of them."""
    weight, first = LuaTensor.from_numpy(np.ones((2, 2))), LuaTensor.from_numpy(np.ones((2, 2)))
    second = first if same else LuaTensor.from_numpy(np.full((2, 2), 10.0))
    model = to_torch(
        fresh("nn.Sequential", "torch.DoubleTensor", linear(weight, first), linear(weight, second)), gradients=True
    )
    assert model[0].weight is model[1].weight
    assert model[0].weight.grad.unique().tolist() == [expected]


def test_tensors_of_two_dtypes_are_not_equal() -> None:
    """A flat storage of floats was then used for a tensor of doubles."""
    ones = torch.ones(2)
    assert is_equal(ones, torch.ones(2))
    assert not is_equal(ones, torch.ones(2, dtype=torch.float64))
    assert not is_equal(ones, torch.ones(2, device="meta"))


def test_plain_type_of_a_parametrized_module_with_a_tied_parameter() -> None:
    """It was the mixin."""
    weight = LuaTensor.from_numpy(np.arange(4.0).reshape(2, 2))
    transposed = LuaTensor(weight.class_name, (2, 2), (1, 2), 0, weight.storage)
    layers = [linear(w, LuaTensor.from_numpy(np.zeros((2, 2)))) for w in (weight, transposed)]
    _, tied = to_torch(fresh("nn.Sequential", weight.class_name, *layers))
    assert "weight" not in tied._parameters
    register_parametrization(tied, "bias", nn.Identity())
    assert plain_type(type(tied)) is nn.Linear


def test_a_model_that_takes_a_list_is_named_without_a_path() -> None:
    """The message began with a comma."""
    with pytest.raises(ConversionError, match=r"example input: JoinTable\(dimension=1\), got 5: it takes a list"):
        run(JoinTable(1), torch.zeros(5))


def test_a_type_without_mappings_is_not_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was after its only mapping had been unregistered."""
    module = types.ModuleType("plugin_of_fold")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    body = {"torch_type": nn.Fold, "__module__": module.__name__}
    dpnn_bridge.lua_class("my.Fold")(type("Fold", (LuaClass,), body))
    assert registry.is_registered(nn.Fold)
    registry.unregister(module.__name__)
    assert not registry.is_registered(nn.Fold)


def test_a_bincount_of_many_bins_is_refused() -> None:
    """``minlength`` was ignored."""
    with ResourceLimitMode(ResourceLimits()), pytest.raises(ConversionLimitError):
        torch.bincount(torch.tensor([1]), minlength=1 << 24)
