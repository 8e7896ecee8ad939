"""Recurrent modules as layers of ``torch.nn``."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FIXTURES
from torch import nn

import dpnn_bridge
from dpnn_bridge import memory
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.modules.nn.arithmetic import CAddTable
from dpnn_bridge.modules.nn.nngraph import GModule, GraphNode
from dpnn_bridge.modules.rnn.cells import fast_lstm, gru
from dpnn_bridge.modules.rnn.recurrence import Recursor
from dpnn_bridge.modules.rnn.seq_lstm import SeqLSTM, SeqLSTMP
from dpnn_bridge.modules.rnn.sequencer import Sequencer


@pytest.mark.parametrize(
    "make", [lambda: Sequencer(Recursor(fast_lstm(3, 4))), lambda: SeqLSTM(3, 4), lambda: SeqLSTMP(3, 4, 2)]
)
def test_a_layer_of_torch_computes_the_same(make: Any) -> None:
    model, xs = make().double(), torch.randn(5, 2, 3, dtype=torch.float64)
    stock = memory.to_stock(model)
    assert type(stock) is nn.LSTM
    torch.testing.assert_close(stock(xs)[0], model(xs))
    assert not any(p.data_ptr() == q.data_ptr() for p in stock.parameters() for q in model.parameters())


def test_the_layers_of_a_step_model_become_one_layer() -> None:
    model = dpnn_bridge.load(FIXTURES / "samples/char-rnn__lstm/model.t7").double()
    assert memory.to_stock(model).dropout == 0.1
    stock, characters = memory.to_stock(model.eval()), torch.randint(1, 32, (5, 2))
    _, (c1, h1, c2, h2) = memory.run_sequence(model, characters, [torch.zeros(2, 24).double()] * 4)
    _, states = stock(nn.functional.one_hot(characters - 1, 31).double())
    torch.testing.assert_close(states, (torch.stack([h1, h2]), torch.stack([c1, c2])))
    assert stock.dropout == 0.1
    assert not any(m.training for m in (stock, *model.modules()))


def simple() -> nn.Module:
    """A simple recurrent layer as nngraph makes one: ``[x, h]`` -> ``[h', h']``."""
    parts = [nn.Linear(3, 4), nn.Linear(4, 4), CAddTable(), nn.Tanh()]
    nodes = [GraphNode(), GraphNode((0,), select=1), GraphNode((1,), "0"), GraphNode((0,), select=2)]
    nodes += [GraphNode((3,), "1"), GraphNode((2, 4), "2"), GraphNode((5,), "3"), GraphNode((6, 6))]
    return GModule(*parts, nodes=nodes, num_inputs=2)


def test_a_simple_recurrent_layer_becomes_one_of_torch() -> None:
    model, xs = simple(), torch.randn(5, 2, 3)
    stock = memory.to_stock(model)
    assert type(stock) is nn.RNN
    torch.testing.assert_close(stock(xs)[0], memory.run_sequence(model, xs, [torch.zeros(2, 4)])[0])


@pytest.mark.parametrize("make", [lambda: gru(3, 4), lambda: SeqLSTM(3, 4, mask_zero=True), lambda: nn.Linear(3, 4)])
def test_what_no_layer_of_torch_computes_is_refused(make: Any) -> None:
    with pytest.raises(ConversionError, match=r"no layer of torch\.nn is equivalent"):
        memory.to_stock(make())


def test_a_written_program_says_how_to_convert_its_recurrent_layers(tmp_path: Path) -> None:
    odd: Any = fast_lstm(3, 4)
    odd.recurrent_module[0][0][1][1] = nn.Linear(5, 16, bias=False)
    model = nn.Sequential(Sequencer(fast_lstm(3, 4)), Sequencer(gru(4, 2)), SeqLSTM(2, 3), Sequencer(odd))
    dpnn_bridge.write_t7(tmp_path / "net.t7", model)
    dpnn_bridge.convert(tmp_path / "net.t7", tmp_path / "net.py")
    text = ast.get_docstring(ast.parse((tmp_path / "net.py").read_text())) or ""
    *_, load, first, second = text.splitlines()
    assert load.strip() == "model = dpnn_bridge.load('net.t7')"
    names = {"dpnn_bridge": dpnn_bridge, "model": dpnn_bridge.load(tmp_path / "net.t7")}
    assert [repr(eval(line.strip(), names)) for line in (first, second)] == ["LSTM(3, 4)", "LSTM(2, 3)"]
