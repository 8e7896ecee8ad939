"""Layers in Lua that write into the gradients which the method of a converted parent class returns."""

from __future__ import annotations

import pytest
import torch

from dpnn_bridge.lua import LuaBridge

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
