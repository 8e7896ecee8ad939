"""A layer that draws random numbers in Lua: its results are random, or those of the seed, but not rounding errors."""

from __future__ import annotations

import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import dpnn_bridge
from dpnn_bridge import convert, save, verify, write_t7
from dpnn_bridge.compare.verdict import Verdict
from dpnn_bridge.lua import LuaBridge
from dpnn_bridge.modules.nn import ConcatTable
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor

NOISE = """
require 'nn'
my = my or {}
local Noise, parent = torch.class('my.Noise', 'nn.Module')
function Noise:updateOutput(x) self.output = torch.add(x, x:clone():normal()); return self.output end
function Noise:updateGradInput(x, g) self.gradInput = g; return g end
"""


@pytest.mark.parametrize(
    ("seed", "shift", "verdict"),
    [(None, 0, Verdict.RANDOM), (None, 1, Verdict.RANDOM), (1, 0, Verdict.EQUAL), (1, 1e-3, Verdict.DIFFERENT)],
)
def test_numbers_that_lua_draws(seed: int | None, shift: float, verdict: Verdict, tmp_path: Path) -> None:
    (tmp_path / "noise.lua").write_text(NOISE)
    layers = LuaTable.from_list([LuaObject("nn.Identity", LuaTable()), LuaObject("my.Noise", LuaTable())])
    write_t7(tmp_path / "m.t7", LuaObject("nn.Sequential", LuaTable({"modules": layers, "train": True}.items())))
    x = np.linspace(-1, 1, 6).reshape(2, 3)
    drawn = LuaBridge().execute("torch.manualSeed(1); return torch.Tensor(2, 3):normal()")
    fields = {"input": LuaTensor.from_numpy(x), "output": LuaTensor.from_numpy(x + drawn.numpy() + shift)}
    table = LuaTable((fields if seed is None else {**fields, "seed": seed}).items())
    result = verify(tmp_path / "m.t7", reference=table, lua=[tmp_path / "noise.lua"], mode="train")
    assert result.verdict == verdict


@pytest.mark.usefixtures("warm_sandboxes")
@pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs Linux")
@pytest.mark.parametrize(("draws", "verdict"), [(True, Verdict.RANDOM), (False, Verdict.DIFFERENT)])
def test_numbers_that_a_layer_draws_after_a_sandbox(draws: bool, verdict: Verdict, tmp_path: Path) -> None:
    """In Torch7 both draw from one generator. The reference has another mask, so one element always differs most."""
    (tmp_path / "noise.lua").write_text(NOISE.replace(":normal()", ":normal():mul(0.01)" if draws else ":zero()"))
    layers = LuaTable.from_list([LuaObject("my.Noise", LuaTable()), dpnn_bridge.to_lua(nn.Dropout().double())])
    write_t7(tmp_path / "m.t7", LuaObject("nn.Sequential", LuaTable({"modules": layers, "train": True}.items())))
    x = np.linspace(1, 2, 6).reshape(2, 3)
    table = LuaTable({"input": LuaTensor.from_numpy(x), "output": LuaTensor.from_numpy(2 * x), "seed": 1}.items())
    result = verify(tmp_path / "m.t7", reference=table, lua=[tmp_path / "noise.lua"], sandbox=True, mode="train")
    assert result.verdict is verdict


@pytest.mark.parametrize(("lowest", "verdict"), [(-0.1, Verdict.RANDOM), (1.0, Verdict.DIFFERENT)])
def test_numbers_that_a_layer_draws_after_a_leaky_relu(lowest: float, verdict: Verdict, tmp_path: Path) -> None:
    """The seed does not determine the slopes of ``nn.RReLU``, which positive numbers do not need."""
    write_t7(tmp_path / "m.t7", nn.Sequential(nn.RReLU(), nn.Dropout()).double())
    x = np.array([[lowest, 1.2, 1.4], [1.6, 1.8, 2.0]])
    table = LuaTable({"input": LuaTensor.from_numpy(x), "output": LuaTensor.from_numpy(2 * x), "seed": 1}.items())
    assert verify(tmp_path / "m.t7", reference=table, mode="train").verdict is verdict


def test_a_file_draws_the_same_numbers(tmp_path: Path) -> None:
    (tmp_path / "noise.lua").write_text(NOISE)
    write_t7(tmp_path / "m.t7", LuaObject("my.Noise", LuaTable()))
    lua = [tmp_path / "noise.lua"]
    convert(tmp_path / "m.t7", tmp_path / "m.pt", lua=lua)
    result = verify(tmp_path / "m.t7", tmp_path / "m.pt", input=torch.zeros(2, 3, dtype=torch.float64), lua=lua)
    assert [d.absolute for layer in result.layers for d in layer.converted] == [0]


def test_a_layer_of_pytorch_may_be_called_bridge(tmp_path: Path) -> None:
    net = nn.Sequential(OrderedDict(bridge=nn.Linear(3, 2), drop=nn.Dropout()))
    save(tmp_path / "m.pt", net)
    output = LuaTensor.from_numpy(np.ones((1, 2), np.float32))
    table = LuaTable({"input": LuaTensor.from_numpy(np.ones((1, 3), np.float32)), "output": output}.items())
    assert verify(tmp_path / "m.pt", reference=table, mode="train").verdict is Verdict.RANDOM


def test_numbers_before_a_leaky_relu_are_those_of_the_seed(tmp_path: Path) -> None:
    """Only what runs after ``nn.RReLU`` draws others."""
    branches = ConcatTable(nn.Dropout(), nn.Sequential(nn.RReLU(), nn.Dropout()))
    write_t7(tmp_path / "m.t7", branches.double())
    x = np.linspace(-1, 2, 6).reshape(2, 3)
    fields = {
        "input": LuaTensor.from_numpy(x),
        "output": LuaTable.from_list([LuaTensor.from_numpy(2 * x)] * 2),
        "seed": 1,
    }
    result = verify(tmp_path / "m.t7", reference=LuaTable(fields.items()), mode="train")
    verdicts = {d.name: d.verdict for d in result.differences}
    assert (verdicts["output[1]"], verdicts["output[2]"]) == (Verdict.DIFFERENT, Verdict.RANDOM)
