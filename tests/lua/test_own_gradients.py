"""Layers in Lua that write into the gradients which the method of a converted parent class returns."""

from __future__ import annotations

import pytest
import torch

from dpnn_bridge.conversion.lua_values import fresh
from dpnn_bridge.lua import LuaBridge
from dpnn_bridge.objects import LuaTable

#: class -> arguments, input, and the gradients for a gradient of the output that is 1, after the first is times 5
CASES = {
    "CAddTable": ("", "{torch.ones(2), torch.ones(2)}", [[5, 5], [1, 1]]),
    "CSubTable": ("", "{torch.ones(2), torch.ones(2)}", [[5, 5], [-1, -1]]),
    "JoinTable": ("1", "{torch.ones(1), torch.ones(1)}", [[5], [1]]),
    "Sum": ("1", "torch.ones(2, 2)", [[5, 5], [1, 1]]),
}
CODE = """
local Scaled, parent = torch.class('test.Scaled', 'nn.{name}')
function Scaled:updateGradInput(input, gradOutput)
   parent.updateGradInput(self, input, gradOutput)
   self.gradInput[1]:mul(5)
   return self.gradInput
end
local layer, input, gradOutput = test.Scaled({args}), {input}, torch.ones(2)
layer:forward(input)
local gradients = layer:backward(input, gradOutput)
return gradOutput, gradients[1], gradients[2]
"""


@pytest.mark.parametrize("name", CASES)
def test_gradients_have_memory_of_their_own(name: str) -> None:
    args, given, expected = CASES[name]
    bridge = LuaBridge()
    bridge.execute("require 'nn' test = {}")
    gradient, *found = bridge.execute(CODE.format(name=name, args=args, input=given))
    assert torch.equal(gradient, torch.ones(2).double())
    assert [t.tolist() for t in found] == expected


def test_gradients_lie_in_memory_one_after_another() -> None:
    code = """
    local m, x = ..., torch.ones(3, 2)
    m:forward(x)
    local gradient = m:backward(x, torch.ones(2, 3))
    return gradient:isContiguous(), gradient:view(6)
    """
    swap = LuaTable.from_list([LuaTable.from_list([1, 2])])
    contiguous, view = LuaBridge().execute(code, fresh("nn.Transpose", "torch.DoubleTensor", permutations=swap))
    assert (contiguous, view.tolist()) == (True, [1] * 6)


def test_a_changed_output_changes_no_gradient_that_the_input_determines() -> None:
    code = """
    require 'nn'
    local m, x = nn.ReLU(), torch.Tensor {1, 2, -1}
    m:forward(x):zero()
    return m:backward(x, torch.ones(3))
    """
    assert LuaBridge().execute(code).tolist() == [1, 1, 0]


#: layers with a field of their own whose name begins with grad: class -> code and the gradient of the last parameter in
#: Torch7 for the input of :func:`test_gradients_of_a_layers_own_fields_are_those_of_one_step`
OWN_FIELDS = {
    "Scaled": (
        """
        function C:__init() parent.__init(self, 3, 2); self.gradScaled = torch.Tensor() end
        function C:updateGradInput(x, g)
           self.gradScaled:resizeAs(g):mul(g, 2)
           return parent.updateGradInput(self, x, self.gradScaled)
        end
        function C:accGradParameters(x, g, scale)
           parent.accGradParameters(self, x, self.gradScaled, scale)
           self.gradBias:add(scale, self.gradScaled:sum(1))
        end
        """,
        [16, 16],
    ),
    "Gained": (
        """
        function C:__init()
           parent.__init(self, 3, 2)
           self.gain, self.gradGain, self.more = torch.ones(2), torch.zeros(2), {gradGain = torch.ones(2)}
        end
        function C:parameters() return {self.weight, self.gain}, {self.gradWeight, self.gradGain} end
        function C:accGradParameters(x, g, scale)
           self.gradGain:add(scale, g:sum(1))
           parent.accGradParameters(self, x, g, scale)
        end
        """,
        [4, 4],
    ),
}


@pytest.mark.parametrize("name", OWN_FIELDS)
def test_gradients_of_a_layers_own_fields_are_those_of_one_step(name: str) -> None:
    code, expected = OWN_FIELDS[name]
    bridge = LuaBridge()
    bridge.execute(f"require 'nn' test = {{}} local C, parent = torch.class('test.{name}', 'nn.Linear') {code}")
    layer = bridge.module(f"test.{name}")
    for _ in range(3):
        layer.zero_grad()
        layer(torch.ones(4, 3).double()).sum().backward()
        *_, last = layer.parameters()
        assert last.grad is not None
        assert last.grad.tolist() == expected
    more = bridge.call(bridge.execute("return function(m) return m.more and m.more.gradGain end"), layer.lua)
    assert more is None or more.tolist() == [1, 1]
