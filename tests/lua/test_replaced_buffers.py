"""A Lua layer that puts a new tensor into a field in each call: the buffer in Python follows, in both directions."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from dpnn_bridge import load, write_t7
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor

MEAN = """
require 'nn'
my = my or {}
local Mean, parent = torch.class('my.Mean', 'nn.Module')
function Mean:updateOutput(x)
   self.mean = self.mean * 0.5 + x:mean(1):view(-1) * 0.5
   self.output = x - self.mean:view(1, -1):expandAs(x)
   return self.output
end
function Mean:updateGradInput(x, g) self.gradInput = g; return g end
"""


@pytest.mark.parametrize("sandbox", [False, True])
def test_state_dict_and_load_state_dict_follow(sandbox: bool, tmp_path: Path) -> None:
    if sandbox and sys.platform != "linux":
        pytest.skip("the sandbox needs Linux")
    (tmp_path / "mean.lua").write_text(MEAN)
    field = LuaTensor.from_numpy(torch.zeros(3).double().numpy())
    write_t7(tmp_path / "m.t7", LuaObject("my.Mean", LuaTable({"mean": field}.items())))
    model = load(tmp_path / "m.t7", lua=[tmp_path / "mean.lua"], sandbox="partial" if sandbox else False)
    x = torch.ones(2, 3, dtype=torch.float64)
    first = model(x)
    assert model.state_dict()["mean"].tolist() == [0.5] * 3
    model(x)
    assert model.state_dict()["mean"].tolist() == [0.75] * 3
    model.load_state_dict({"mean": torch.zeros(3)})
    torch.testing.assert_close(model(x), first)


def test_backward_of_an_earlier_call_keeps_the_buffer(tmp_path: Path) -> None:
    (tmp_path / "mean.lua").write_text(MEAN.replace("= self.mean * 0.5 +", "= self.mean * 0 +"))
    field = LuaTensor.from_numpy(torch.zeros(3).double().numpy())
    write_t7(tmp_path / "m.t7", LuaObject("my.Mean", LuaTable({"mean": field}.items())))
    model = load(tmp_path / "m.t7", lua=[tmp_path / "mean.lua"])
    x = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    earlier = model(x)
    model(3 * x.detach())
    earlier.sum().backward()  # runs the first call again
    assert model.state_dict()["mean"].tolist() == [1.5] * 3


def test_a_state_dict_fits_a_new_model_after_a_larger_batch(tmp_path: Path) -> None:
    source = MEAN.replace("self.mean * 0.5 + x:mean(1):view(-1) * 0.5", "x:clone():fill(0)")
    (tmp_path / "mask.lua").write_text(source.replace("self.mean:view(1, -1)", "self.mean"))
    field = LuaTensor.from_numpy(torch.ones(2, 3).double().numpy())
    write_t7(tmp_path / "m.t7", LuaObject("my.Mean", LuaTable({"mean": field}.items())))
    model, other = (load(tmp_path / "m.t7", lua=[tmp_path / "mask.lua"]) for _ in range(2))
    model(torch.ones(5, 3, dtype=torch.float64))
    other.load_state_dict(model.state_dict())
    assert other.state_dict()["mean"].shape == (2, 3)


@pytest.mark.parametrize("sandbox", [False, True])
def test_a_buffer_of_the_backward_pass_follows(sandbox: bool, tmp_path: Path) -> None:
    if sandbox and sys.platform != "linux":
        pytest.skip("the sandbox needs Linux")
    source = MEAN.replace("self.gradInput = g;", "self.gradInput, self.seen = g, self.seen + g:mean(1):view(-1);")
    (tmp_path / "seen.lua").write_text(source)
    fields = {name: LuaTensor.from_numpy(torch.zeros(3).double().numpy()) for name in ("mean", "seen")}
    write_t7(tmp_path / "m.t7", LuaObject("my.Mean", LuaTable(fields.items())))
    model = load(tmp_path / "m.t7", lua=[tmp_path / "seen.lua"], sandbox="partial" if sandbox else False)
    for count in (1, 2):
        model(torch.ones(2, 3, dtype=torch.float64, requires_grad=True)).sum().backward()
        assert model.state_dict()["seen"].tolist() == [count] * 3
