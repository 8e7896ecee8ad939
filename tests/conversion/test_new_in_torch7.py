"""Modules created in PyTorch are written with what their Lua classes need: Torch7 runs them like those of its files."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from mapping_examples import MAPPINGS, PARTNERS, call_of, in_fixtures, mapping_id, runs
from test_new_modules import as_created

from dpnn_bridge import to_lua, write_t7
from dpnn_bridge.compare import nested
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.objects import LuaTable, tensor_class

ROOMS = tuple(f"dpnn_bridge.modules.{name}." for name in ("nn", "dpnn", "rnn", "nnx"))
#: class -> fields without which its Lua code fails, with the length of a table
NEEDED: dict[str, dict[str, int | None]] = {
    "nn.AddScalar": {"gradInput": 2},
    "nn.DistNLLCriterion": dict.fromkeys(("targetSoftMax", "inputLogSoftMax", "inputLog", "gradLogInput", "input")),
    "nn.NCECriterion": {"gradInput": 4},
    "nn.Repeater": {"output": 0},
    "nn.SoftMaxForest": {"module": None},
    "nn.SpatialColorTransform": {"islinear": None},
    "nn.SpatialConvolutionLocal": dict.fromkeys(("iW", "iH")),
    "nn.SpatialDivisiveNormalization": dict.fromkeys(("coef", "normalizer", "divider", "thresholder")),
    "nn.SpatialSubtractiveNormalization": dict.fromkeys(("coef", "subtractor", "divider")),
    "nn.STMM": {"concat": None},
    "nn.TensorAddVector": {"gradInput": 2},
    "nn.TensorProd": {"gradInput": 2, "ab": None},
    "nn.TotalVariation": dict.fromkeys(("x_diff", "y_diff")),
    "nn.TreeNLLCriterion": {"_module": None},
    "nn.WeightNorm": dict.fromkeys(("otherDims", "viewIn", "viewOut")),
}
#: classes whose results cannot be compared -> reason
NOT_COMPARED = {
    "nn.Balance": "computes with the batches before, which its file contains",
    "nn.Copy": "a cast of the whole model makes it another module",
}
#: loads what the first argument lists, runs the module of a file and the new one, and prints where they differ.
#: Results that the module of the file does not compute are not compared
PROGRAM = """
require 'nn'; require 'dpnn'; require 'rnn'; require 'nnx'; require 'nngraph'
local function copy(v)
  if torch.isTensor(v) then return v:clone() elseif type(v) ~= 'table' then return v end
  local t = {}
  for k, u in pairs(v) do t[k] = copy(u) end
  return t
end
local function ones(v)
  if torch.isTensor(v) then return v:clone():fill(1) elseif type(v) ~= 'table' then return v end
  local t = {}
  for k, u in pairs(v) do t[k] = ones(u) end
  return t
end
local function distance(a, b)
  if b == nil then return 0 elseif torch.type(a) ~= torch.type(b) then return math.huge end
  if type(a) == 'number' then return math.abs(a - b) end
  local largest = 0
  if torch.isTensor(a) then
    if a:nElement() ~= b:nElement() then return math.huge elseif a:nElement() == 0 then return 0 end
    local d = (a:double():contiguous():view(-1) - b:double():contiguous():view(-1)):abs()
    d[d:ne(d)] = 0
    return d:max()
  elseif type(a) == 'table' then
    for k in pairs(b) do largest = math.max(largest, distance(a[k], b[k])) end
  end
  return largest
end
local function run(module, t)
  torch.manualSeed(1)
  local input, extra = copy(t.input), t.target
  local output = copy(module:forward(input, extra))
  local ok, gradient = pcall(function() return copy(module:backward(input, extra or ones(output))) end)
  return {output, ok and gradient or nil}
end
for path in io.lines(arg[1]) do
  local ok, t = pcall(torch.load, path)
  local known = not ok or pcall(run, torch.deserialize(torch.serialize(t.original)), t)
  local expected = ok and known and run(t.original, t)
  local fine, actual
  if expected then fine, actual = pcall(run, t.module, t) end
  local unknown = not ok and t:find('unknown Torch class')
  local text = not ok and not unknown and t
  if expected then text = not fine and actual or distance(actual, expected) > 1e-4 and 'differs' end
  if text then print((path .. ': ' .. tostring(text)):gsub('\\n', ' ')) end
end
"""


@pytest.mark.skipif("DPNN_TORCH7" not in os.environ, reason="DPNN_TORCH7 names no Torch7")
def test_torch7_runs_new_modules(tmp_path: Path) -> None:
    paths = []
    for mapping in MAPPINGS:
        if not mapping.__module__.startswith(ROOMS) or mapping.names[0] in PARTNERS | NOT_COMPARED.keys():
            continue
        fixtures = (f for f, obj in in_fixtures(mapping) if runs(f) and f["module"] is obj)
        fixture = next((f for f in fixtures if f["module"].class_name.startswith("nn.")), None)
        if fixture is None:
            continue
        floats = (t for t in nested.tensors(to_value(fixture["input"])) if t.is_floating_point())
        kind = next((tensor_class(t.numpy().dtype) for t in floats), None)
        module = call_of(fixture).module
        for part in module.modules():
            part.__dict__.pop("lua_record", None)
        try:
            written = to_lua(module, tensor_type=kind)
        except ConversionError:  # it cannot be created in PyTorch
            continue
        table = {name: fixture[name] for name in ("input", "target") if name in fixture}
        paths.append(tmp_path / f"{mapping_id(mapping)}.t7")
        write_t7(paths[-1], LuaTable({**table, "module": written, "original": fixture["module"]}))
    (tmp_path / "list").write_text("".join(f"{path}\n" for path in paths))
    (tmp_path / "run.lua").write_text(PROGRAM)
    command = [os.environ["DPNN_TORCH7"], tmp_path / "run.lua", tmp_path / "list"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-1000:]
    assert [line for line in done.stdout.splitlines() if ".t7: " in line] == []
    assert len(paths) > 200


@pytest.mark.parametrize("mapping", [m for m in MAPPINGS if m.names[0] in NEEDED], ids=mapping_id)
def test_new_modules_have_the_fields_that_lua_reads(mapping: type) -> None:
    written = to_lua(as_created(mapping))
    for name, length in NEEDED[written.class_name].items():
        assert name in written
        assert length is None or len(written[name]) == length
