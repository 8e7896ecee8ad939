"""Converted layers that overwrite their input, in containers that are written in Lua: Torch7's values."""

from __future__ import annotations

import pytest

from dpnn_bridge.conversion.lua_values import fresh
from dpnn_bridge.lua import LuaBridge
from dpnn_bridge.objects import LuaObject

RESIDUAL = """
require 'nn'
test = {}
local Residual, parent = torch.class('test.Residual', 'nn.Sequential')
function Residual:updateOutput(x)
   self.output = parent.updateOutput(self, x) + x
   return self.output
end
function Residual:updateGradInput(x, gradOutput)
   self.gradInput = parent.updateGradInput(self, x, gradOutput) + gradOutput
   return self.gradInput
end
"""


def layer(name: str, **fields: object) -> LuaObject:
    return fresh(f"nn.{name}", "torch.DoubleTensor", inplace=True, train=True, **fields)


#: layer; for the input (-1, 2) and the gradient (1, 1), output and gradInput of the residual block, and the input then
CASES = [
    (layer("ReLU", threshold=0, val=0), [0, 4], [0, 2], [0, 2]),
    (layer("LeakyReLU", negval=0.5), [-1, 4], [1, 2], [-0.5, 2]),
    (layer("HardTanh", min_val=-1.5, max_val=1), [-2, 2], [2, 0], [-1, 1]),
    (layer("MulConstant", constant_scalar=3), [-6, 12], [6, 6], [-1, 2]),
    (layer("AddConstant", constant_scalar=3), [4, 10], [2, 2], [-1, 2]),
]


@pytest.mark.parametrize(("module", "output", "gradient", "left"), CASES)
def test_a_container_in_lua_reads_what_the_layer_has_overwritten(
    module: LuaObject, output: list[float], gradient: list[float], left: list[float]
) -> None:
    bridge = LuaBridge()
    bridge.execute(RESIDUAL)
    found = bridge.execute(
        """
        local block, x, gradOutput = test.Residual():add((...)), torch.Tensor {-1, 2}, torch.ones(2)
        local output = block:forward(x):clone()
        return output, block:updateGradInput(x, gradOutput), x
        """,
        module,
    )
    assert [t.tolist() for t in found] == [output, gradient, left]


def test_the_sum_of_a_table_overwrites_its_first_element() -> None:
    bridge = LuaBridge()
    found = bridge.execute(
        "require 'nn' local m, x = ..., {torch.ones(2), torch.ones(2)} m:forward(x) return x[1], x[2]",
        layer("CAddTable"),
    )
    assert [t.tolist() for t in found] == [[2, 2], [1, 1]]


@pytest.mark.parametrize(
    "module",
    [
        layer("ELU", alpha=1),
        layer("Threshold", threshold=0.5, val=-0.5),
        layer("ReLU6"),
        layer("Clamp", min_val=-1, max_val=1),
        layer("Dropout", p=0.5, v2=True, stochastic_inference=False),
        layer("RReLU", lower=0.1, upper=0.4),
    ],
)
def test_the_input_becomes_the_output(module: LuaObject) -> None:
    code = "require 'nn' local m, x = ..., torch.Tensor {-2, 0.25, 7} local y = m:forward(x) return x:equal(y), x[1]"
    same, first = LuaBridge().execute(code, module)
    assert (same, first == -2) == (True, False)


def test_layers_in_place_share_one_memory() -> None:
    code = """
    require 'nn'
    local x, net = torch.Tensor {-2, 1}, nn.Sequential():add(nn.ReLU(true)):add(nn.MulConstant(3, true))
    net:forward(x)
    return x
    """
    assert LuaBridge().execute(code).tolist() == [0, 3]


@pytest.mark.parametrize("inplace", [False, True])
def test_gradients_have_the_random_slopes_of_the_forward_pass(inplace: bool) -> None:
    """It ran again, because the input had changed, with other slopes."""
    code = """
    require 'nn'
    local net, x = nn.Sequential():add((...)), torch.Tensor(20):fill(-1)
    local y = net:forward(x):clone()
    return y, net:backward(x, torch.ones(20))
    """
    module = fresh("nn.RReLU", "torch.DoubleTensor", inplace=inplace, train=True, lower=0.1, upper=0.4)
    output, gradient = LuaBridge().execute(code, module)
    assert gradient.tolist() == [-y for y in output.tolist()]
