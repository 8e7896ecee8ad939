"""Models that contain one module several times: Torch7 has one buffer for all its uses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dpnn_bridge import verify
from dpnn_bridge.compare.verdict import Verdict
from dpnn_bridge.conversion.lua_values import lua_value
from dpnn_bridge.loaders import dumps
from dpnn_bridge.lua.torch7 import run_torch7
from dpnn_bridge.modules.nn import CAddTable, ConcatTable
from dpnn_bridge.objects import LuaTable
from dpnn_bridge.parity import check_module


def chain(shared: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), shared, nn.Linear(4, 4), shared, nn.Linear(4, 3)).double()


def branches() -> nn.Sequential:
    torch.manual_seed(0)
    shared = nn.Tanh()
    sides = (nn.Sequential(nn.Linear(4, 4), shared) for _ in range(2))
    return nn.Sequential(ConcatTable(*sides), CAddTable(), nn.Linear(4, 3)).double()


def of_torch7(model: nn.Sequential, x: Tensor) -> Tensor:
    """The output of :func:`branches` in Torch7: the second branch overwrites the result of the first."""
    return model[2](2 * model[0][1](x))


def reference(x: Tensor, output: Tensor) -> LuaTable:
    return LuaTable({name: lua_value(value) for name, value in (("input", x), ("output", output))})


def verdict(model: nn.Module, x: Tensor, output: Tensor) -> Verdict:
    (found,) = (d for d in check_module(model, reference(x, output)).differences if d.name == "output")
    return found.verdict


@pytest.mark.parametrize("shared", [nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 4), nn.Identity()], ids=repr)
def test_a_wrong_weight_is_different_where_no_result_is_overwritten(shared: nn.Module) -> None:
    """A known difference, before."""
    model, x = chain(shared).eval(), torch.randn(2, 4).double()
    output = model(x).detach()
    assert verdict(model, x, output) == Verdict.EQUAL
    for parameter in model.parameters():
        with torch.no_grad():
            parameter.view(-1)[0] += 1e-3
        assert verdict(model, x, output) == Verdict.DIFFERENT
        with torch.no_grad():
            parameter.view(-1)[0] -= 1e-3


def test_an_overwritten_result_is_a_known_difference_and_a_wrong_weight_is_not() -> None:
    model, x = branches(), torch.randn(2, 4).double()
    output = of_torch7(model, x).detach()
    assert verdict(model, x, output) == Verdict.KNOWN
    assert verdict(model, x, model(x).detach()) == Verdict.EQUAL
    names = dict(model.named_parameters())
    for name, parameter in names.items():
        with torch.no_grad():
            parameter.view(-1)[0] += 1e-3
        # the result of the first branch is not in the reference
        assert verdict(model, x, output) == (Verdict.KNOWN if name.startswith("0.0") else Verdict.DIFFERENT), name
        with torch.no_grad():
            parameter.view(-1)[0] -= 1e-3


def test_a_module_that_returns_its_parameter_keeps_it() -> None:
    class Returned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.arange(4.0).double())

        def forward(self, x: Tensor) -> Tensor:
            return self.weight[:2] if x.sum() > 0 else self.weight[2:]

    shared = Returned()
    model, x = nn.Sequential(ConcatTable(shared, shared), CAddTable()), torch.ones(2).double()
    assert verdict(model, x, torch.ones(2).double()) == Verdict.DIFFERENT
    assert shared.weight.tolist() == [0, 1, 2, 3]


SCRIPT = """
require 'nn'
torch.manualSeed(1)
local shared = nn[...]()
local model = nn.Sequential():add(nn.Linear(4, 4)):add(shared):add(nn.Linear(4, 4)):add(shared):add(nn.Linear(4, 3))
local function copied(value) return torch.deserialize(torch.serialize(value)) end
local before = copied(model)
local reference = {mode = 'train', seed = 1, input = torch.randn(2, 4)}
model:training()
torch.manualSeed(1)
reference.output = model:forward(reference.input):clone()
reference.gradOutput = torch.randn(2, 3)
model:zeroGradParameters()
reference.gradInput = model:backward(reference.input, reference.gradOutput)
reference.gradParams = select(2, model:parameters())
reference.after = model
return before, reference
"""


@pytest.mark.torch7
@pytest.mark.parametrize("shared", ["Tanh", "Dropout", "ReLU", "Sigmoid"])
def test_training_in_torch7(shared: str, tmp_path: Path) -> None:
    """The noise of a dropout that occurs twice follows from the seed; `after` contains that of the last use."""
    for value, name in zip(
        run_torch7(SCRIPT, shared, program=os.environ["DPNN_TORCH7"]), ("model", "ref"), strict=True
    ):
        (tmp_path / f"{name}.t7").write_bytes(dumps(value))
    result = verify(tmp_path / "model.t7", reference=tmp_path / "ref.t7")
    assert result.verdict in (Verdict.EQUAL, Verdict.KNOWN)
    outputs = [d for layer in result.layers for d in layer.differences if d.name.endswith("output")]
    assert {d.verdict for d in outputs} == {Verdict.EQUAL}
