"""SpatialBinaryConvolution saved between forward and backward: Torch7 goes on with signs, a known difference."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from formula import lua, random
from torch import Tensor
from torch.nn import functional as F

import dpnn_bridge
from dpnn_bridge.compare.verdict import Verdict
from dpnn_bridge.conversion import convert_object
from dpnn_bridge.conversion.lua_values import lua_value
from dpnn_bridge.conversion.options import Options
from dpnn_bridge.loaders import dumps
from dpnn_bridge.lua.torch7 import run_torch7
from dpnn_bridge.objects import LuaObject, LuaTable
from dpnn_bridge.parity.torch7_reference import Torch7
from dpnn_bridge.parity.verification import Verification
from dpnn_bridge.parity.verify import verify

WEIGHT, LAST, INPUT = random(3, 2, 3, 3, seed=1), random(2, 3, 1, 1, seed=2), random(2, 2, 5, 5, seed=3)
SIGNS = torch.where(WEIGHT >= 0, 1.0, -1.0).double()


def binary(weight: Tensor, **fields: Any) -> LuaObject:
    sizes = {"nInputPlane": 2, "nOutputPlane": 3, "kW": 3, "kH": 3, "dW": 1, "dH": 1, "padW": 1, "padH": 1}
    return lua("nn.SpatialBinaryConvolution", weight=weight, iwh=18, owh=27, train=True, **sizes, **fields)


def net(layer: LuaObject, last: Tensor = LAST) -> LuaObject:
    sizes = {"nInputPlane": 3, "nOutputPlane": 2, "kW": 1, "kH": 1, "dW": 1, "dH": 1, "padW": 0, "padH": 0}
    return lua("nn.Sequential", layer, lua("nn.SpatialConvolution", weight=last, train=True, **sizes), train=True)


def verified(tmp_path: Path, after: LuaObject, output: Tensor, mode: str = "train") -> Verification:
    file = tmp_path / "net.t7"
    file.write_bytes(dumps(net(binary(SIGNS, tempWeight=WEIGHT))))
    values = {"mode": mode, "input": lua_value(INPUT), "output": lua_value(output), "after": after}
    return verify(file, reference=LuaTable(values))


def results(last: Tensor = LAST, weight: Tensor = SIGNS) -> tuple[LuaObject, Tensor]:
    """What Torch7 has after its next pass: a plain convolution with the signs, which are the weights from then on."""
    first = F.conv2d(INPUT, SIGNS, padding=1)
    second = F.conv2d(first, last)
    after = net(binary(weight, tempWeight=weight, output=first), last)
    after["output"] = lua_value(second)
    after["modules"][2]["output"] = lua_value(second)
    return after, second


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_signs_are_a_known_difference(mode: str, tmp_path: Path) -> None:
    found = verified(tmp_path, *results(), mode=mode)
    assert found.forward is Verdict.KNOWN
    reasons = {d.reason for d in found.differences if d.verdict is Verdict.KNOWN}
    assert all("Torch7 goes on with the signs of the weights" in reason for reason in reasons)
    assert any("tempWeight" in note for note in found.notes)


def test_other_results_are_different(tmp_path: Path) -> None:
    after, output = results()
    wrong = output.clone()
    wrong[0, 0, 0, 0] += 1e-3
    assert verified(tmp_path, after, wrong).forward is Verdict.DIFFERENT
    after["modules"][1]["output"] = lua_value(F.conv2d(INPUT, SIGNS, padding=1) + 1e-3)
    assert verified(tmp_path, after, output).forward is Verdict.DIFFERENT


def test_the_parameters_of_another_layer_are_compared(tmp_path: Path) -> None:
    last = LAST.clone()
    last[0, 0] += 1e-9
    found = verified(tmp_path, *results(last))
    assert any(d.verdict is Verdict.DIFFERENT and d.name == "modules[2].weight" for d in found.differences)


@pytest.mark.parametrize(
    ("layer", "lost"),
    [
        (binary(SIGNS, tempWeight=WEIGHT), True),
        (binary(WEIGHT, tempWeight=WEIGHT), False),  # after backward
        (binary(SIGNS, tempWeight=SIGNS), False),  # the weights were lost before
        (binary(WEIGHT), False),
    ],
)
def test_a_note_says_what_torch7_would_do(layer: LuaObject, lost: bool) -> None:
    module, report = convert_object(layer, Options())
    assert any("goes on with the signs" in note for note in report.notes) is lost
    assert torch.equal(module.weight, WEIGHT if lost else layer["weight"].torch())
    again, report = convert_object(dpnn_bridge.to_lua(module), Options())
    assert not report.notes
    assert torch.equal(again(INPUT), module(INPUT))


@pytest.mark.torch7
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_torch7_goes_on_with_the_signs(mode: str, tmp_path: Path) -> None:
    program = os.environ["DPNN_TORCH7"]
    make = """require 'dpnn'; local m = nn.SpatialBinaryConvolution(2, 3, 3, 3, 1, 1, 1, 1)
    m:forward(...); return nn.Sequential():add(m):add(nn.SpatialConvolution(3, 2, 1, 1))"""
    [model] = run_torch7(make, lua_value(INPUT), program=program)
    (tmp_path / "net.t7").write_bytes(dumps(model))
    found = verify(tmp_path / "net.t7", input=INPUT, mode=mode, torch7=Torch7(program))
    assert found.forward is Verdict.KNOWN
    assert found.gradients is Verdict.KNOWN
