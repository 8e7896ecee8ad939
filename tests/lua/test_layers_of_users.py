"""Layers of users that work in Torch7: one calls the kernels of nn, one returns another gradInput than it stores."""

from __future__ import annotations

import pytest
import torch

from dpnn_bridge.lua import LuaBridge

CALL = """
require 'nn'
local x, output = torch.Tensor {{1, 2}, {3, 5}}:type('torch.' .. ... .. 'Tensor'), nil
output = x.new()
x.THNN.SoftMax_updateOutput(x:cdata(), output:cdata())
return output
"""


@pytest.mark.parametrize("name", ["Float", "Double"])
def test_a_layer_calls_kernels(name: str) -> None:
    found = LuaBridge().execute(CALL, name)
    torch.testing.assert_close(found.double(), torch.tensor([[1.0, 2.0], [3.0, 5.0]]).double().softmax(1))


MASKED = """
require 'nn'
my = my or {}
local Masked, parent = torch.class('my.Masked', 'nn.Module')
function Masked:updateOutput(input) self.output:cmul(input[1], input[2]); return self.output end
function Masked:updateGradInput(input, gradOutput)
   self.gradInput:cmul(gradOutput, input[2])
   return {self.gradInput, input[2]:clone():zero()}
end
"""


def test_the_returned_table_is_the_gradient_of_a_table() -> None:
    bridge = LuaBridge()
    bridge.execute(MASKED)
    x, mask = torch.ones(2, 3, dtype=torch.float64, requires_grad=True), torch.eye(2, 3, dtype=torch.float64)
    bridge.module("my.Masked")([x, mask]).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, mask)
