"""nn without a checkout: its base classes and `nn.utils` do what nn's Lua files do."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("lupa")

from dpnn_bridge.lua import LuaBridge

# ---- nn without a checkout


def test_replace_ends_where_the_new_module_holds_the_old_one(bridge: LuaBridge) -> None:
    code = """
    require 'nn'
    local net = nn.Sequential():add(nn.Linear(2, 2)):add(nn.Tanh())
    net:replace(function(m) return torch.type(m) == 'nn.Linear' and nn.Sequential():add(m):add(nn.ReLU()) or m end)
    return torch.type(net:get(1)), torch.type(net:get(1):get(1)), tostring(net)
    """
    new, inner, text = bridge.execute(code)
    assert (new, inner) == ("nn.Sequential", "nn.Linear")
    assert text.startswith("nn.Sequential {\n  [input -> (1) -> (2) -> output]\n  (1): nn.Sequential {\n")


def test_containers_without_nn(bridge: LuaBridge) -> None:
    code = """
    require 'nn'
    my = {}
    local Add, parent = torch.class('my.Add', 'nn.Module')
    function Add:__init() parent.__init(self) self.weight, self.gradWeight = torch.zeros(2), torch.zeros(2) end
    function Add:updateOutput(input) self.output = torch.add(input, self.weight) return self.output end
    function Add:updateGradInput(input, gradOutput) self.gradInput = gradOutput return gradOutput end
    function Add:accGradParameters(input, gradOutput, scale) self.gradWeight:add(scale, gradOutput) end
    local x, results = torch.ones(2), {}
    for _, net in ipairs {nn.Sequential(), nn.ConcatTable(), nn.ParallelTable()} do
       local add = my.Add()
       net:add(add)
       local tables = torch.type(net) ~= 'nn.Sequential'
       local input, g = torch.type(net) == 'nn.ParallelTable' and {x} or x, tables and {x} or x
       net:forward(input)
       net:backwardUpdate(input, g, 0.5)
       local output, gradient = net(input, g)
       results[#results + 1] = {add.weight[1], add.gradWeight[1], gradient ~= nil}
    end
    local net = nn.Sequential():add(nn.Identity())
    net:forward(x)
    net:clearState()
    local clone = my.Add():share(my.Add(), 'weight')
    net:insert(my.Add(), 1) net:remove(2)
    local holder = {a = torch.ones(2), b = {1}, c = 5}
    nn.utils.clear(holder, {'a', 'b', 'c'})
    local copy = nn.utils.recursiveCopy({torch.Tensor()}, {x, {x}})
    local sum = nn.utils.recursiveAdd(copy, 2, {x, {x}})
    return results, x:nElement(), clone.shared, net:size(), holder.a:nElement() + #holder.b, holder.c == nil,
           sum[2][1][1],
           nn.utils.addSingletonDimension(torch.ones(2, 3), 2):size():totable(),
           nn.utils.contiguousView(nil, torch.ones(2, 3):t(), 6):size(1),
           pcall(net.rethrowErrors, net, net:get(1), 2, 'forward', x)
    """
    results, elements, shared, size, cleared, gone, total, single, view, ok, message = bridge.execute(code)
    assert results == [[-0.5, 1, True]] * 3
    assert (elements, shared, size, cleared, gone) == (2, True, 1, 0, True)
    assert (total, single, view, ok) == (3, [2, 1, 3], 6, False)
    assert "mismatch between moduleIndex" in message


def test_criterions_without_nn_have_torch7s_fields(bridge: LuaBridge) -> None:
    code = "require 'nn' local c = nn.ClassNLLCriterion(nil, false, 3) return c.ignoreIndex, c.output_tensor:size(1)"
    assert bridge.execute(code) == (3, 1)


def test_state_of_modules_in_other_fields(bridge: LuaBridge) -> None:
    code = """
    require 'nn'
    my = {}
    local Holder, parent = torch.class('my.Holder', 'nn.Module')
    function Holder:__init(inner)
       parent.__init(self)
       self.module, self.weight, self.gradWeight = inner, torch.ones(2), torch.zeros(2)
       self.alias = self.weight
    end
    function Holder:updateOutput(input) self.output = input return input end
    local Inner = torch.class('my.Inner', 'nn.Module')
    function Inner:__init() self.running_mean = torch.ones(3) end
    """
    bridge.execute(code)
    module = bridge.module("my.Holder", bridge.execute("return my.Inner()"))
    assert len(dict(module.named_parameters())) == 1  # of two names, one is stored
    assert [name for name, _ in module.named_buffers()] == ["module_running_mean"]
    assert bridge.module("my.Holder", "conv")(torch.ones(2, dtype=torch.float64)).shape == (2,)  # module is no module


#: constructors, and the fields or the error of nn's own
CONSTRUCTED = {
    "nn.Concat(2)": "dimension=2 modules={} outputSize=torch.LongStorage",
    "nn.Parallel(1, 2)": "inputDimension=1 modules={} outputDimension=2",
    "nn.ReLU6(true)": "inplace=true",
    "nn.Mean(1, 2, false)": "dimension=1 nInputDims=2 sizeAverage=true squeeze=true",
    "nn.DistKLDivCriterion(false)": "sizeAverage=true",
    "nn.JoinTable(1)": "dimension=1 gradInput={} size=torch.LongStorage",
    "nn.FlattenTable()": "gradInput={} input_map={} output={}",
    "nn.ConcatTable()": "modules={} output={}",
    "nn.ParallelTable()": "gradInput={} modules={} output={}",
    "nn.Threshold(1, 2, true)": "in-place processing requires value (v) not exceed threshold (th)",
    "nn.Threshold(1, 2, 'x')": "in-place flag must be boolean",
    "nn.HardTanh(3, 1)": "max_val must be larger than min_val",
    "nn.MulConstant()": "input is not scalar!",
    "nn.Dropout(1.5)": "<Dropout> illegal percentage, must be 0 <= p < 1",
    "nn.BCECriterion(torch.ones(2, 2))": "weights input should be 1-D Tensor",
    "nn.Copy('torch.DoubleTensor', 'torch.FloatTensor')": "nn.Copy to another type needs the Lua file of "
    "nn.Copy: pass lua_path with a checkout of nn",
    "nn.Bottle(nn.Linear(2, 2))": "the constructor of nn.Bottle is in its Lua file: pass lua_path, or load "
    "the object from a file",
}


@pytest.mark.parametrize("code", CONSTRUCTED)
def test_constructors_set_what_nn_sets(bridge: LuaBridge, code: str) -> None:
    show = f"""
    require 'nn'
    local ok, m = pcall(function() return {code} end)
    if not ok then return (m:gsub('^.-%d+: ', '')) end
    local parts = {{}}
    for key, value in pairs(m) do
       if not torch.isTensor(value) and key ~= '_type' and key ~= 'output' or type(value) == 'table' then
          local text = type(value) == 'table' and '{{}}' or torch.typename(value) or tostring(value)
          parts[#parts + 1] = key .. '=' .. text
       end
    end
    table.sort(parts)
    return table.concat(parts, ' ')
    """
    assert bridge.execute(show) == CONSTRUCTED[code]


def test_concat_without_nn_concatenates(bridge: LuaBridge) -> None:
    code = "require 'nn' return nn.Concat(2):add(nn.Identity()):add(nn.Tanh()):forward(torch.ones(2, 3)):size(2)"
    assert bridge.execute(code) == 6
