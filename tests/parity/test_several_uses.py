"""Layers that are used twice: what one in place leaves of earlier results, and random numbers of the last use only."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from formula import linear, lua, random

import dpnn_bridge
from dpnn_bridge import write_t7
from dpnn_bridge.compare.verdict import Verdict
from dpnn_bridge.conversion.lua_values import lua_value
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor
from dpnn_bridge.parity.left_results import LeftResults
from dpnn_bridge.parity.verify import verify
from dpnn_bridge.torch7.draws import torch7_random

X = random(3, 4, seed=1)


@pytest.mark.parametrize(
    ("inside", "off"), [("", 0.0), ("", 1e-6), ("nn.Sequential", 0.0), ("nn.Sequential", 1e-6), ("nn.ConcatTable", 0.0)]
)
def test_a_layer_in_place_that_runs_twice_overwrites_both_inputs(off: float, inside: str, tmp_path: Path) -> None:
    first, second = linear(4, 5, seed=2), linear(5, 3, seed=4)
    relu = lua("nn.ReLU", threshold=0, val=0, inplace=True)

    def net(*layers: LuaObject) -> LuaObject:
        start = [layers[0]] if not inside else [lua(inside, layers[0], train=False)]
        if inside == "nn.ConcatTable":
            start[0]["output"] = LuaTable.from_list([layers[0]["output"]] if "output" in layers[0] else [])
            start.append(lua("nn.SelectTable", index=1, train=False))
        return lua("nn.Sequential", *start, *layers[1:], train=False)

    def after(layer: LuaObject, output: LuaTensor) -> LuaObject:
        return LuaObject(layer.class_name, LuaTable({**dict(layer.items()), "output": output}))

    w, b, v, c = (torch.from_numpy(layer[name].numpy()) for layer in (first, second) for name in ("weight", "bias"))
    hidden = (X @ w.T + b).relu()
    output = (hidden @ v.T + c).relu()
    left, last = lua_value(hidden + off), lua_value(output)
    assert isinstance(left, LuaTensor)
    assert isinstance(last, LuaTensor)
    used = after(relu, last)
    ran = net(after(first, left), used, after(second, last), used)
    ran["output"] = last
    write_t7(tmp_path / "model.t7", net(first, relu, second, relu))
    table = {"mode": "eval", "input": lua_value(X), "output": last, "after": ran}
    write_t7(tmp_path / "ref.t7", LuaTable(table))
    found = verify(tmp_path / "model.t7", reference=tmp_path / "ref.t7").verdict
    assert found == (Verdict.DIFFERENT if off else Verdict.EQUAL)


@pytest.mark.parametrize("seed", [3, None])
def test_a_container_with_random_numbers_that_runs_twice(seed: int | None, tmp_path: Path) -> None:
    dropout = lua("nn.Dropout", p=0.4, v2=True, inplace=False, train=True)
    block = lua("nn.Sequential", dropout, lua("nn.Tanh"), train=True)
    net = lua("nn.Sequential", linear(4, 4), block, linear(4, 4, seed=5), block, train=True)
    write_t7(tmp_path / "model.t7", net)
    with torch7_random(3):
        output = dpnn_bridge.load(tmp_path / "model.t7")(X).detach()
    dropout["noise"] = lua_value(random(3, 4).gt(0).double() / 0.6)  # the noise of the last use
    table: dict[str, Any] = {"mode": "train", "input": lua_value(X), "output": lua_value(output), "after": net}
    write_t7(tmp_path / "ref.t7", LuaTable({**table, **({} if seed is None else {"seed": seed})}))
    found = verify(tmp_path / "model.t7", reference=tmp_path / "ref.t7")
    assert found.verdict == (Verdict.RANDOM if seed is None else Verdict.EQUAL)


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan, 1.7e308, -1.7e308])
def test_results_that_a_layer_left_are_found_beside_numbers_without_a_sum(number: float) -> None:
    torch.manual_seed(0)
    results = torch.randn(40, 5, 7, dtype=torch.float64)
    results[torch.rand_like(results) < 0.3] = number
    search = LeftResults(enumerate(results), lambda a, b: torch.allclose(a, b, rtol=1e-10, equal_nan=True))
    for i, result in enumerate(results):
        assert search.layer_of(torch.zeros(5, 7, dtype=torch.float64), result.clone()) == i


def test_results_that_a_layer_left_are_found_among_many_with_the_same_sum() -> None:
    numbers, compared = torch.arange(-50.0, 51.0).double(), 0
    generator = torch.Generator().manual_seed(0)
    results = [numbers[torch.randperm(101, generator=generator)] for _ in range(400)]

    def agrees(a: torch.Tensor, b: torch.Tensor) -> bool:
        nonlocal compared
        compared += 1
        return torch.allclose(a, b, rtol=0, atol=1e-4)

    search, noise = LeftResults(enumerate(results), agrees), 1e-6 * torch.randn(101).double()
    for i, result in enumerate(results):
        assert search.layer_of(numbers, result + noise) == i
        assert search.layer_of(numbers, result + 0.01 * numbers.sign()) is None
        assert search.layer_of([numbers, numbers], [numbers, result]) == i
        assert search.layer_of(numbers, numbers) is None  # it was not overwritten
    assert compared < 400 * 20
