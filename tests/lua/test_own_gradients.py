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
