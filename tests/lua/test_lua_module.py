"""Lua layers as PyTorch modules."""

from __future__ import annotations

import pickle
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("lupa")

import dpnn_bridge
from dpnn_bridge.errors import LuaBridgeError, OptionError
from dpnn_bridge.lua import LuaBridge
from dpnn_bridge.lua.module import LuaCriterion, LuaModule
from dpnn_bridge.objects import LuaObject
from dpnn_bridge.outputs.container import pack

EXAMPLE = Path(__file__).parents[2] / "examples" / "scaled_power.lua"


@pytest.fixture
def bridge() -> LuaBridge:
    return LuaBridge.from_files([EXAMPLE])


def _input(*size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(*size, dtype=torch.float64, generator=generator).requires_grad_()


def test_a_layer_of_ones_own_matches_its_formula(bridge: LuaBridge) -> None:
    layer, x = bridge.module("nn.ScaledPower", 3, 2), _input(5, 3)
    layer.weight.data.copy_(torch.tensor([1.0, 2.0, -0.5]))
    assert torch.equal(layer(x), layer.weight * x.sign() * x**2)


def test_its_gradients_are_right(bridge: LuaBridge) -> None:
    layer, x = bridge.module("nn.ScaledPower", 3, 3), _input(4, 3)
    assert torch.autograd.gradcheck(layer, (x,))
    layer(x).sum().backward()
    assert torch.allclose(layer.weight.grad, (x.sign() * x.abs() ** 3).sum(0))


def test_parameters_are_lua_tensors(bridge: LuaBridge) -> None:
    layer = bridge.module("nn.ScaledPower", 2)
    with torch.no_grad():
        layer.weight.fill_(4)
    assert bridge.to_python(layer.lua["weight"]).tolist() == [4, 4]
    layer.load_state_dict({"weight": torch.tensor([1.0, 7.0], dtype=torch.float64)})
    assert bridge.execute("return (...).weight[2]", layer.lua) == 7


def test_it_trains_among_layers_of_pytorch(bridge: LuaBridge) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 3), bridge.module("nn.ScaledPower", 3, 2), nn.Linear(3, 1)).double()
    loss, optimizer = bridge.criterion("nn.MSECriterion"), torch.optim.Adam(net.parameters(), 0.02)
    x = _input(64, 3).detach()
    target, losses = (x**2).sum(1, keepdim=True), []
    for _ in range(150):
        optimizer.zero_grad()
        losses.append(loss(net(x), target))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1].item() < 0.2 * losses[0].item()


@pytest.mark.parametrize("suffix", ["t7", "pt"])
def test_it_is_written_and_loaded_again(bridge: LuaBridge, tmp_path: Path, suffix: str) -> None:
    layer, x = bridge.module("nn.ScaledPower", 3, 2), _input(5, 3).detach()
    layer.weight.data.uniform_(1, 2)
    path = tmp_path / f"layer.{suffix}"
    (dpnn_bridge.write_t7 if suffix == "t7" else dpnn_bridge.save)(path, layer)
    again = dpnn_bridge.load(path, lua=bridge)
    assert again.class_name == "nn.ScaledPower"
    assert torch.equal(again(x), layer(x))


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_its_frozen_parameters_stay_frozen(bridge: LuaBridge, tmp_path: Path, suffix: str) -> None:
    model = nn.Sequential(nn.Linear(3, 3), bridge.module("nn.ScaledPower", 3, 2)).double()
    model[1].weight.requires_grad_(False)
    model[0].bias.requires_grad_(False)
    dpnn_bridge.save(tmp_path / f"m.{suffix}", model)
    loaded = dpnn_bridge.load(tmp_path / f"m.{suffix}", lua=bridge)
    flags = ({name: p.requires_grad for name, p in m.named_parameters()} for m in (model, loaded))
    assert next(flags) == next(flags)


def test_what_is_written_does_not_depend_on_the_order_of_pairs() -> None:
    """The order of ``pairs`` is another in every process; here it is that in which the fields were set."""
    contents = []
    for order in (1, -1):
        bridge = LuaBridge()
        made = bridge.execute(
            """
            require 'nn'
            local order = ...
            local Kept, parent = torch.class('nn.Kept', 'nn.Module')
            local shared, names = torch.ones(2), {}
            for i = 1, 40 do names[i] = 'field' .. i end
            local keys = {names, names[1], true, 2.5}
            local kept = nn.Kept()
            kept.kept = {}
            for i = order == 1 and 1 or 40, order == 1 and 40 or 1, order do
               kept[names[i]] = torch.Tensor(2):fill(i)
               kept.kept[names[i]] = {i}
            end
            for i = order == 1 and 1 or 4, order == 1 and 4 or 1, order do kept.kept[keys[i]] = i end
            for _, name in ipairs(order == 1 and {'weight', 'alias'} or {'alias', 'weight'}) do kept[name] = shared end
            kept.gradWeight = torch.zeros(2)
            return kept
            """,
            order,
        )
        contents.append(pack(bridge.wrap(made)))
    one, other = contents
    assert one["graph"] == other["graph"]
    assert list(one["state_dict"]) == list(other["state_dict"])
    assert [c.tolist() for c in one["constants"]] == [c.tolist() for c in other["constants"]]


def test_a_file_with_a_class_that_only_lua_knows_converts(bridge: LuaBridge, tmp_path: Path) -> None:
    net = bridge.execute("return nn.Sequential():add(nn.Linear(3, 4)):add(nn.ScaledPower(4, 2)):add(nn.Tanh())")
    path, x = tmp_path / "net.t7", _input(2, 3).detach()
    dpnn_bridge.write_t7(path, bridge.to_object(net))
    model = dpnn_bridge.load(path, lua=bridge)
    assert [type(m).__name__ for m in model.children()] == ["Linear", "LuaModule", "Tanh"]
    assert torch.allclose(model(x), bridge.wrap(net)(x), rtol=1e-12)


def test_training_and_evaluation_reach_lua(bridge: LuaBridge) -> None:
    layer = bridge.wrap(bridge.execute("return nn.Sequential():add(nn.Dropout(0.5))"))
    x = torch.ones(1000, dtype=torch.float64)
    assert 0 < (layer(x) == 0).sum() < 1000
    assert torch.equal(layer.eval()(x), x)


def test_tables_go_in_and_out(bridge: LuaBridge) -> None:
    layer = bridge.wrap(bridge.execute("return nn.ParallelTable():add(nn.Linear(3, 2)):add(nn.Tanh())"))
    a, b = _input(4, 3), _input(4, 5)
    first, second = layer([a, b])
    (first.sum() + second.sum()).backward()
    assert torch.allclose(b.grad, 1 - torch.tanh(b.detach()) ** 2)
    assert torch.allclose(a.grad, layer.modules_1_weight.sum(0).expand(4, 3))


def test_two_forwards_before_a_backward_give_the_right_gradient(bridge: LuaBridge) -> None:
    layer, x, y = bridge.module("nn.ScaledPower", 3, 2), _input(2, 3), torch.ones(7, 3, dtype=torch.float64)
    out = layer(x)
    layer(y)
    out.sum().backward()
    assert torch.allclose(x.grad, 2 * x.detach().abs())


def test_outputs_that_lua_overwrites_are_compared_as_they_were(bridge: LuaBridge) -> None:
    bridge.execute(
        """
        local Count = torch.class('nn.Count', 'nn.Module')
        function Count:updateOutput(x)
           self.count = (self.count or 0) + 1
           self.output:resizeAs(x):copy(x):mul(self.count)
           return self.output
        end
        """
    )
    layer, x = bridge.module("nn.Count"), _input(2, 3)
    out = layer(x)
    layer(x)
    with pytest.raises(LuaBridgeError, match="ran forward again before this backward pass"):
        out.sum().backward()


def test_lua_collects_while_python_passes_many_small_tensors(bridge: LuaBridge) -> None:
    """All memory that Python has too is looked at before each call."""
    bridge.execute("collectgarbage('stop')")
    try:
        for _ in range(500):
            bridge.execute("return ...", torch.ones(2))
        assert len(bridge._runtime.shared._blocks) < 200
    finally:
        bridge.execute("collectgarbage('restart')")


def test_a_forward_that_cannot_be_repeated_is_refused(bridge: LuaBridge) -> None:
    layer, x = bridge.module("nn.Dropout", 0.5), _input(50)
    out = layer(x)
    layer(x)
    with pytest.raises(LuaBridgeError, match="ran forward again before this backward pass"):
        out.sum().backward()


def test_gradients_of_gradients_are_refused(bridge: LuaBridge) -> None:
    x = _input(2, 3)
    with pytest.raises(LuaBridgeError, match="cannot differentiate again"):
        torch.autograd.grad(bridge.module("nn.ScaledPower", 3)(x).sum(), x, create_graph=True)


def test_float_changes_the_type_in_lua(bridge: LuaBridge) -> None:
    layer = bridge.module("nn.ScaledPower", 3).float()
    assert bridge.type_of(layer.lua["weight"]) == "torch.FloatTensor"
    assert layer(torch.ones(1, 3)).dtype == torch.float32
    with pytest.raises(LuaBridgeError, match="float or double"):
        layer.half()


def test_errors_inside_a_layer_say_where(bridge: LuaBridge) -> None:
    net = bridge.wrap(bridge.execute("return nn.Sequential():add(nn.Tanh()):add(nn.ScaledPower(3))"))
    with pytest.raises(LuaBridgeError, match=r"In 2 module of nn.Sequential:\n.*scaled_power.lua:\d+"):
        net(torch.ones(2, 5, dtype=torch.float64))


def test_registered_classes_run_in_lua_through_their_converted_modules(bridge: LuaBridge) -> None:
    worst = bridge.execute(
        """
        local net, c = nn.Sequential():add(nn.Linear(3, 4)):add(nn.Sigmoid()):add(nn.Linear(4, 2)), nn.MSECriterion()
        local x, t = torch.randn(5, 3), torch.randn(5, 2)
        local p, g = net:getParameters()
        g:zero()
        c:forward(net:forward(x), t)
        net:backward(x, c:backward(net.output, t))
        local worst = 0
        for i = 1, p:nElement() do
           local old = p[i]
           p[i] = old + 1e-5; local up = c:forward(net:forward(x), t)
           p[i] = old - 1e-5; local down = c:forward(net:forward(x), t)
           p[i] = old
           worst = math.max(worst, math.abs((up - down) / 2e-5 - g[i]))
        end
        return worst
        """
    )
    assert worst < 1e-8


def test_a_class_nobody_knows_names_the_way_on(bridge: LuaBridge) -> None:
    with pytest.raises(LuaBridgeError, match=r"no Lua class is called nn\.Unheard"):
        bridge.module("nn.Unheard")
    with pytest.raises(LuaBridgeError, match="pass lua_path"):
        bridge.execute("return nn.SpatialConvolution(1, 2, 3, 3)")


TABLES = """
    local Scale, parent = torch.class('nn.ScaleOf', 'nn.Module')
    function Scale:__init()
       parent.__init(self)
       self.seen = torch.zeros(1)
    end
    function Scale:updateOutput(input)
       self.seen:add(1)
       self.output = {scaled = torch.mul(input.x, input.by), by = input.by}
       return self.output
    end
    function Scale:updateGradInput(input, gradOutput)
       self.gradInput = {x = torch.mul(gradOutput.scaled, input.by)}
       return self.gradInput
    end
"""


def test_named_values_and_numbers_go_in_and_out(bridge: LuaBridge) -> None:
    bridge.execute(TABLES)
    layer, x = bridge.module("nn.ScaleOf"), _input(2, 3)
    result = layer({"x": x, "by": 3})
    assert result["by"] == 3
    assert torch.equal(result["scaled"], 3 * x)
    result["scaled"].sum().backward()
    assert torch.equal(x.grad, torch.full_like(x, 3))


def test_a_repeated_forward_leaves_buffers_as_they_are(bridge: LuaBridge) -> None:
    """``seen`` counts the two forwards of the user, not the one that the backward of the first needs."""
    bridge.execute(TABLES)
    layer = bridge.module("nn.ScaleOf")
    first = layer({"x": _input(2, 3), "by": 3})["scaled"]
    layer({"x": _input(2, 3), "by": 3})
    first.sum().backward()
    assert layer.seen.item() == 2
    assert bridge.execute("return (...).seen[1]", layer.lua) == 2


def test_buffers_follow_the_type(bridge: LuaBridge) -> None:
    bridge.execute(TABLES)
    layer = bridge.module("nn.ScaleOf").float()
    assert layer.seen.dtype == torch.float32
    assert "seen" in layer.state_dict()


def test_parameters_of_equal_names_are_told_apart(bridge: LuaBridge) -> None:
    code = """
        local m = nn.ScaledPower(2)
        m['weight.1'], m.weight_1 = torch.ones(1), torch.zeros(1)
        function m:parameters() return {m['weight.1'], m.weight_1, torch.ones(3)}, {} end
        return m
    """
    names = dict(bridge.wrap(bridge.execute(code)).named_parameters())
    assert {name: len(p) for name, p in names.items()} == {"weight_1": 1, "weight_1_": 1, "parameter3": 3}


def test_what_a_lua_layer_cannot_do_is_said(bridge: LuaBridge) -> None:
    layer = bridge.module("nn.ScaledPower", 3)
    assert repr(layer) == "LuaModule(nn.ScaledPower, in luajit21)"
    assert "nn.MSECriterion, in" in repr(bridge.criterion("nn.MSECriterion"))
    with pytest.raises(LuaBridgeError, match="save its state_dict"):
        pickle.dumps(layer)
    with pytest.raises(LuaBridgeError, match="runs in Lua on the CPU"):
        layer.to("meta")


def test_only_modules_of_known_classes_are_converted(bridge: LuaBridge) -> None:
    bridge.execute("torch.class('NotAModule')")
    assert bridge.convert(LuaObject("NotAModule")) is None
    assert bridge.convert(LuaObject("nn.Unheard")) is None


@pytest.mark.parametrize(
    ("state", "names"),
    [
        (
            (["forward", "_parameters", ""], [torch.ones(2)] * 3, [1, 2, 3], []),
            ["forward_", "_parameters_", "_"],
        ),
        ((["weight"], [torch.ones(2, dtype=torch.int64)], [1, 1.0], [("", torch.ones(1))]), ["weight"]),
        ((["weight"], [], [], []), None),
        (None, None),
        (([1], [torch.ones(2)], [1], []), None),
        ((["weight"], [torch.ones(2)], [2], []), None),
        ((["weight"], [torch.ones(2)], "x", []), None),
    ],
)
def test_any_state_is_a_module_or_one_error(state: Any, names: list[str] | None) -> None:
    bridge: Any = types.SimpleNamespace(state_of=lambda obj: state, runtime="lua51", type_of=lambda obj: "nn.X\n")
    if names is None:
        with pytest.raises(LuaBridgeError, match="reading a result of Lua"):
            LuaModule(bridge, None)
        return
    module = LuaModule(bridge, None)
    assert list(module._parameters) == names
    assert repr(module) == "LuaModule(nn.X\\n, in lua51)"


@pytest.mark.parametrize("answer", [None, 5])
def test_any_gradient_is_one_error(answer: Any) -> None:
    bridge: Any = types.SimpleNamespace(
        state_of=lambda obj: (["weight"], [torch.ones(2)], [1], []),
        copy_to_lua=lambda value: value,
        copy_from_lua=torch.clone,
        type_of=lambda obj: "nn.X",
        followed=lambda obj, fields, tensors: {},
        forward=lambda obj, method, input, tensors: torch.ones(2),
        backward=lambda obj, method, tensors, *values: answer,
        method=lambda obj, name, *args: 1.0 if name == "forward" else answer,
    )
    output = LuaModule(bridge, None)(torch.ones(2))
    with pytest.raises(LuaBridgeError, match="reading a result of Lua"):
        output.sum().backward()
    x = torch.ones(2, requires_grad=True)
    loss = LuaCriterion(bridge, None)(x, x.detach())
    with pytest.raises(LuaBridgeError, match=r"reading a result of Lua|returned a int as the gradient"):
        loss.backward()


CRITERION = """
require 'nn'
local Half, parent = torch.class('nn.HalfMSE', 'nn.Criterion')
function Half:__init() parent.__init(self); self.mse = nn.MSECriterion() end
function Half:updateOutput(x, y) self.output = 0.5 * self.mse:updateOutput(x, y); return self.output end
function Half:updateGradInput(x, y) self.gradInput = self.mse:updateGradInput(x, y) * 0.5; return self.gradInput end
"""


def test_a_criterion_of_ones_own_is_read_and_written(tmp_path: Path) -> None:
    (tmp_path / "half.lua").write_text(CRITERION)
    criterion = LuaBridge.from_files([tmp_path / "half.lua"]).criterion("nn.HalfMSE")
    x, y = _input(4, 2), torch.ones(4, 2, dtype=torch.float64)
    for suffix in (".t7", ".pt", ".safetensors"):
        dpnn_bridge.save(tmp_path / f"half{suffix}", criterion)
    for suffix in (".t7", ".pt", ".safetensors"):
        loaded = dpnn_bridge.load(tmp_path / f"half{suffix}", lua=tmp_path / "half.lua")
        assert isinstance(loaded, LuaCriterion)
        loss = loaded(x, y)
        assert loss.item() == 0.5 * nn.functional.mse_loss(x, y).item()
        assert torch.allclose(torch.autograd.grad(loss, x)[0], (x - y).detach() / 8)


FORWARD_ONLY = """
require 'nn'
local Twice = torch.class('nn.Twice')
function Twice:__init() self.weight = torch.ones(2) end
function Twice:parameters() return {self.weight}, {self.weight:clone()} end
function Twice:updateOutput(x) return x * 2 end
function Twice:forward(x) return self:updateOutput(x) end
"""


def test_a_layer_of_ones_own_needs_no_gradient(tmp_path: Path) -> None:
    (tmp_path / "twice.lua").write_text(FORWARD_ONLY)
    LuaBridge.from_files([tmp_path / "twice.lua"]).execute("torch.save((...), nn.Twice())", str(tmp_path / "twice.t7"))
    loaded = dpnn_bridge.load(tmp_path / "twice.t7", lua=tmp_path / "twice.lua")
    x = _input(4, 2)
    assert torch.equal(loaded(x), 2 * x)


@pytest.mark.parametrize("options", [{"sandbox": "x"}, {"max_memory": "a"}, {"lua_path": 3}], ids=str)
def test_options_of_a_bridge_have_the_right_types(options: Any) -> None:
    with pytest.raises(OptionError, match=f"Bridge: argument {next(iter(options))}: expected"):
        LuaBridge(**options)
