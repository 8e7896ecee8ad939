"""Temporary memory of nn's code in a layer in Lua, which PyTorch does not write, is no difference; a statistic is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dpnn_bridge import load, verify, write_t7
from dpnn_bridge.compare.verdict import Verdict
from dpnn_bridge.conversion.lua_values import lua_value
from dpnn_bridge.lua import LuaBridge
from dpnn_bridge.objects import LuaObject, LuaTable
from dpnn_bridge.parity.experiment import Experiment
from dpnn_bridge.parity.verification import Verification

pytestmark = pytest.mark.usefixtures("warm_sandboxes")

LAYERS = """
require 'nn'
my = my or {}
local Norm, parent = torch.class('my.Norm', 'nn.BatchNormalization')  -- it writes save_mean, save_std in Torch7
function Norm:__init(n)
   parent.__init(self, n)
   self.save_mean, self.save_std, self.seen, self.scaleT = torch.zeros(n), torch.ones(n), torch.ones(n), torch.ones(n)
end
function Norm:updateOutput(x)
   self.scaleT = self.scaleT * 2  -- a field of the class's own with the name of a temporary one
   return parent.updateOutput(self, x)
end
local Double = torch.class('my.Double', 'nn.SpatialConvolution')
function Double:__init() nn.Module.__init(self); self.finput, self.kept = torch.zeros(3), torch.zeros(3) end
function Double:updateOutput(x) self.output = x * 2; return self.output end
function Double:updateGradInput(x, g)
   self.twice = g * 2
   self.gradInput = self.twice
   return self.gradInput
end
function Double:accGradParameters() end
local Own, base = torch.class('my.Own', 'nn.Module')  -- no class of nn has its finput
function Own:__init() base.__init(self); self.finput = torch.zeros(3) end
function Own:updateOutput(x) self.output = x * 2; return self.output end
function Own:updateGradInput(x, g) self.gradInput = g * 2; return self.gradInput end
local Block, container = torch.class('my.Block', 'nn.Sequential')
function Block:__init(n) container.__init(self); self:add(my.Norm(n)):add(my.Double()) end
"""
SIZE = 3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "layers.lua").write_text(LAYERS)
    return tmp_path


def field_of(obj: Any, path: str) -> tuple[Any, str]:
    *parents, name = path.split(".")
    for key in parents:
        obj = obj[int(key)] if key.isdigit() else obj[key]
    return obj, name


def verified(
    folder: Path, layer: str, changed: str, *, before: LuaTable | None = None, backward: bool = True, **options: Any
) -> Verification:
    """Verify a layer whose reference has other values in the field ``changed``.

    Args:
        folder: contains the Lua file.
        layer: its constructor.
        changed: path of the field in the layer.
        before: fields that the model's file has in addition.
        backward: whether to verify gradients; the reference has them.
        **options: of ``verify``.
    """
    bridge = LuaBridge.from_files([folder / "layers.lua"])
    live = bridge.execute(f"return {layer}")
    for key, value in (before or LuaTable()).items():
        live[key] = bridge.to_lua(value)
    obj = bridge.to_object(live)
    write_t7(folder / "model.t7", LuaObject("nn.Sequential", LuaTable({"modules": LuaTable.from_list([obj])})))
    model = load(folder / "model.t7", lua=[folder / "layers.lua"]).train()
    x = torch.randn(5, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    gradient = torch.randn(5, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    output = model(x)
    output.backward(gradient)
    assert x.grad is not None
    after = model[0].obj
    owner, name = field_of(after, changed)
    owner[name] = lua_value(owner[name].torch() + 0.5)
    reference = {
        "mode": "train",
        "input": lua_value(x.detach()),
        "output": lua_value(output.detach()),
        "gradOutput": lua_value(gradient),
        "gradInput": lua_value(x.grad),
        "after": LuaObject("nn.Sequential", LuaTable({"modules": LuaTable.from_list([after])})),
    }
    options = {"lua": [folder / "layers.lua"], "backward": backward, **options}
    return verify(folder / "model.t7", reference=LuaTable(reference), **options)


@pytest.mark.parametrize(
    ("layer", "field"),
    [("my.Norm(3)", "save_mean"), ("my.Block(3)", "modules.1.save_std"), ("my.Double()", "finput")],
)
@pytest.mark.parametrize("sandbox", [False, "partial"])
@pytest.mark.parametrize("backward", [True, False])
def test_temporary_memory_that_the_run_does_not_write(
    folder: Path, layer: str, field: str, sandbox: Any, backward: bool
) -> None:
    if sandbox and sys.platform != "linux":
        pytest.skip("the sandbox needs Linux")
    result = verified(folder, layer, field, sandbox=sandbox, backward=backward)
    assert result.forward is Verdict.EQUAL, str(result)
    (note,) = [note for note in result.notes if "temporary memory" in note]
    assert field.rpartition(".")[2] in note


@pytest.mark.parametrize(
    ("layer", "field"),
    [
        ("my.Norm(3)", "running_mean"),
        ("my.Norm(3)", "seen"),  # not temporary, and the run does not write it
        ("my.Norm(3)", "scaleT"),  # temporary in nn.BatchNormalization, but the class writes it
        ("my.Block(3)", "modules.1.running_var"),
        ("my.Double()", "kept"),
        ("my.Own()", "finput"),
    ],
)
def test_another_value_of_a_statistic_is_different(folder: Path, layer: str, field: str) -> None:
    result = verified(folder, layer, field)
    assert result.forward is Verdict.DIFFERENT
    assert field.rpartition(".")[2] in str(result)


@pytest.mark.parametrize("changed", ["", "twice"])
def test_a_field_of_the_backward_pass_is_compared_after_one(folder: Path, changed: str) -> None:
    stale = LuaTable({"twice": lua_value(torch.zeros(5, SIZE, dtype=torch.float64))})
    for backward in (True, False):
        result = verified(folder, "my.Double()", changed or "finput", before=stale, backward=backward)
        assert result.forward is (Verdict.DIFFERENT if changed else Verdict.EQUAL), str(result)


def test_a_backward_pass_that_the_user_excludes_may_fail(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise ValueError("no backward pass here")

    run = Experiment.run
    monkeypatch.setattr(Experiment, "run", lambda self, *a, **o: fail() if self.backward else run(self, *a, **o))
    result = verified(folder, "my.Own()", "finput", backward=False)
    assert result.forward is Verdict.DIFFERENT
