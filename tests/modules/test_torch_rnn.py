"""Layers of torch-rnn: states between calls, inputs of other shapes, what a new layer is written with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from formula import DOUBLE, agree, converted, lua, random
from torch import nn

from dpnn_bridge.conversion import to_lua, to_torch
from dpnn_bridge.modules.nn.reshape import View
from dpnn_bridge.zoo import torch_rnn
from dpnn_bridge.zoo.grid_gru import GRU
from dpnn_bridge.zoo.torch_rnn import LSTM, TemporalAdapter, TemporalCrossEntropyCriterion, VanillaRNN


def test_a_new_lstm_remembers_at_first() -> None:
    assert LSTM(2, 3).bias.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    assert not VanillaRNN(2, 3).bias.any()


@pytest.mark.parametrize("make", [LSTM, VanillaRNN, GRU])
def test_a_state_that_was_always_given_is_not_remembered(make: Any) -> None:
    """Torch7 starts from the last output if ``h0`` is its own, which a call with given states does not fill."""
    module, x = make(3, 4, remember_states=True).double(), random(2, 5, 3)
    h, c = random(2, 4, seed=1), random(2, 4, seed=2)
    given = [c, h] if module.states == 2 else [h]
    fresh = module(x)
    module.reset_states()
    module([*given, x])
    read = to_torch(to_lua(module))
    agree(read(x), fresh)
    agree(module(x), fresh)
    assert not torch.equal(module(x), fresh)
    module([*given, x])
    assert not torch.equal(module(x), fresh)


def test_a_cell_is_remembered_while_the_output_is_given() -> None:
    module, x = LSTM(3, 4, remember_states=True).double(), random(2, 5, 3)
    h = random(2, 4, seed=1)
    module([h, x])
    assert module.last is not None
    cell = module.last[0]
    plain = LSTM(3, 4).double()
    plain.load_state_dict({name: module.get_parameter(name) for name in ("weight", "bias")})
    expected = plain([cell, torch.zeros_like(h), x])
    agree(to_torch(to_lua(module))(x), expected)
    agree(module(x), expected)


def test_given_states_may_have_another_batch_size_than_remembered_ones() -> None:
    module, state = LSTM(3, 4, remember_states=True), torch.zeros(1, 4)
    module(torch.ones(2, 5, 3))
    assert module([state, state, torch.ones(1, 5, 3)]).shape == (1, 5, 4)


@pytest.mark.parametrize(
    ("input", "message"),
    [
        ([torch.zeros(2, 4)] * 2 + [torch.zeros(2, 5, 3)], "at most 1 initial states, found 2"),
        (torch.zeros(5, 3), r"expects an input of shape \(N, T, 3\), found \(5, 3\)"),
        (torch.zeros(2, 5, 4), r"found \(2, 5, 4\)"),
        ([torch.zeros(1, 4), torch.zeros(2, 5, 3)], r"an initial state has shape \(1, 4\), expected \(2, 4\)"),
    ],
)
def test_inputs_of_another_shape_are_refused(input: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VanillaRNN(3, 4)(input)


@pytest.mark.parametrize("target", [torch.ones(3, 2), torch.ones(6), torch.ones(1, 6)])
def test_a_target_of_another_shape_is_refused(target: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"found \(2, 3, 4\) and"):
        TemporalCrossEntropyCriterion()(torch.zeros(2, 3, 4), target)


def test_a_new_criterion_and_a_new_adapter_hold_what_torch7_needs() -> None:
    inner = to_lua(TemporalCrossEntropyCriterion())["lsm"]
    assert [m.class_name for m in inner["modules"].as_list()] == ["nn.View", "nn.LogSoftMax", "nn.View"]
    read = converted(lua("nn.TemporalCrossEntropyCriterion", batch_average=True, time_average=False))
    agree(read(torch.zeros(1, 2, 4, dtype=DOUBLE), torch.ones(1, 2)), 2 * torch.tensor(4.0).double().log())

    views = [View(1, -1, num_input_dims=dims) for dims in (3, 2)]
    adapter = TemporalAdapter(nn.Sequential(views[0], nn.Linear(3, 4), views[1]))
    written = to_lua(adapter)
    first, _, last = written["net"]["modules"].as_list()
    assert written["view_in"] is first
    assert written["view_out"] is last
    assert adapter(torch.zeros(2, 5, 3)).shape == (2, 5, 4)


def test_the_position_of_a_view_is_found_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each view was compared with all modules before it."""
    compared = 0

    class Number(int):
        __hash__ = int.__hash__

        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return super().__eq__(other)

    monkeypatch.setattr(torch_rnn, "id", lambda value: Number(id(value)), raising=False)
    modules = [lua("nn.View") for _ in range(40)]
    assert torch_rnn.positions([*modules, modules[3]], modules[::2]) == list(range(0, 40, 2))
    assert compared < 100
