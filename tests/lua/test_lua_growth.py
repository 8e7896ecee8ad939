"""The work of the Lua bridge is linear in the size of the values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("lupa")

from dpnn_bridge.lua import LuaBridge
from dpnn_bridge.lua.ops.order import mode
from dpnn_bridge.lua.ops.reduce import match
from dpnn_bridge.lua.tensor import Tensor


@pytest.fixture(scope="module")
def bridge() -> LuaBridge:
    bridge = LuaBridge()
    bridge.require("nn")
    return bridge


def test_what_a_value_contains_often_is_converted_once(bridge: LuaBridge) -> None:
    inner: Any = [1]
    for _ in range(40):
        inner = [inner, {"again": inner}]
    code = "local t = ... for i = 1, 40 do assert(rawequal(t[1], t[2].again)); t = t[1] end return t[1]"
    assert bridge.execute(code, inner) == 1
    found = bridge.execute("local t = {1} for i = 1, 40 do t = {t, {again = t}} end return t")
    for _ in range(40):
        assert found[0] is found[1]["again"]
        found = found[0]
    assert found == [1]


def test_a_list_that_changes_between_calls_is_converted_again(bridge: LuaBridge) -> None:
    value = [1]
    assert bridge.execute("return #...", value) == 1
    value.append(2)
    assert bridge.execute("return #...", value) == 2


TIED = """
local first, model = nn.Linear(2, 2), nn.Sequential()
for i = 1, ... do
   local layer = nn.Linear(2, 2)
   layer.weight = first.weight
   model:add(layer)
end
return model
"""


def test_a_gradient_of_a_shared_weight_is_compared_with_few_others(bridge: LuaBridge) -> None:
    """Each was compared with all gradients before it."""
    count = "local calls, f = 0, torch.pointer; torch.pointer = function(x) calls = calls + 1; return f(x) end "
    count += "return function() torch.pointer = f; return calls end"
    calls = []
    for layers in (20, 40):
        model = bridge.execute(TIED, layers)
        ends = bridge.execute(count)
        bridge.state_of(model)
        calls.append(bridge.call(ends))
    assert calls[1] < 2.5 * calls[0]


NAMES = """
local Class = torch.class('nn.ManyNames', 'nn.Module')
function Class:__init(count)
   nn.Module.__init(self)
   self.own = {}
   for i = 0, count - 1 do
      local name, rest = '', i
      for _ = 1, 8 do name, rest = name .. 'x' .. (rest % 2 == 0 and '.' or '_'), math.floor(rest / 2) end
      self.own[i + 1] = torch.ones(1)
      self[name] = self.own[i + 1]
   end
end
function Class:parameters()
   local gradients = {}
   for i in ipairs(self.own) do gradients[i] = torch.zeros(1) end
   return self.own, gradients
end
return nn.ManyNames(200)
"""


def test_parameters_whose_names_become_one_get_short_names(bridge: LuaBridge) -> None:
    """Each got one underscore more than the one before it."""
    names = [name for name, _ in bridge.wrap(bridge.execute(NAMES)).named_parameters()]
    assert len(set(names)) == 200
    assert {"x_" * 8, "x_" * 8 + "_", "x_" * 8 + "_2"} <= set(names)
    assert max(map(len, names)) <= 16 + len("_199")


class LargestResult(TorchDispatchMode):
    """Keeps the number of elements of the largest tensor that an operation returned."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.count = max(self.count, result.numel())
        return result


def test_intermediate_results_of_mode_and_match_are_small() -> None:
    values, index = Tensor("Double"), Tensor("Long")
    with LargestResult() as largest:
        mode(values, index, Tensor.fresh(torch.tensor([3, 1, 2, 1, 3, 3] + 94 * [2]).double()), 0)
    assert (values.t.tolist(), largest.count) == ([2], 100)
    x, y, r = torch.rand(6, 10).double(), torch.rand(7, 10).double(), Tensor("Double")
    with LargestResult() as largest:
        match(r, Tensor.fresh(x), Tensor.fresh(y), 2)
    assert torch.equal(r.t, 2 * (x[:, None] - y).square().sum(-1))
    assert largest.count == 70
