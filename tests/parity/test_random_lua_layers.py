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
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.lua import LuaBridge
from dpnn_bridge.modules.dpnn import ReinforceBernoulli, ReinforceCategorical
from dpnn_bridge.modules.facebook.fbnn import NestedDropout
from dpnn_bridge.modules.nn import Abs, AddConstant, ConcatTable
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor
from dpnn_bridge.torch7.random import Generator

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


@pytest.mark.parametrize(("error", "verdict"), [(0.0, Verdict.EQUAL), (1e-9, Verdict.DIFFERENT)])
@pytest.mark.parametrize("inplace", [False, True])
def test_slopes_and_categories_are_those_of_the_seed(
    inplace: bool, error: float, verdict: Verdict, tmp_path: Path
) -> None:
    """``nn.RReLU`` draws a slope for each element that is not positive; the next layer continues."""
    x = np.array([[-0.5, 1.2, 0.0], [1.6, -1.8, 2.0]])
    generator, y = Generator(1), x.copy()
    y[x <= 0] *= generator.uniforms(3, 0.125, 0.25)
    y = np.abs(y) + 0.1
    category = np.eye(3)[[generator.multinomial(row, 1)[0] for row in y]]
    net = nn.Sequential(nn.RReLU(0.125, 0.25, inplace), Abs(), AddConstant(0.1), ReinforceCategorical())
    write_t7(tmp_path / "m.t7", net.double())
    fields = {"input": x, "output": category + error}
    table = LuaTable([*((name, LuaTensor.from_numpy(value)) for name, value in fields.items()), ("seed", 1)])
    assert verify(tmp_path / "m.t7", reference=table, mode="train").verdict is verdict


@pytest.mark.parametrize("field", ["reward", "after", "neither"])
def test_a_reward_is_that_of_the_reference_or_of_the_module_after_the_run(field: str, tmp_path: Path) -> None:
    p, drawn, reward = np.array([[0.3, 0.6], [0.9, 0.2]]), np.array([[0.0, 1.0], [1.0, 1.0]]), np.array([0.5, -2.0])
    write_t7(tmp_path / "m.t7", ReinforceBernoulli().double())
    gradient = -(drawn - p) / ((1 - p) * p) * reward[:, None]
    fields = {"input": p, "output": drawn, "gradOutput": np.ones((2, 2)), "gradInput": gradient}
    table = LuaTable([(name, LuaTensor.from_numpy(value)) for name, value in fields.items()])
    table["after"] = dpnn_bridge.to_lua(ReinforceBernoulli().double())
    table["after"]["output"] = table["output"]
    if field != "neither":
        (table if field == "reward" else table["after"])["reward"] = LuaTensor.from_numpy(reward)
        assert verify(tmp_path / "m.t7", reference=table, mode="train").verdict is Verdict.EQUAL
        changed = table["gradInput"].numpy()
        changed *= 1.001
        assert verify(tmp_path / "m.t7", reference=table, mode="train").verdict is Verdict.DIFFERENT
    else:
        with pytest.raises(ConversionError, match="contains the reward as `reward`"):
            verify(tmp_path / "m.t7", reference=table, mode="train")


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


def test_numbers_before_a_layer_that_draws_others_are_those_of_the_seed(tmp_path: Path) -> None:
    """Only what runs after ``fbnn.NestedDropout`` draws others."""
    branches = ConcatTable(nn.Dropout(), nn.Sequential(NestedDropout(0.5), nn.Dropout()))
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
