"""The module after the run: a wrong layer is found, and what the module lacks is said."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from formula import linear, lua, random
from torch import Tensor
from torch.nn import functional as F
from torch7_recording import RECORD_WITH_MODULE

from dpnn_bridge import write_t7
from dpnn_bridge.compare.verdict import Verdict
from dpnn_bridge.conversion import to_torch
from dpnn_bridge.conversion.lua_values import lua_value
from dpnn_bridge.errors import NoReferenceError
from dpnn_bridge.lua.torch7 import run_torch7
from dpnn_bridge.objects import LuaObject, LuaTable
from dpnn_bridge.parity.verify import verify

X = 3 * random(40, 4, seed=5)
LINEAR = linear(4, 5, seed=1)


def hidden() -> Tensor:
    return to_torch(LINEAR)(X).detach()


def ran(obj: LuaObject, output: LuaObject | LuaTable) -> LuaObject:
    """The object after a run. A container stores the output of its last layer."""
    obj["output"] = output
    return obj


def leaky(slope: float) -> LuaObject:
    return lua("nn.LeakyReLU", negval=slope, inplace=False)


def network(slope: float, following: LuaObject, *, stored: bool = False) -> LuaObject:
    """A nested sequence that ends with a LeakyReLU, and what follows; with the results of slope 0.1 if ``stored``."""
    layers = [LINEAR.changed(), leaky(slope)]
    if stored:
        results = [lua_value(hidden()), lua_value(F.leaky_relu(hidden(), 0.1))]
        layers = [ran(layer, result) for layer, result in zip(layers, results, strict=True)]
        inner = ran(lua("nn.Sequential", *layers, train=False), results[1])
    else:
        inner = lua("nn.Sequential", *layers, train=False)
    return lua("nn.Sequential", inner, following, train=False)


@pytest.mark.parametrize("following", ["hides", "shows"])
def test_a_wrong_layer_at_the_end_of_a_sequence_is_found(following: str, tmp_path: Path) -> None:
    first = F.leaky_relu(hidden(), 0.1)
    layer, output = {
        "hides": (lua("nn.Max", dimension=1), first.amax(0)),
        "shows": (lua("nn.Square"), first.square()),
    }[following]
    assert bool((hidden().amax(0) > 0).all())
    after = ran(network(0.1, ran(layer.changed(), lua_value(output)), stored=True), lua_value(output))
    fields = {"mode": "eval", "input": lua_value(X), "output": lua_value(output), "after": after}
    for slope, verdict, path in ((0.1, Verdict.EQUAL, None), (0.3, Verdict.DIFFERENT, "modules[1].modules[2]")):
        write_t7(tmp_path / "m.t7", network(slope, layer))
        result = verify(tmp_path / "m.t7", reference=LuaTable(fields.items()))
        first_deviating = result.first_deviating
        assert (result.verdict, first_deviating and first_deviating.path) == (verdict, path)


@pytest.mark.parametrize(
    ("after", "note"),
    [
        (network(0.1, lua("nn.Square")), "The reference's `after` contains no results of layers, as after clearState."),
        (LINEAR, "4 of 5 layers were not found in the reference's `after`, so they were not compared."),
        (
            network(0.1, lua("nn.Sqrt")),
            "The reference's `after` contains layers of other classes than the model: modules[2] (nn.Sqrt, not nn.Squ",
        ),
    ],
)
def test_what_the_module_after_the_run_lacks_is_said(after: LuaObject, note: str, tmp_path: Path) -> None:
    write_t7(tmp_path / "m.t7", network(0.1, lua("nn.Square")))
    output = lua_value(F.leaky_relu(hidden(), 0.1).square())
    fields = {"mode": "eval", "input": lua_value(X), "output": output, "after": after}
    result = verify(tmp_path / "m.t7", reference=LuaTable(fields.items()))
    assert result.verdict == Verdict.EQUAL
    assert any(text.startswith(note) for text in result.notes)


def test_a_seed_that_is_no_integer_is_refused(tmp_path: Path) -> None:
    write_t7(tmp_path / "m.t7", LINEAR)
    for seed in ("one", 0.5):
        table = LuaTable({"input": lua_value(X), "output": lua_value(hidden()), "seed": seed}.items())
        with pytest.raises(NoReferenceError, match="seed must be an integer, found"):
            verify(tmp_path / "m.t7", reference=table)


#: the second clone of ``nn.ReLU(true)`` overwrites the result of the second branch
CLONES = """
require 'nn'
local mode, size = 'train', torch.LongStorage{2, 4}
torch.manualSeed(3)
local function branch() return nn.Sequential():add(nn.Linear(4, 3)) end
local net = nn.Sequential():add(nn.ConcatTable():add(branch()):add(branch()))
net:add(nn.MapTable():add(nn.Sequential():add(nn.ReLU(true)):add(nn.Linear(3, 2)))):add(nn.JoinTable(2))
"""


@pytest.mark.torch7
def test_a_clone_in_place_overwrites_the_result_of_a_layer_before_it(tmp_path: Path) -> None:
    net, table = run_torch7(CLONES + RECORD_WITH_MODULE, program=os.environ["DPNN_TORCH7"])
    write_t7(tmp_path / "m.t7", net)
    assert verify(tmp_path / "m.t7", reference=table).verdict in (Verdict.EQUAL, Verdict.ROUNDING)
