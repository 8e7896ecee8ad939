"""A Lua layer that puts a new tensor into a field in each call: the buffer in Python follows, in both directions."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dpnn_bridge import convert, load, write_t7
from dpnn_bridge.lua import LuaBridge
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor

pytestmark = pytest.mark.usefixtures("warm_sandboxes")

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


EXPANDED = """
require 'nn'
my = my or {}
local Mask, parent = torch.class('my.Mask', 'nn.Module')
function Mask:updateOutput(x)
   self.last, self.mask = (self.mask or x):clone(), x:narrow(2, 1, 1):gt(0):typeAs(x):expandAs(x)
   self.output = torch.cmul(x, self.mask)
   return self.output
end
function Mask:updateGradInput(x, g) self.gradInput = torch.cmul(g, self.mask); return self.gradInput end
"""


@pytest.mark.parametrize("suffix", [".t7", ".pt", ".safetensors"])
@pytest.mark.parametrize("expanded", [True, False], ids=["expanded", "replaced by one"])
@pytest.mark.parametrize("sandbox", [False, True])
def test_a_state_dict_with_an_expanded_field_is_loaded(
    sandbox: bool, expanded: bool, suffix: str, tmp_path: Path
) -> None:
    if sandbox and sys.platform != "linux":
        pytest.skip("the sandbox needs Linux")
    (tmp_path / "mask.lua").write_text(EXPANDED)
    options: Any = {"lua": [tmp_path / "mask.lua"], "sandbox": "partial" if sandbox else False}
    values = torch.tensor([[5.0], [7.0]], dtype=torch.float64)
    field = LuaTensor.from_numpy(values.expand(2, 3).contiguous().numpy())
    if expanded:
        column = LuaTensor.from_numpy(values.numpy())
        field = LuaTensor(column.class_name, (2, 3), (1, 0), 0, column.storage)
    last = LuaTensor.from_numpy(torch.zeros(2, 3).double().numpy())
    write_t7(tmp_path / "m.t7", LuaObject("my.Mask", LuaTable({"mask": field, "last": last}.items())))
    convert(tmp_path / "m.t7", path := tmp_path / f"again{suffix}", **options, force=True)
    model, other = load(path, **options), load(tmp_path / "m.t7", **options)
    x = torch.tensor([[1.0, 2, 3], [-1, 2, 3]], dtype=torch.float64)
    other.load_state_dict(model.state_dict())
    for m in (model, other):
        torch.testing.assert_close(m(x), x * torch.tensor([[1.0], [0.0]], dtype=torch.float64))
        torch.testing.assert_close(m.state_dict()["last"], values.expand(2, 3))  # the field of the file
    model.load_state_dict(other.state_dict())
    copy.deepcopy(model).load_state_dict(other.state_dict())
    assert ("mask" in model.state_dict()) is not expanded


VIEWS = """
require 'nn'
my = my or {}
local Bias, parent = torch.class('my.Bias', 'nn.Module')
function Bias:__init(n, b)
   parent.__init(self)
   self.bias, self.gradBias, self.mean = torch.zeros(n), torch.zeros(n), torch.zeros(n)
   self.rows, self.means = self.bias:view(1, n):expand(b, n), self.mean:view(1, n):expand(b, n)
end
function Bias:updateOutput(x) self.output = x + self.rows - self.means; return self.output end
function Bias:updateGradInput(x, g) self.gradInput = g; return g end
function Bias:accGradParameters(x, g, s) self.gradBias:add(g:sum(1):view(-1)) end
"""


@pytest.mark.parametrize("sandbox", [False, True])
def test_expanded_views_of_a_parameter_and_a_buffer_follow_them(sandbox: bool) -> None:
    if sandbox and sys.platform != "linux":
        pytest.skip("the sandbox needs Linux")
    bridge = LuaBridge(sandbox="partial" if sandbox else False)
    bridge.execute(VIEWS)
    layer = bridge.module("my.Bias", 3, 2)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    x = torch.ones(2, 3, dtype=torch.float64)
    for step in range(4):
        optimizer.zero_grad()
        output = layer(x)
        torch.testing.assert_close(output, x - 0.2 * step)
        output.sum().backward()
        optimizer.step()
    layer.load_state_dict({"bias": torch.full((3,), 5.0), "mean": torch.full((3,), 3.0)})
    assert layer(x).tolist() == [[3.0] * 3] * 2
