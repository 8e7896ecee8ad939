"""A Lua layer that puts new tensors into `weight` or `gradWeight`: PyTorch trains the tensors that it has now."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dpnn_bridge import load, write_t7
from dpnn_bridge.lua import LuaBridge
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor

pytestmark = pytest.mark.usefixtures("warm_sandboxes")

LAYERS = """
require 'nn'
my = my or {}
local Scale, parent = torch.class('my.Scale', 'nn.Module')
function Scale:__init(n)
   parent.__init(self)
   self.weight, self.gradWeight = torch.range(1, n), torch.zeros(n)
end
function Scale:updateOutput(x) self.output = torch.cmul(x, self.weight:view(1, -1):expandAs(x)); return self.output end
function Scale:updateGradInput(x, g)
   self.gradInput = torch.cmul(g, self.weight:view(1, -1):expandAs(g))
   return self.gradInput
end
function Scale:accGradParameters(x, g, scale)
   self.gradWeight = self.gradWeight + torch.cmul(x, g):sum(1):view(-1) * scale
end

local Unit, scale = torch.class('my.Unit', 'my.Scale')  -- a new weight in each forward pass
function Unit:updateOutput(x) self.weight = self.weight / self.weight:norm(); return scale.updateOutput(self, x) end

local Late = torch.class('my.Late', 'my.Scale')  -- a new weight in each backward pass
function Late:accGradParameters(x, g, s) self.weight = self.weight * 0.5; scale.accGradParameters(self, x, g, s) end

local Twice = torch.class('my.Twice', 'nn.Sequential')  -- a container of them in Lua, with a shared weight
function Twice:__init(n)
   nn.Sequential.__init(self)
   self:add(my.Scale(n)):add(my.Scale(n)):get(2).weight:set(self:get(1).weight)
end

local Swapped = torch.class('my.Swapped', 'my.Scale')  -- evaluates with another weight
function Swapped:__init(n) scale.__init(self, n); self.mean = torch.ones(n) end
function Swapped:evaluate()
   if self.train ~= false then self.weight, self.mean = self.mean, self.weight end
   self.train = false
end

local Fewer = torch.class('my.Fewer', 'my.Scale')  -- loses its parameter
function Fewer:accGradParameters(x, g, s) self.weight, self.gradWeight = nil, nil end
"""


@pytest.fixture(params=["in this process", "sandbox"])
def bridge(request: pytest.FixtureRequest) -> Iterator[LuaBridge]:
    if request.param == "sandbox" and sys.platform != "linux":
        pytest.skip("the sandbox needs Linux")
    bridge = LuaBridge(sandbox="partial" if request.param == "sandbox" else False)
    bridge.execute(LAYERS)
    yield bridge
    if bridge.sandboxed:
        bridge.close()  # type: ignore[attr-defined]


class Scale(nn.Module):
    """What the layers compute."""

    def __init__(self, normalized: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(1.0, 4.0, dtype=torch.float64))
        self.normalized = normalized

    def forward(self, x: Tensor) -> Tensor:
        if self.normalized:
            self.weight.data = self.weight.data / self.weight.data.norm()
        return x * self.weight


def trained(module: nn.Module, *, zero: bool = True) -> list[Tensor]:
    """Train; return all outputs and gradients, and the weight."""
    optimizer = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(4):
        x = torch.randn(5, 3, dtype=torch.float64, generator=generator, requires_grad=True)
        if zero:
            optimizer.zero_grad()
        output = module(x)
        output.square().sum().backward()
        (weight,) = module.parameters()
        assert x.grad is not None
        assert weight.grad is not None
        found += [output.detach().clone(), x.grad, weight.grad.clone(), weight.detach().clone()]
        optimizer.step()
    return found


@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize(("name", "normalized"), [("my.Scale", False), ("my.Unit", True)])
def test_training_is_pytorchs(bridge: LuaBridge, name: str, normalized: bool, zero: bool) -> None:
    layer = bridge.module(name, 3)
    parameter = layer.weight
    torch.testing.assert_close(trained(layer, zero=zero), trained(Scale(normalized), zero=zero))
    assert layer.weight is parameter
    torch.testing.assert_close(layer.obj["weight"].torch(), parameter.detach())


def test_gradients_of_a_shared_weight_are_added(bridge: LuaBridge) -> None:
    shared = Scale()
    torch.testing.assert_close(trained(bridge.module("my.Twice", 3)), trained(nn.Sequential(shared, shared)))


def test_a_weight_of_the_backward_pass_is_followed(bridge: LuaBridge) -> None:
    layer = bridge.module("my.Late", 3)
    layer(torch.ones(1, 3, dtype=torch.float64)).sum().backward()
    assert layer.weight.tolist() == [0.5, 1, 1.5]
    layer.load_state_dict({"weight": torch.tensor([2.0, 3, 4])})
    assert layer(torch.ones(1, 3, dtype=torch.float64)).tolist() == [[2, 3, 4]]


def test_a_weight_of_evaluation_is_followed(bridge: LuaBridge) -> None:
    layer = bridge.module("my.Swapped", 3)
    with torch.no_grad():
        layer.weight.mul_(2)
    layer.eval()
    assert {name: t.tolist() for name, t in layer.state_dict().items()} == {"weight": [1, 1, 1], "mean": [2, 4, 6]}
    layer.load_state_dict({"weight": torch.full((3,), 5.0), "mean": torch.zeros(3)})
    assert layer(torch.ones(1, 3, dtype=torch.float64)).tolist() == [[5, 5, 5]]


def test_a_layer_that_loses_a_parameter_is_named(bridge: LuaBridge) -> None:
    layer = bridge.module("my.Fewer", 3)
    output = layer(torch.ones(1, 3, dtype=torch.float64))
    with pytest.raises(Exception, match=r"my\.Fewer has 0 parameters after its backward pass, and had 1"):
        output.sum().backward()


def test_a_layer_that_shares_the_weight_keeps_it(bridge: LuaBridge, tmp_path: Path) -> None:
    """A new tensor in one of two layers ends the sharing, as in Torch7."""
    script = "local a, b = my.Unit(3), my.Scale(3); b.weight:set(a.weight)"
    first, second = (bridge.to_object(bridge.execute(f"{script}; return {name}")) for name in "ab")
    second["weight"] = first["weight"]
    write_t7(
        tmp_path / "model.t7", LuaObject("nn.Sequential", LuaTable({"modules": LuaTable.from_list([first, second])}))
    )
    model = load(tmp_path / "model.t7", lua=bridge)
    assert model[0].weight is model[1].weight
    weight = torch.tensor([1.0, 2, 3], dtype=torch.float64)
    for _ in range(2):
        output = model(torch.ones(1, 3, dtype=torch.float64))
        torch.testing.assert_close(output[0], weight / weight.norm() * weight)
    assert model[1].weight.tolist() == [1, 2, 3]


@pytest.mark.parametrize("sandbox", [False, True])
def test_a_copy_whose_weight_becomes_an_integer(sandbox: bool, tmp_path: Path) -> None:
    source = """
        require 'nn'
        local L, parent = torch.class('my.Whole', 'nn.Module')
        local reads = 0
        function L:updateOutput(x) self.output = x * 1; return self.output end
        function L:read(file)
           for k, v in pairs(file:readObject()) do self[k] = v end
           reads = reads + 1
           if reads > 1 then self.weight = self.weight:long() end
        end
    """
    (tmp_path / "whole.lua").write_text("my = {}" + source)
    ones = LuaTensor.from_numpy(torch.ones(2).numpy())
    write_t7(tmp_path / "m.t7", LuaObject("my.Whole", LuaTable({"weight": ones, "gradWeight": ones})))
    module = load(tmp_path / "m.t7", lua=tmp_path / "whole.lua", sandbox=sandbox)
    copied = copy.deepcopy(module)
    assert [p.dtype for p in copied.parameters()] == [torch.int64]
    assert [p.requires_grad for p in module.parameters()] == [True]
