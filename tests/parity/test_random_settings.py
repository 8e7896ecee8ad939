"""With the random numbers of a reference a layer computes what Torch7 did: its settings are compared, too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from formula import linear, lua
from torch import nn

from dpnn_bridge.compare.verdict import Verdict
from dpnn_bridge.conversion import to_torch
from dpnn_bridge.conversion.lua_values import lua_value
from dpnn_bridge.objects import LuaObject, LuaTable
from dpnn_bridge.parity import check_module

NOISE = torch.tensor([[0.0, 2, 2], [2, 0, 2]]).double()
X = torch.tensor([[1.0, 2, 3], [4, 5, 6]]).double()


def dropout(p: float, **fields: Any) -> LuaObject:
    return lua("nn.Dropout", p=p, v2=True, train=True, noise=NOISE, **fields)


def verdicts(model: nn.Module, after: LuaObject, **values: Any) -> dict[str, Verdict]:
    table = LuaTable({"mode": "train", "input": lua_value(X), "after": after, **values})
    return {d.name: d.verdict for d in check_module(model, table, gradients=False).differences}


def test_another_probability_is_different() -> None:
    layers = linear(3, 3)
    after = lua("nn.Sequential", layers, dropout(0.5), train=True)
    right, wrong = (to_torch(lua("nn.Sequential", layers, dropout(p), train=True)) for p in (0.5, 0.3))
    output = lua_value((NOISE * right[0](X)).detach())  # type: ignore[index]
    assert set(verdicts(right, after, output=output).values()) == {Verdict.EQUAL}
    found = verdicts(wrong, after, output=output)
    assert found["output"] == Verdict.EQUAL  # the mask is the reference's
    assert found["after.1.p"] == Verdict.DIFFERENT


def test_a_network_that_was_written_by_hand_is_compared_too() -> None:
    after = lua("nn.Sequential", dropout(0.5), train=True)
    output = lua_value(NOISE * X)
    for p, expected in ((0.5, []), (0.3, ["after.0.p"])):
        found = verdicts(nn.Sequential(nn.Dropout(p)).double(), after, output=output)
        assert [name for name, verdict in found.items() if verdict == Verdict.DIFFERENT] == expected


def test_a_rounded_probability_and_a_subclass_are_the_same() -> None:
    class Own(nn.Dropout):
        pass

    after = lua("nn.Sequential", dropout(1 - 0.9), train=True)
    for layer in (nn.Dropout(0.1), Own(0.1)):
        found = verdicts(nn.Sequential(layer).double(), after, output=lua_value(NOISE * X))
        assert found["output"] == Verdict.EQUAL
        assert Verdict.DIFFERENT not in found.values()


@pytest.mark.parametrize(
    ("name", "fields", "changed"),
    [
        ("nn.WhiteNoise", {"mean": 0.0, "std": 0.1}, {"std": 0.2}),
        ("nn.ReinforceNormal", {"stdev": 0.1}, {"stdev": 0.2}),
        ("nn.RReLU", {"lower": 0.1, "upper": 0.4}, {"upper": 0.5}),
    ],
)
def test_settings_of_other_random_layers(name: str, fields: dict[str, Any], changed: dict[str, Any]) -> None:
    noise = "output" if "Reinforce" in name else "noise"
    stored = {noise: NOISE, "train": True}
    after = lua(name, **fields, **stored)
    module: Any = to_torch(lua(name, **{**fields, **changed}, **stored))
    same: Any = to_torch(lua(name, **fields, **stored))
    (attribute,) = changed
    assert f"after.{attribute}" not in verdicts(same, after)
    assert verdicts(module, after)[f"after.{attribute}"] == Verdict.DIFFERENT
