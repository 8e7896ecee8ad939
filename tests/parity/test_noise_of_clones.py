"""Noise of nn.LanguageModel of neuraltalk2: Torch7 has a clone for each time step, and each stores its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from formula import lua, random
from torch import Tensor

from dpnn_bridge.conversion import to_torch
from dpnn_bridge.conversion.lua_values import lua_value
from dpnn_bridge.conversion.noise import has_noise
from dpnn_bridge.objects import LuaObject, LuaTable
from dpnn_bridge.parity.fixture import check
from dpnn_bridge.torch7.draws import torch7_random

CAPTIONS = torch.tensor([[2, 1], [0, 3], [0, 0]])
STEPS, RAN = 5, 4
IMAGES, WORDS = random(2, 4, seed=1), random(4, 4, seed=2)
NOISE = [(torch.arange(8).view(2, 4) % (t + 2) > 0).double() * 2 for t in range(STEPS)]


def step(noise: Tensor | None) -> LuaObject:
    dropout = lua("nn.Dropout", p=0.5, v2=True, train=True, **({} if noise is None else {"noise": noise}))
    output = lua("nn.Sequential", lua("nn.CAddTable", inplace=False), dropout)
    return lua("nn.ConcatTable", lua("nn.CAddTable", inplace=False), output)


def model(noise: list[Tensor | None], ran: int = RAN) -> LuaObject:
    clones = [step(n) for n in noise]
    return lua(
        "nn.LanguageModel", core=clones[0] if clones else step(NOISE[0]), clones=LuaTable.from_list(clones),
        lookup_table=lua("nn.LookupTable", weight=WORDS), vocab_size=3, seq_length=3, num_state=1, rnn_size=4,
        init_state=LuaTable(), train=True, tmax=ran,
    )  # fmt: skip


def fixture(after: LuaObject, output: Tensor, **values: Any) -> LuaTable:
    x = [IMAGES, CAPTIONS]
    return LuaTable({"module": model([]), "input": lua_value(x), "output": lua_value(output), "after": after, **values})


def expected() -> Tensor:
    tokens = torch.cat([torch.tensor([[3, 3]]), (CAPTIONS - 1).clamp(min=0)])
    states = torch.cat([IMAGES[None], WORDS[tokens]]).cumsum(0) * torch.stack(NOISE)
    states[RAN:] = 0
    return states


@pytest.mark.parametrize("seed", [{}, {"seed": 3}])
@pytest.mark.parametrize("last", [None, torch.ones(5, 4)], ids=["never ran", "ran on a larger batch"])
def test_each_step_uses_the_noise_of_its_clone(last: Tensor | None, seed: dict[str, int]) -> None:
    found = check(fixture(model([*NOISE[:RAN], last]), expected(), **seed))
    assert [d.name for d in found.failures] == []


@pytest.mark.parametrize("wrong", range(RAN))
def test_the_noise_of_another_step_is_wrong(wrong: int) -> None:
    noise = [*NOISE]
    noise[wrong] = 2 - noise[wrong]
    assert [d.name for d in check(fixture(model([*noise]), expected())).failures] == ["output"]


@pytest.mark.parametrize("noise", [[], NOISE[:2], [*NOISE[:2], None, *NOISE[3:]]], ids=["none", "short", "one absent"])
def test_the_seed_counts_if_the_noise_of_a_step_is_absent(noise: list[Any]) -> None:
    """The noise of the first step was used for every step: 13 results of neuraltalk2's model differed."""
    module = to_torch(model([]))
    with torch7_random(3):
        output = module([IMAGES, CAPTIONS])
    assert not has_noise(module, model(noise))
    assert check(fixture(model(noise), output, seed=3)).ok
    assert not check(fixture(model(noise), output, seed=4)).ok


def test_evaluation_needs_no_noise() -> None:
    module = to_torch(model([])).eval()
    assert not has_noise(module, model([*NOISE]))
