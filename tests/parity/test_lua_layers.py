"""Verify models with layers in Lua that return another tensor than their field, or write into their input."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("lupa")

import dpnn_bridge
from dpnn_bridge.compare.verdict import Verdict
from dpnn_bridge.conversion.lua_values import lua_value
from dpnn_bridge.lua import LuaBridge
from dpnn_bridge.objects import LuaObject, LuaTable

LAYERS = {
    "another tensor": "parent.updateOutput(self, x); self.other = self.output * -3; return self.other",
    "its input": "x:mul(-1); x:add(0.5); self.output:resizeAs(x):copy(x):abs(); return self.output",
}
#: a model and a run, as a script saves them
SCRIPT = """
require 'nn'
local x = torch.Tensor(3, 4):uniform(-1, 1)
local function copy(v) return torch.deserialize(torch.serialize(v)) end
local layer = my.Layer()
local net = nn.Sequential():add(nn.Linear(4, 4)):add(layer):add(nn.Linear(4, 2))
local fresh, input = copy(net), x:clone()
local output = net:forward(input)
return fresh, {input = x, output = output:clone(), after = copy(net), mode = 'train'}
"""


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("changed", [False, True])
def test_a_run_is_equal_and_a_changed_weight_is_found(kind: str, changed: bool, tmp_path: Path) -> None:
    source = f"""
        require 'nn'
        my = my or {{}}
        local class, parent = torch.class('my.Layer', 'nn.Tanh')
        function class:updateOutput(x) {LAYERS[kind]} end
    """
    (tmp_path / "layer.lua").write_text(source)
    bridge = LuaBridge.from_files([tmp_path / "layer.lua"])
    fresh, reference = (bridge.to_object(value) for value in bridge.execute(SCRIPT))
    if changed:
        fresh["modules"][3]["weight"].numpy()[0, 1] += 1e-3
    dpnn_bridge.write_t7(tmp_path / "m.t7", fresh)
    dpnn_bridge.write_t7(tmp_path / "r.t7", reference)
    result = dpnn_bridge.verify(tmp_path / "m.t7", reference=tmp_path / "r.t7", lua=tmp_path / "layer.lua")
    assert result.forward.value == ("different" if changed else "equal"), str(result)
    overwritten = {layer.path: layer.overwritten_by for layer in result.layers if layer.overwritten_by}
    assert overwritten == ({"modules[1]": "modules[2]"} if kind == "its input" else {})


def test_a_first_layer_without_a_gradient(tmp_path: Path) -> None:
    source = """
        require 'nn'
        my = my or {}
        local class, parent = torch.class('my.Flip', 'nn.Module')
        function class:updateOutput(x) self.output:set(x); return self.output end
    """
    (tmp_path / "layer.lua").write_text(source)
    bridge = LuaBridge.from_files([tmp_path / "layer.lua"])
    script = """
        require 'nn'
        local net, x = nn.Sequential():add(my.Flip()):add(nn.Linear(4, 2)), torch.Tensor(3, 4):uniform(-1, 1)
        local fresh = torch.deserialize(torch.serialize(net))
        local reference = {mode = 'train', input = x, output = net:forward(x)}
        reference.gradOutput = torch.Tensor(3, 2):fill(0.5)
        net:zeroGradParameters()
        reference.gradInput = net:backward(x, reference.gradOutput)
        reference.gradParams = select(2, net:parameters())
        return fresh, reference
    """
    for value, name in zip(bridge.execute(script), ("m.t7", "r.t7"), strict=True):
        dpnn_bridge.write_t7(tmp_path / name, bridge.to_object(value))
    result = dpnn_bridge.verify(tmp_path / "m.t7", reference=tmp_path / "r.t7", lua=tmp_path / "layer.lua")
    assert (result.forward.value, result.gradients.value) == ("equal", "equal")  # type: ignore[union-attr]


def test_sources_that_refuse_to_run_backward_are_compared_forward(tmp_path: Path) -> None:
    """As ``nn.SpatialDropout`` does in evaluation mode."""
    (tmp_path / "my").mkdir()
    (tmp_path / "my" / "init.lua").write_text("""
        require 'nn'
        my = my or {}
        local Refusing = torch.class('my.Refusing', 'nn.Module')
        function Refusing:updateOutput(x) self.output = x:clone(); return self.output end
        function Refusing:updateGradInput() error('only while training') end
    """)
    dpnn_bridge.write_t7(tmp_path / "m.t7", LuaObject("my.Refusing", LuaTable()))
    lua = [tmp_path / "my" / "init.lua"]
    result = dpnn_bridge.verify(tmp_path / "m.t7", input=torch.ones(2, 3).double(), lua=lua, lua_path=[tmp_path])
    assert result.forward is Verdict.EQUAL
    assert result.gradients is None


@pytest.mark.parametrize("sandbox", [False, True])
@pytest.mark.parametrize("mode", [True, False])
def test_a_layer_in_lua_has_the_mode_of_after(mode: bool, sandbox: bool, tmp_path: Path) -> None:
    """A reference without ``mode``: ``training`` or ``evaluate`` of a layer in Lua runs if its mode differs."""
    source = """
        require 'nn'
        my = my or {}
        local class, parent = torch.class('my.Scale', 'nn.Module')
        function class:training() self.factor, self.train = 3, true end
        function class:evaluate() self.factor, self.train = 1, false end
        function class:updateOutput(x) self.output = x * (self.factor or 7); return self.output end
    """
    (tmp_path / "scale.lua").write_text(source)
    bridge = LuaBridge.from_files([tmp_path / "scale.lua"])
    net = bridge.to_object(bridge.execute("return nn.Sequential():add(nn.Dropout(0)):add(my.Scale())"))
    net["modules"][2].fields.update(train=not mode, factor=1.0 if mode else 3.0)
    x = torch.randn(3, 4)
    dpnn_bridge.write_t7(tmp_path / "m.t7", net)
    net["modules"][2].fields.update(train=mode)
    reference = LuaTable({"input": lua_value(x), "output": lua_value(x * (3 if mode else 1)), "after": net})
    result = dpnn_bridge.verify(tmp_path / "m.t7", reference=reference, lua=tmp_path / "scale.lua", sandbox=sandbox)
    assert [d.verdict for d in result.differences if d.name == "output"] == [Verdict.EQUAL], str(result)
