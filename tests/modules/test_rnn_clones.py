"""Clones of time steps that somebody changed: Torch7 trains with them, so a note names the first change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from formula import linear, lua

from dpnn_bridge.conversion import convert_object
from dpnn_bridge.conversion.options import Options
from dpnn_bridge.modules.rnn.clones import shared_clone
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor


def step_module() -> LuaObject:
    return lua("nn.Sequential", linear(4, 4), lua("nn.LeakyReLU", negval=0.1), lua("nn.Dropout", p=0.5, v2=True))


def notes(module: LuaObject, clones: dict[int, Any]) -> list[str]:
    recursor = lua("nn.Recursor", module, recurrentModule=module, sharedClones=LuaTable(clones), rho=5, step=1)
    return convert_object(recursor, Options())[1].notes


def test_equal_clones_need_no_note() -> None:
    module = step_module()
    copy = shared_clone(module)
    copy["modules"][1]["weight"] = LuaTensor.from_numpy(module["modules"][1]["weight"].numpy().copy())
    assert notes(module, {1: module, 2: shared_clone(module), 3: copy}) == []


@pytest.mark.parametrize(
    ("layer", "field", "value", "said"),
    [
        (
            2,
            "negval",
            0.3,
            "sharedClones[2].modules[2].negval differs from recurrentModule.modules[2].negval (0.3 and 0.1)",
        ),
        (3, "p", 0.2, "sharedClones[2].modules[3].p differs from recurrentModule.modules[3].p (0.2 and 0.5)"),
        (
            1,
            "weight",
            torch.ones(4, 4).double(),
            "sharedClones[2].modules[1].weight differs from recurrentModule.modules[1].weight;",
        ),
    ],
)
def test_the_first_change_is_named(layer: int, field: str, value: Any, said: str) -> None:
    module = step_module()
    module["modules"][1]["gradWeight"] = LuaTensor.from_numpy(torch.zeros(4, 4).double().numpy())
    clone = shared_clone(module)
    clone["modules"][layer][field] = LuaTensor.from_numpy(value.numpy()) if isinstance(value, torch.Tensor) else value
    (note,) = notes(module, {1: module, 2: clone, 3: clone})
    assert said in note


def test_another_layer_is_named() -> None:
    module = step_module()
    clone = shared_clone(module)
    clone["modules"][2] = lua("nn.Tanh")
    (note,) = notes(module, {1: module, 4: clone})
    assert "sharedClones[4].modules[2] differs from recurrentModule.modules[2] (nn.Tanh and nn.LeakyReLU)" in note
