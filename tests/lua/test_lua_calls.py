"""Methods of a layer or loss in Lua that Torch7's containers call, and those that only a user calls."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

import dpnn_bridge
from dpnn_bridge.conversion.lua_values import fresh
from dpnn_bridge.errors import LuaBridgeError, UnsupportedClassError
from dpnn_bridge.lua import LuaBridge
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor

pytestmark = pytest.mark.usefixtures("warm_sandboxes")

CODE = """
require 'nn'
my = my or {}
local Forward, tanh = torch.class('my.Forward', 'nn.Tanh')
function Forward:forward(x) self.output = tanh.updateOutput(self, x):mul(3); return self.output end
local Backward = torch.class('my.Backward', 'nn.Identity')
function Backward:backward(x, g) self.gradInput = g * 2; return self.gradInput end
local Loss = torch.class('my.Loss', 'nn.MSECriterion')
function Loss:forward(x, t) return 3 * self:updateOutput(x, t) end
function Loss:backward(x, t) return self:updateGradInput(x, t):mul(3) end
local Stored, linear = torch.class('my.Stored', 'nn.Linear')
function Stored:updateGradInput(x, g) self.kept = g:clone(); return linear.updateGradInput(self, x, g) end
function Stored:accGradParameters(x, g, scale)
   self.gradWeight:add(self.kept:sum())
   self.gradBias:add(g:sum())
end
"""


def obj(name: str, *modules: LuaObject, **fields: Any) -> LuaObject:
    contained = {"modules": LuaTable.from_list(modules)} if modules else {}
    return fresh(name, "torch.DoubleTensor", **contained, **fields)


def parallel(module: LuaObject) -> LuaObject:
    inner = obj("nn.ConcatTable", obj("nn.Identity")), obj("nn.ParallelTable", module)
    return obj("nn.Sequential", *inner, obj("nn.SelectTable", index=1))


def losses(name: str) -> LuaObject:
    criterions, weights = LuaTable.from_list([obj("my.Loss", sizeAverage=True)]), LuaTable.from_list([1])
    return obj(name, criterions=criterions, weights=weights)


FORWARD, BACKWARD, LOSS = obj("my.Forward"), obj("my.Backward"), obj("my.Loss", sizeAverage=True)
#: model and its factors in Torch7, where the layer has its own: its `forward` and `backward` multiply by 3 and 2
MODELS = {
    "forward": (FORWARD, 3, 0),
    "forward in a sequence": (obj("nn.Sequential", FORWARD), 1, 0),
    "forward in a table": (obj("nn.Sequential", obj("nn.ConcatTable", FORWARD), obj("nn.SelectTable", index=1)), 1, 0),
    "backward": (BACKWARD, 0, 2),
    "backward in a sequence": (obj("nn.Sequential", BACKWARD), 0, 2),
    "backward in a concatenation": (obj("nn.Concat", obj("nn.Sequential", BACKWARD), dimension=1), 0, 2),
    "backward in a concatenation of images": (obj("nn.DepthConcat", BACKWARD, dimension=1), 0, 2),
    "backward on several GPUs": (obj("nn.DataParallelTable", BACKWARD, dimension=1), 0, 2),
    "backward of a sequence on several GPUs": (obj("nn.DataParallel", obj("nn.Sequential", BACKWARD)), 0, 1),
    "backward of branches on several GPUs": (obj("nn.ModelParallel", BACKWARD, dimension=1), 0, 2),
    "backward in parallel": (parallel(BACKWARD), 0, 1),
    "backward in a sequence in parallel": (parallel(obj("nn.Sequential", BACKWARD)), 0, 1),
}
LOSSES = {
    "loss": (LOSS, 3),
    "loss in a sum": (losses("nn.MultiCriterion"), 1),
    "loss of a module": (obj("nn.ModuleCriterion", criterion=LOSS, castTarget=False), 3),
}


@pytest.fixture(params=[False, True])
def bridge(request: pytest.FixtureRequest) -> LuaBridge:
    bridge = LuaBridge(sandbox=request.param)
    bridge.execute(CODE)
    return bridge


@pytest.mark.parametrize("name", MODELS)
def test_containers_call_the_methods_that_torch7s_call(name: str, bridge: LuaBridge) -> None:
    model, forward, backward = MODELS[name]
    x = torch.ones(2, dtype=torch.float64, requires_grad=True)
    output = dpnn_bridge.to_torch(model, fallback=bridge.convert)(x)
    if backward:
        output.sum().backward()
        assert x.grad is not None
        assert x.grad.tolist() == [backward, backward]
    torch.testing.assert_close(output, x.tanh() * forward if forward else x)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_call_the_methods_that_torch7s_call(name: str, bridge: LuaBridge) -> None:
    loss, factor = LOSSES[name]
    x = torch.ones(2, dtype=torch.float64, requires_grad=True)
    value = dpnn_bridge.to_torch(loss, fallback=bridge.convert)(x, torch.zeros(2).double())
    value.backward()
    assert (value.item(), x.grad.tolist()) == (factor, [factor, factor])  # type: ignore[union-attr]


@pytest.mark.parametrize(("name", "one_target"), [("Sequencer", False), ("Repeater", True)])
def test_losses_of_each_step_call_forward_and_backward(name: str, one_target: bool, bridge: LuaBridge) -> None:
    x, target = torch.ones(1, 2, dtype=torch.float64, requires_grad=True), torch.zeros(1, 2).double()
    loss = dpnn_bridge.to_torch(obj(f"nn.{name}Criterion", criterion=LOSS), fallback=bridge.convert)
    value = loss(x, target[0] if one_target else target)
    value.backward()
    assert (value.item(), x.grad.tolist()) == (3, [[3, 3]])  # type: ignore[union-attr]


def twice(layer: LuaObject) -> LuaObject:
    return obj("nn.Sequential", layer, parallel(layer))


@pytest.mark.parametrize("inner", [BACKWARD, obj("nn.Sequential", BACKWARD), obj("nn.Concat", BACKWARD, dimension=1)])
def test_one_layer_in_places_that_call_different_methods_is_refused(inner: LuaObject, bridge: LuaBridge) -> None:
    with pytest.raises(UnsupportedClassError, match=r"Torch7 calls backward in one .* updateGradInput .*layer:clone\("):
        dpnn_bridge.to_torch(twice(inner), fallback=bridge.convert)


SHARED = parallel(BACKWARD)


@pytest.mark.parametrize("places", [twice(FORWARD), obj("nn.Sequential", SHARED, SHARED), twice(SHARED)])
def test_one_layer_in_places_that_call_the_same_methods_converts(places: LuaObject, bridge: LuaBridge) -> None:
    """The first class has no backward of its own; the second layer runs by updateGradInput in both places."""
    x = torch.ones(2, dtype=torch.float64, requires_grad=True)
    dpnn_bridge.to_torch(places, fallback=bridge.convert)(x).sum().backward()
    expected = (1 - x.tanh() ** 2) * (1 - x.tanh().tanh() ** 2) if places["modules"][1] is FORWARD else 1.0
    torch.testing.assert_close(x.grad, torch.ones_like(x) * expected)


def replaced(bridge: LuaBridge, method: str, model: LuaObject) -> torch.nn.Module:
    bridge.execute(f"function nn.{method} end")
    return dpnn_bridge.to_torch(obj("nn.Sequential", model), fallback=bridge.convert, overrides=bridge.defines)


def test_a_replaced_evaluate_runs(bridge: LuaBridge) -> None:
    """Dropout of Monte Carlo estimates."""
    dropout = obj("nn.Dropout", p=0.5, v2=True, train=True, inplace=False)
    model = replaced(bridge, "Dropout:evaluate()", dropout).train().eval()
    x = torch.ones(100, dtype=torch.float64)
    assert {0.0, 2.0} == set(model(x).tolist())


@pytest.mark.parametrize("name", ["BatchNormalization", "SpatialBatchNormalization"])
def test_a_replaced_training_runs(name: str, bridge: LuaBridge) -> None:
    """Frozen statistics; the second class inherits the method in Torch7."""
    running = {"running_mean": LuaTensor.from_numpy(np.ones(2)), "running_var": LuaTensor.from_numpy(np.ones(2))}
    norm = obj(f"nn.{name}", eps=0.0, momentum=0.1, affine=False, **running)
    model = replaced(bridge, "BatchNormalization:training() self.train = false", norm).train()
    x = torch.full((3, 2, 1, 1) if "Spatial" in name else (3, 2), 5.0, dtype=torch.float64)
    torch.testing.assert_close(model(x), x - 1)


LINEAR = {
    name: LuaTensor.from_numpy(np.full(shape, value))
    for name, value, shape in (
        *(("weight", 1.0, (1, 2)), ("bias", 1.0, 1)),
        *(("gradWeight", 0.0, (1, 2)), ("gradBias", 0.0, 1)),
    )
}


def test_replaced_parameters_are_those_that_train(bridge: LuaBridge) -> None:
    """A fixed bias."""
    model = replaced(bridge, "Linear:parameters() return {self.weight}, {self.gradWeight}", obj("nn.Linear", **LINEAR))
    assert [name for name, _ in model.named_parameters()] == ["0.weight"]
    assert sorted(model.state_dict()) == ["0.bias", "0.weight"]


@pytest.mark.parametrize("in_sequence", [False, True])
def test_a_mask_hides_the_gradient_from_update_grad_input_only(in_sequence: bool, bridge: LuaBridge) -> None:
    layer = obj("my.Stored", **LINEAR)
    inner = obj("nn.Sequential", obj("nn.Identity"), layer) if in_sequence else layer
    model = dpnn_bridge.to_torch(obj("nn.MaskZero", inner, nInputDim=1), fallback=bridge.convert)
    x = torch.tensor([[1.0, 2.0], [0.0, 0.0], [3.0, 4.0]], dtype=torch.float64, requires_grad=True)
    model(x).sum().backward()
    gradients = {name.rpartition(".")[2]: p.grad.unique().tolist() for name, p in model.named_parameters()}  # type: ignore[union-attr]
    assert gradients == {"weight": [2], "bias": [3]}
    assert x.grad is not None
    assert x.grad.tolist() == [[1, 1], [0, 0], [1, 1]]


def test_a_copy_of_a_layer_that_ran_has_its_buffers(bridge: LuaBridge) -> None:
    layer = dpnn_bridge.to_torch(obj("my.Stored", **LINEAR), fallback=bridge.convert)
    layer(torch.ones(1, 2).double()).sum().backward()
    copied = copy.deepcopy(layer)
    copied.load_state_dict(layer.state_dict())
    copied(torch.ones(1, 2).double()).sum().backward()
    assert copied.state_dict().keys() == layer.state_dict().keys()


def test_a_loss_in_lua_inside_a_subclass_of_another_needs_the_sources(bridge: LuaBridge) -> None:
    bridge.execute("torch.class('my.Sum', 'nn.MultiCriterion')")
    loss = dpnn_bridge.to_torch(losses("my.Sum"), fallback=bridge.convert)
    with pytest.raises(
        LuaBridgeError, match=r"criterions\[1\] \(my.Loss\) runs in Lua and nn.MultiCriterion in PyTorch"
    ):
        loss(torch.ones(2).double(), torch.zeros(2).double())
