"""NormStabilizer between two sequences: the written file continues as the module and as Torch7's own file do."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import dpnn_bridge
from dpnn_bridge import to_lua
from dpnn_bridge.compare.differences import Tolerance, compare
from dpnn_bridge.conversion import to_torch
from dpnn_bridge.conversion.lua_values import lua_value, to_value
from dpnn_bridge.lua.torch7 import run_torch7
from dpnn_bridge.modules.rnn import memory
from dpnn_bridge.modules.rnn.recurrence import NormStabilizer
from dpnn_bridge.modules.rnn.sequencer import Sequencer
from dpnn_bridge.objects import LuaObject

INPUT = torch.randn(3, 2, 4, dtype=torch.float64)


def norms_of(obj: LuaObject) -> dict[int, Tensor]:
    return {step: to_value(clone["norm"]) for step, clone in obj["sharedClones"].items()}


def used(calls: int) -> Sequencer:
    model = Sequencer(NormStabilizer(beta=0.5))
    memory.remember(model)
    for _ in range(calls):
        model(INPUT)
    return model


@pytest.mark.parametrize(("calls", "steps"), [(1, [1, 2, 3]), (2, [3, 4, 5, 6])])
def test_clones_have_the_norms_of_the_steps_that_torch7_keeps(calls: int, steps: list[int]) -> None:
    """Without the clone of the last step, Torch7's next backward pass used the norms of another step, or failed."""
    model = used(calls)
    obj = to_lua(model)["module"]
    norms = norms_of(obj)
    assert [*norms] == steps
    assert obj["sharedClones"][steps[0]] is obj["recurrentModule"] is obj["modules"][1]
    for step, norm in norms.items():
        torch.testing.assert_close(norm, INPUT[(step - 1) % 3].norm(dim=1, keepdim=True))
    again = to_lua(to_torch(to_lua(model)))["module"]
    assert all(torch.equal(norm, norms[step]) for step, norm in norms_of(again).items())


def test_a_step_in_evaluation_mode_has_norms_too() -> None:
    module = NormStabilizer().eval()
    module(INPUT[0])
    torch.testing.assert_close(norms_of(to_lua(module))[1], INPUT[0].norm(dim=1, keepdim=True))
    module(INPUT)  # not a batch of vectors: only evaluation mode accepts it
    assert not [clone for clone in to_lua(module)["sharedClones"].values() if "norm" in clone]


def test_a_new_sequence_has_no_norms_of_the_last() -> None:
    model = used(1)
    memory.forget(model)
    assert [clone for clone in to_lua(model)["module"]["sharedClones"].values() if "norm" in clone] == []
    model.module(INPUT[0])
    assert [*norms_of(to_lua(model.module))] == [1]


def test_the_loss_continues_after_loading_and_casting() -> None:
    module = NormStabilizer(beta=0.5)
    for x in INPUT[:2]:
        module(x)
    others = to_torch(to_lua(module)), copy.deepcopy(module), copy.deepcopy(module).float()
    for other in (module, *others):
        assert isinstance(other, NormStabilizer)
        other(INPUT[2].to(other._norms[1].dtype))
    assert [other._norms[1].dtype for other in others] == [torch.float64, torch.float64, torch.float32]
    for other in others:
        torch.testing.assert_close(other.update_loss(), module.update_loss(), check_dtype=False)


RUN = """require 'rnn'
local file, x, g = ...
local m = torch.load(file)
local result = {m:forward(x)}
m:zeroGradParameters()
result[2] = m:backward(x, g)
local _, grads = m:parameters()
result[3] = grads
if m.updateLoss then result[4] = m:updateLoss() end
return result"""

MAKE = """require 'rnn'
local x, kind, calls, backward = ...
local s = nn.NormStabilizer(0.5)
if kind ~= 'step' then s = nn.Sequential():add(nn.GRU(4, 4)):add(s) end
if kind == 'Recursor' then s = nn.Recursor(s) end
if kind == 'Sequencer' then s = nn.Sequencer(s); s:remember('both') end
for i = 1, calls do
   local input = kind == 'Sequencer' and x or x[i]
   s:forward(input)
   if backward then s:backward(input, input) end
end
return s"""


@pytest.mark.torch7
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("calls", [1, 2, 3])
@pytest.mark.parametrize("kind", ["step", "Recursor", "Sequencer"])
def test_torch7_continues_what_is_written(kind: str, calls: int, backward: bool, tmp_path: Path) -> None:
    program = os.environ["DPNN_TORCH7"]
    x = lua_value(INPUT)
    [source] = run_torch7(MAKE, x, kind, calls, backward, program=program)
    model = to_torch(source)
    written = [to_lua(model), to_lua(to_torch(to_lua(model)))]
    results: list[Any] = []
    x = x if kind == "Sequencer" else lua_value(INPUT[0])
    for number, obj in enumerate([source, *written]):
        dpnn_bridge.write_t7(tmp_path / f"{number}.t7", obj)
        [result] = run_torch7(RUN, str(tmp_path / f"{number}.t7"), x, x, program=program)
        results.append(to_value(result))
    for result in results[1:]:
        assert all(d.ok for d in compare("", result, results[0], Tolerance(1e-10, 1e-10)))
