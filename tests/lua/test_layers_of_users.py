"""Layers of users that work in Torch7: one calls the kernels of nn, one returns another gradInput than it stores."""

from __future__ import annotations

import pytest
import torch

from dpnn_bridge.errors import LuaBridgeError
from dpnn_bridge.lua import LuaBridge
from dpnn_bridge.lua.module import LuaModule

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


CHANGED = {  # Torch7's derivative of the parent, from the input x or from the changed output y
    "ReLU": lambda x, y: (x > 0).double(),
    "LeakyReLU": lambda x, y: 1 - 0.99 * (x <= 0).double(),
    "Abs": lambda x, y: x.sign(),
    "Tanh": lambda x, y: 1 - y * y,
    "Sigmoid": lambda x, y: y * (1 - y),
    "Exp": lambda x, y: y,
    "ELU": lambda x, y: torch.where(y <= 0, y + 1, 1),
    "SoftPlus": lambda x, y: 1 - torch.exp(-y),
    "Sqrt": lambda x, y: 0.5 / y,
}


@pytest.mark.parametrize("parent", CHANGED)
@pytest.mark.parametrize("change", ["self.output:mul(-0.5)", "self.output = self.output * -0.5"])
def test_a_parent_differentiates_the_output_that_a_layer_changed_as_torch7_does(parent: str, change: str) -> None:
    bridge = LuaBridge()
    bridge.execute(f"""
        require 'nn'
        my = my or {{}}
        local class, parent = torch.class('my.Changed', 'nn.{parent}')
        function class:updateOutput(x) parent.updateOutput(self, x); {change}; return self.output end
    """)
    x = torch.linspace(-1.2, 1.3, 6, dtype=torch.float64)
    x = (x.abs() if parent == "Sqrt" else x).requires_grad_()
    output = bridge.module("my.Changed")(x)
    output.backward(torch.arange(1.0, 7, dtype=torch.float64))
    expected = CHANGED[parent](x.detach(), output.detach()) * torch.arange(1.0, 7, dtype=torch.float64)
    torch.testing.assert_close(x.grad, expected, rtol=1e-12, atol=0)


def layer_of(bridge: LuaBridge, parent: str, fields: str) -> LuaModule:
    bridge.execute(f"""
        require 'nn'
        my = my or {{}}
        local class, parent = torch.class('my.Scaled', 'nn.{parent}')
        function class:updateOutput(x) parent.updateOutput(self, x); self.output:mul(2); return self.output end
    """)
    return LuaModule(bridge, bridge.execute(f"local m = torch.factory('my.Scaled')(); {fields}; return m"))


def test_a_gradient_from_an_output_that_only_torch7_has_is_an_error() -> None:
    fields = "m.output, m.gradInput = torch.Tensor(), torch.Tensor()"
    fields += "; m.weight, m.gradWeight = torch.ones(2, 3), torch.zeros(2, 3)"
    layer = layer_of(LuaBridge(), "Cosine", fields)
    output = layer(torch.ones(4, 3, dtype=torch.float64, requires_grad=True))
    with pytest.raises(LuaBridgeError, match="add a checkout of its package to lua_path"):
        output.sum().backward()


@pytest.mark.parametrize("norm", [1, 2])
def test_a_distance_is_differentiated_from_its_changed_output(norm: int) -> None:
    fields = f"m.norm, m.output, m.diff = {norm}, torch.Tensor(1), torch.Tensor()"
    fields += "; m.gradInput = {torch.Tensor(), torch.Tensor()}"
    layer = layer_of(LuaBridge(), "PairwiseDistance", fields)
    x = torch.tensor([[3.0, -4.0]], dtype=torch.float64, requires_grad=True)
    output = layer([x, torch.zeros(1, 2, dtype=torch.float64)])
    output.sum().backward()
    expected = x.detach().sign() if norm == 1 else x.detach() / 10  # Torch7 divides by the output, here 2 * 5
    torch.testing.assert_close(x.grad, expected)
