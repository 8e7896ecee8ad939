"""Clones that share weights and not gradients: the one gradient here is checked against all of Torch7's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from formula import linear, lua, random
from torch import Tensor

from dpnn_bridge.compare.differences import Tolerance
from dpnn_bridge.compare.verdict import Verdict
from dpnn_bridge.conversion import to_torch
from dpnn_bridge.modules.nn import MapTable, WeightNorm
from dpnn_bridge.objects import LuaTable, LuaTensor
from dpnn_bridge.parity.fixture import random_numbers
from dpnn_bridge.parity.gradients import compare_gradients, memory_of
from dpnn_bridge.training import parameters

V, G = random(3, 4, seed=1), random(3, seed=2)
INPUTS = [random(5, 4, seed=seed) for seed in (3, 4, 5)]


def in_torch7(weights: list[Tensor]) -> list[Tensor]:
    """``gradV``, ``gradG`` and ``gradBias`` of each clone, by the lines of WeightNorm.lua.

    Args:
        weights: the gradient of the weight by each element of the list.
    """
    norm = (V.square().sum(1, keepdim=True) + 1e-4).sqrt()
    scale, found, shared = G.view(-1, 1) / norm, [], torch.zeros_like(V)
    for k, weight in enumerate(weights):
        shared = shared + weight
        lengths = (shared * V / norm).sum(1, keepdim=True)
        shared = shared * scale - V * scale / norm * lengths
        found += [shared, lengths, torch.full((3,), 15.0).double() if k == 0 else torch.empty(0).double()]
    return found


def cloned() -> MapTable:
    norm = lua("nn.WeightNorm", linear(4, 3), v=V, g=G.view(3, 1), bias=random(3), outputDim=1)
    module = MapTable(to_torch(norm))
    torch.stack(module(INPUTS)).sum().backward()
    return module


def test_the_second_way_through_the_normalization_is_taken_into_account() -> None:
    module = cloned()
    expected = in_torch7([x.sum(0).expand(3, 4) for x in INPUTS])
    found = compare_gradients(module, parameters(module)[1], expected, Tolerance())
    assert isinstance(module[0], WeightNorm)
    assert [d.verdict for d in found].count(Verdict.KNOWN) >= 6
    assert all(d.ok for d in found)


@pytest.mark.parametrize("wrong", range(8))
def test_no_other_value_is_excused(wrong: int) -> None:
    module = cloned()
    expected = in_torch7([x.sum(0).expand(3, 4) for x in INPUTS])
    expected[wrong] = expected[wrong] + 1e-6
    found = compare_gradients(module, parameters(module)[1], expected, Tolerance())
    assert all(d.ok for d in found) == (expected[wrong].numel() == 0)


def test_views_of_one_memory_are_known_as_one() -> None:
    values = LuaTensor.from_numpy(np.zeros(6))
    view = LuaTensor(values.class_name, (2,), (1,), 4, values.storage)
    first, second, third = memory_of(LuaTable.from_list([values, view, values]))
    assert first == third != second
    assert memory_of(LuaTable.from_list([values, LuaTable()]))[0] == first


def test_numbers_of_a_seed_are_drawn_where_no_noise_is_stored() -> None:
    module, x = to_torch(lua("nn.Dropout", p=0.5, v2=True, train=True)), torch.ones(1000)

    def drawn() -> Tensor:
        with random_numbers(module, LuaTable({"seed": 3, "after": lua("nn.Dropout", p=0.5)})):
            return module(x)

    assert torch.equal(drawn(), drawn())
