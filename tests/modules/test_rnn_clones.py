"""Clones of time steps that somebody changed: Torch7 trains with them, so a note names the first change."""

from __future__ import annotations

import time
from typing import Any

import pytest
from formula import linear, lua

from dpnn_bridge.conversion import convert_object
from dpnn_bridge.conversion.options import Options
from dpnn_bridge.modules.rnn.clones import note_clones, shared_clone
from dpnn_bridge.objects import LuaObject, LuaTable


def step_module() -> LuaObject:
    return lua("nn.Sequential", linear(4, 4), lua("nn.LeakyReLU", negval=0.1), lua("nn.Dropout", p=0.5, v2=True))


def notes(module: LuaObject, clones: dict[int, Any]) -> list[str]:
    recursor = lua("nn.Recursor", module, recurrentModule=module, sharedClones=LuaTable(clones), rho=5, step=1)
    return convert_object(recursor, Options())[1].notes


def test_equal_clones_need_no_note() -> None:
    module = step_module()
    assert notes(module, {1: module, 2: shared_clone(module), 3: shared_clone(module)}) == []


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
    ],
)
def test_the_first_change_is_named(layer: int, field: str, value: Any, said: str) -> None:
    module = step_module()
    clone = shared_clone(module)
    clone["modules"][layer][field] = value
    (note,) = notes(module, {1: module, 2: clone, 3: clone})
    assert said in note


def test_another_layer_is_named() -> None:
    module = step_module()
    clone = shared_clone(module)
    clone["modules"][2] = lua("nn.Tanh")
    (note,) = notes(module, {1: module, 4: clone})
    assert "sharedClones[4].modules[2] differs from recurrentModule.modules[2] (nn.Tanh and nn.LeakyReLU)" in note


def test_few_modules_of_clones_are_compared() -> None:
    """Many recurrent modules may share their clones and a module of many levels."""
    module, clone = step_module(), step_module()
    for _ in range(5000):
        module, clone = lua("nn.Sequential", module), lua("nn.Sequential", clone)
    found = Notes()
    recursor = {"recurrentModule": module, "sharedClones": LuaTable(dict.fromkeys(range(1, 5000), clone))}
    start = time.process_time()
    note_clones(lua("nn.Recursor", **recursor), found)
    assert time.process_time() - start < 1
    assert found.texts == []


class Notes:
    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)
