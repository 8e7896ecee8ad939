"""Layers that run in Lua beside others: weights that they share, and methods that classes inherit."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FIXTURES
from torch import nn

pytest.importorskip("lupa")

import dpnn_bridge
from dpnn_bridge.compare.verdict import Verdict
from dpnn_bridge.errors import UnsupportedClassError
from dpnn_bridge.lua import LuaBridge
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor

DOUBLED = """
require 'nn'
my = my or {}
local Doubled, parent = torch.class('my.Doubled', 'nn.Linear')
function Doubled:updateOutput(x) self.output = parent.updateOutput(self, x) * 2; return self.output end
function Doubled:updateGradInput(x, g) return parent.updateGradInput(self, x, g * 2) end
function Doubled:accGradParameters(x, g, s) return parent.accGradParameters(self, x, g * 2, s) end
"""
SHARED = """
local first, last = my.Doubled(3, 3), nn.Linear(3, 3)
local second = first:clone('weight', 'bias', 'gradWeight', 'gradBias')
last:share(first, 'weight', 'gradWeight')
return nn.Sequential():add(first):add(nn.Tanh()):add(second):add(first):add(last)
"""


@pytest.fixture
def bridge() -> LuaBridge:
    bridge = LuaBridge()
    bridge.execute(DOUBLED)
    return bridge


def _loaded(bridge: LuaBridge, code: str, path: Path) -> Any:
    dpnn_bridge.write_t7(path, bridge.to_object(bridge.execute(code)))
    return dpnn_bridge.load(path, lua=bridge)


def _check_shared(model: Any) -> None:
    assert model[0] is model[3]
    assert model[0].weight is model[2].weight is model[4].weight
    assert model[0].bias is model[2].bias is not model[4].bias


@pytest.mark.parametrize("form", ["as_loaded", "copied", "float", ".pt", ".t7"])
def test_layers_in_lua_share_the_weights_that_their_objects_share(bridge: LuaBridge, tmp_path: Path, form: str) -> None:
    model = _loaded(bridge, SHARED, tmp_path / "a.t7")
    if form.startswith("."):
        dpnn_bridge.save(tmp_path / f"b{form}", model)
        model = dpnn_bridge.load(tmp_path / f"b{form}", lua=bridge)
    model = {"copied": copy.deepcopy, "float": lambda m: m.float().double()}.get(form, lambda m: m)(model)
    _check_shared(model)
    weight, bias, own = model[0].weight, model[0].bias, model[4].bias
    w, b, o = (t.detach().clone().requires_grad_() for t in (weight, bias, own))
    x = torch.randn(2, 3, dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(x).square().sum().backward()
    y = nn.functional.linear(x, w, b).mul(2).tanh()
    for _ in range(2):
        y = nn.functional.linear(y, w, b) * 2
    nn.functional.linear(y, w, o).square().sum().backward()
    torch.testing.assert_close([weight.grad, bias.grad, own.grad], [w.grad, b.grad, o.grad])
    optimizer.step()
    torch.testing.assert_close(model[2](x), nn.functional.linear(x, w - 0.1 * w.grad, b - 0.1 * b.grad) * 2)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_layer_in_lua_shares_the_weight_of_a_layer_before_it(bridge: LuaBridge, tmp_path: Path, suffix: str) -> None:
    code = "local a, b = nn.Linear(3, 3), my.Doubled(3, 3) b:share(a, 'weight') return nn.Sequential():add(a):add(b)"
    model = _loaded(bridge, code, tmp_path / "a.t7")
    dpnn_bridge.save(tmp_path / f"a{suffix}", model)
    again = dpnn_bridge.load(tmp_path / f"a{suffix}", lua=bridge)
    assert again[0].weight is again[1].weight
    x = torch.randn(2, 3, dtype=torch.float64)
    for weight in (model[0].weight, again[0].weight):
        weight.data.add_(1)
    assert torch.equal(again(x), model(x))


def test_a_layer_in_lua_that_a_model_uses_twice_is_saved_after_use(bridge: LuaBridge, tmp_path: Path) -> None:
    bridge.execute(
        "local Counted, parent = torch.class('my.Counted', 'my.Doubled') "
        "function Counted:updateOutput(x) "
        "self.count = self.count or torch.ones(1) return parent.updateOutput(self, x) end"
    )
    code = "local a = my.Counted(3, 3) return nn.Sequential():add(a):add(nn.Tanh()):add(a)"
    model = _loaded(bridge, code, tmp_path / "a.t7")
    model(torch.randn(2, 3, dtype=torch.float64))
    dpnn_bridge.save(tmp_path / "a.pt", model)  # which builds a layer with a buffer of two names
    again: Any = dpnn_bridge.load(tmp_path / "a.pt", lua=bridge)
    assert again[0] is again[2]


INHERITED = {  # class, object, what the parent's method is replaced by, input, factor
    "ReLU": ("Threshold", "nn.ReLU()", torch.tensor([[1.0, 2.0]])),
    "Mean": ("Sum", "nn.Mean(2)", torch.tensor([[1.0, 2.0]])),
    "Clamp": ("HardTanh", None, torch.tensor([[1.0, 2.0]])),
    "SpatialBatchNormalization": ("BatchNormalization", None, torch.randn(2, 2, 3, 3)),
}
OBJECTS: dict[str, nn.Module] = {"Clamp": nn.Hardtanh(-0.5, 0.5), "SpatialBatchNormalization": nn.BatchNorm2d(2)}


@pytest.mark.parametrize("name", INHERITED)
def test_a_method_that_a_class_inherits_in_torch7_is_replaced_for_it(name: str, tmp_path: Path) -> None:
    parent, code, x = INHERITED[name]
    x, bridge = x.double().requires_grad_(), LuaBridge()
    path = tmp_path / "a.t7"
    obj = bridge.to_object(bridge.execute(f"require 'nn' return {code}")) if code else dpnn_bridge.to_lua(OBJECTS[name])
    if name == "Clamp":
        obj = type(obj)("nn.Clamp", obj.fields)
    dpnn_bridge.write_t7(path, obj)
    expected = dpnn_bridge.load(path).double()(x)
    patch = f"""
    require 'nn'
    local old = nn.{parent}.updateOutput
    function nn.{parent}:updateOutput(x) self.output = old(self, x) * 3; return self.output end
    """
    bridge.execute(patch, name="patch")
    module = dpnn_bridge.load(path, lua=bridge).double()
    torch.testing.assert_close(module(x), 3 * expected)
    assert bridge.defines(f"nn.{name}")
    assert not bridge.defines("nn.Tanh")


def test_classes_of_nn_sequential_run_by_its_methods_where_they_are_replaced() -> None:
    bridge = LuaBridge()
    layer = nn.Linear(3, 4).double()
    obj = dpnn_bridge.to_lua(nn.Sequential(layer))
    obj = type(obj)("nn.Maxout", obj.fields)
    code = """
    require 'nn'
    local old = nn.Sequential.updateOutput
    function nn.Sequential:updateOutput(x) self.output = old(self, x) * 3; return self.output end
    """
    bridge.execute(code, name="patch")
    assert bridge.defines("nn.Maxout")
    module, x = bridge.convert(obj), torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert module is not None
    torch.testing.assert_close(module(x), 3 * layer(x))
    module(x).sum().backward()
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(2, 3))  # nn.Sequential's, which is not replaced


def test_gradients_inside_that_a_module_does_not_list_start_at_zero(bridge: LuaBridge) -> None:
    bridge.execute(
        """
        local Hidden, parent = torch.class('my.Hidden', 'nn.Container')
        function Hidden:__init() parent.__init(self) self:add(my.Doubled(3, 3)) end
        function Hidden:updateOutput(x) self.output = self.modules[1]:updateOutput(x) return self.output end
        function Hidden:updateGradInput(x, g)
           self.gradInput = self.modules[1]:updateGradInput(x, g)
           return self.gradInput
        end
        function Hidden:accGradParameters(x, g, s)
           self.modules[1]:accGradParameters(x, g, s)
           self.sum = self.sum or torch.zeros(3, 3)
           self.sum:copy(self.modules[1].gradWeight)
        end
        function Hidden:parameters()
           self.sum = self.sum or torch.zeros(3, 3)
           return {self.modules[1].weight}, {self.sum}
        end
        """
    )
    module, x = bridge.module("my.Hidden"), torch.randn(2, 3, dtype=torch.float64)
    gradients = []
    for _ in range(2):
        (weight,) = module.parameters()
        weight.grad = None
        module(x).sum().backward()
        gradients.append(weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_a_built_in_class_around_a_layer_in_lua_says_why_it_cannot_be_built(bridge: LuaBridge, tmp_path: Path) -> None:
    obj = dpnn_bridge.read_t7(FIXTURES / "nn" / "nn.WeightNorm" / "WeightNorm__linear__double_eval.t7")["module"]
    obj["modules"][1] = LuaObject("my.Doubled", obj["modules"][1].fields)
    dpnn_bridge.write_t7(tmp_path / "a.t7", obj)
    with pytest.raises(UnsupportedClassError, match=r"it contains a module that runs in Lua .* next to the Lua file"):
        dpnn_bridge.load(tmp_path / "a.t7", lua=bridge)


@pytest.mark.parametrize("form", [".pt", ".t7", ".safetensors"])
def test_shared_gradients_stay_shared_in_a_t7_written_from(form: str, bridge: LuaBridge, tmp_path: Path) -> None:
    model = _loaded(bridge, SHARED, tmp_path / "a.t7")
    dpnn_bridge.save(tmp_path / f"b{form}", model)
    dpnn_bridge.write_t7(tmp_path / "c.t7", dpnn_bridge.load(tmp_path / f"b{form}", lua=bridge))
    layers = dpnn_bridge.read_t7(tmp_path / "c.t7")["modules"].as_list()
    first, _, second, again, last = (layer.get("gradWeight") for layer in layers)
    assert first.storage is second.storage is again.storage is last.storage


@pytest.mark.parametrize("form", [".pt", ".t7", ".safetensors"])
def test_gradients_that_layers_do_not_share_stay_apart(form: str, bridge: LuaBridge, tmp_path: Path) -> None:
    script = (
        "local a, b = nn.Linear(3, 3), my.Doubled(3, 3); b:share(a, 'weight'); return nn.Sequential():add(a):add(b)"
    )
    dpnn_bridge.save(tmp_path / f"b{form}", _loaded(bridge, script, tmp_path / "a.t7"))
    model = dpnn_bridge.load(tmp_path / f"b{form}", lua=bridge)
    assert model[0].weight is model[1].weight
    dpnn_bridge.write_t7(tmp_path / "c.t7", model)
    first, second = dpnn_bridge.read_t7(tmp_path / "c.t7")["modules"].as_list()
    assert first["weight"].storage is second["weight"].storage
    assert first["gradWeight"].storage is not second["gradWeight"].storage


DUAL = """
require 'nn'
my = my or {}
local Dual, parent = torch.class('my.Dual', 'nn.Module')  -- two towers that share a weight
function Dual:__init() parent.__init(self); self.weight, self.gradWeight = torch.range(1, 3), torch.zeros(3) end
function Dual:parameters() return {self.weight, self.weight}, {self.gradWeight, self.gradWeight} end
function Dual:updateOutput(x) self.output = torch.cmul(x, self.weight:view(1, 3):expandAs(x)); return self.output end
function Dual:updateGradInput(x, g)
   self.gradInput = torch.cmul(g, self.weight:view(1, 3):expandAs(g))
   return self.gradInput
end
function Dual:accGradParameters(x, g, s) self.gradWeight:add(torch.cmul(x, g):sum(1):view(-1)) end
"""


@pytest.mark.parametrize("error", [0.0, 1e-3])
@pytest.mark.parametrize("inside", [False, True])
def test_a_weight_that_lua_lists_twice_is_compared_twice(inside: bool, error: float, tmp_path: Path) -> None:
    (tmp_path / "dual.lua").write_text(DUAL)
    bridge = LuaBridge()
    bridge.execute(DUAL)
    model = bridge.to_object(bridge.execute("return my.Dual()"))
    if inside:
        model = LuaObject("nn.Sequential", LuaTable({"modules": LuaTable.from_list([model])}))
    dpnn_bridge.write_t7(tmp_path / "m.t7", model)
    x, ones, weight = torch.rand(4, 3).double(), torch.ones(4, 3).double(), torch.arange(1, 4).double()
    results = {"input": x, "output": x * weight, "gradOutput": ones, "gradInput": ones * weight}
    gradients = LuaTable.from_list([LuaTensor.from_numpy((x.sum(0) + e).numpy()) for e in (0, error)])
    table = LuaTable({**{k: LuaTensor.from_numpy(v.numpy()) for k, v in results.items()}, "gradParams": gradients})
    result = dpnn_bridge.verify(tmp_path / "m.t7", reference=table, lua=[tmp_path / "dual.lua"])
    assert result.verdict is (Verdict.DIFFERENT if error else Verdict.EQUAL), result
