"""Gradients that Torch7 reads after a layer in place has overwritten them: known, and no other value is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from formula import linear, lua, random
from torch import Tensor
from torch.nn import functional as F
from torch7_recording import RECORD_WITH_MODULE

from dpnn_bridge import write_t7
from dpnn_bridge.compare.verdict import Verdict
from dpnn_bridge.conversion.lua_values import lua_value
from dpnn_bridge.lua.torch7 import run_torch7
from dpnn_bridge.objects import LuaObject, LuaTable
from dpnn_bridge.parity.verification import Verification
from dpnn_bridge.parity.verify import verify

X, G = random(3, 4, seed=5), random(3, 5, seed=6)
FIRST, SECOND, THIRD = (linear(4, 5, seed=seed) for seed in (1, 2, 3))
RELU = lua("nn.ReLU", threshold=0, val=0, inplace=True)
HALF = lua("nn.MulConstant", constant_scalar=0.5, inplace=True)


def values(layer: LuaObject) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(layer["weight"].numpy()), torch.from_numpy(layer["bias"].numpy())


def branch(*layers: LuaObject) -> LuaObject:
    return lua("nn.Sequential", *layers, train=False)


def verified(net: LuaObject, table: LuaTable, folder: Path) -> Verification:
    write_t7(folder / "model.t7", net)
    write_t7(folder / "ref.t7", table)
    return verify(folder / "model.t7", reference=folder / "ref.t7")


def reference(output: Tensor, of_branches: list[Tensor]) -> LuaTable:
    """By Torch7's lines: the gradient that reaches each linear layer."""
    layers = (FIRST, SECOND, THIRD)[: len(of_branches)]
    grad_input = sum(g @ values(layer)[0] for g, layer in zip(of_branches, layers, strict=True))
    gradients = [v for g in of_branches for v in (g.T @ X, g.sum(0))]
    table = {"input": X, "output": output, "gradOutput": G, "gradInput": grad_input, "gradParams": gradients}
    return LuaTable({"mode": "eval", **{name: lua_value(value) for name, value in table.items()}})


def test_the_next_branches_read_what_a_layer_in_place_left(tmp_path: Path) -> None:
    """The gradient of ``nn.CAddTable(true)`` is one tensor, which ``nn.ReLU(true)`` and ``nn.MulConstant`` change."""
    branches = [branch(FIRST, HALF), branch(SECOND, HALF), THIRD]
    net = branch(lua("nn.ConcatTable", *branches, train=False), lua("nn.CAddTable", inplace=True))
    first, second, third = (F.linear(X, *values(layer)) for layer in (FIRST, SECOND, THIRD))
    output = first / 2 + second / 2 + third
    assert verified(net, reference(output, [G / 2, G / 2, G]), tmp_path).gradients == Verdict.EQUAL
    assert verified(net, reference(output, [G / 2, G / 4, G / 4]), tmp_path).gradients == Verdict.KNOWN
    assert verified(net, reference(output, [G / 2, G / 4, G / 2]), tmp_path).gradients == Verdict.DIFFERENT
    changed = reference(output, [G / 2, G / 4, G / 4 * (1 + 1e-6)])
    assert verified(net, changed, tmp_path).gradients == Verdict.DIFFERENT


def test_a_sum_that_is_not_in_place_gives_each_branch_its_own_gradient(tmp_path: Path) -> None:
    branches = lua("nn.ConcatTable", branch(FIRST, HALF), SECOND, train=False)
    net = branch(branches, lua("nn.CAddTable", inplace=False))
    output = F.linear(X, *values(FIRST)) / 2 + F.linear(X, *values(SECOND))
    assert verified(net, reference(output, [G / 2, G]), tmp_path).gradients == Verdict.EQUAL
    assert verified(net, reference(output, [G / 2, G / 2]), tmp_path).gradients == Verdict.DIFFERENT


#: networks whose in-place layers overwrite the gradient of other branches
NETWORKS = """
require 'nngraph'
local name = ...
local mode, size = 'train', torch.LongStorage{3, 4}
local S, table_of, sum = nn.Sequential, nn.ConcatTable, nn.CAddTable
local function linear() return nn.Linear(4, 4) end
local function relu() return S():add(linear()):add(nn.ReLU(true)) end
local function scaled() return S():add(linear()):add(nn.ReLU(true)):add(linear()):add(nn.MulConstant(0.1, true)) end
local function graph(build)
   local x = nn.Identity()()
   local h = linear()(x)
   return nn.gModule({x}, {linear()(sum(true)(build(h, nn.ReLU(true)(linear()(h)))))})
end
local networks = {
   shortcut = function() return S():add(linear()):add(table_of():add(relu()):add(nn.Identity())):add(sum(true)) end,
   edsr = function()
      local net = S():add(linear())
      for _ = 1, 2 do net:add(table_of():add(scaled()):add(nn.Identity())):add(sum(true)) end
      return net:add(linear())
   end,
   views = function()
      local viewed = relu():add(nn.View(2, 2)):add(nn.Identity()):add(nn.View(4))
      return S():add(linear()):add(table_of():add(viewed):add(linear())):add(sum(true)):add(linear())
   end,
   nested = function()
      local inner = S():add(table_of():add(relu()):add(linear())):add(sum(true))
      return S():add(linear()):add(table_of():add(inner):add(linear())):add(sum(true)):add(linear())
   end,
   parallel = function()
      local branches = nn.ParallelTable():add(relu()):add(relu())
      return S():add(table_of():add(linear()):add(linear())):add(branches):add(sum(true)):add(linear())
   end,
   chain = function()
      local chain = S():add(linear()):add(nn.MulConstant(0.5, true)):add(nn.HardTanh(-1, 1, true))
      return S():add(linear()):add(table_of():add(chain):add(nn.Identity())):add(sum(true)):add(linear())
   end,
   graph_shortcut = function() return graph(function(h, r) return {r, h} end) end,
   graph_shortcut_first = function() return graph(function(h, r) return {h, r} end) end,
   graph_branch = function() return graph(function(h, r) return {r, linear()(h)} end) end,
   graph_branch_first = function() return graph(function(h, r) return {linear()(h), r} end) end,
   graph_branches = function()
      return graph(function(h, r) return {r, nn.HardTanh(-.5, .5, true)(linear()(h))} end)
   end,
}
torch.manualSeed(3)
local net = networks[name]()
"""


@pytest.mark.torch7
@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize(
    "name",
    [
        *("shortcut", "edsr", "views", "nested", "parallel", "chain", "graph_shortcut", "graph_shortcut_first"),
        *("graph_branch", "graph_branch_first", "graph_branches"),
    ],
)
def test_gradients_of_torch7_are_known(name: str, stored: bool, tmp_path: Path) -> None:
    net, table = run_torch7(NETWORKS + RECORD_WITH_MODULE, name, program=os.environ["DPNN_TORCH7"])
    if not stored:
        del table["after"]
    result = verified(net, table, tmp_path)
    assert result.gradients == Verdict.KNOWN
    assert not any("gradInput agrees" in note for note in result.notes)
    gradient = table["gradInput"].numpy()
    gradient *= 1.001
    assert verified(net, table, tmp_path).gradients == Verdict.DIFFERENT
