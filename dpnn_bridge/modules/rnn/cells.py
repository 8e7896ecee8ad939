"""Create step modules from sizes, with the inner layers of Torch7's constructors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from dpnn_bridge.modules.nn.arithmetic import CAddTable, CMulTable
from dpnn_bridge.modules.nn.container import ConcatTable, ParallelTable
from dpnn_bridge.modules.nn.reshape import Reshape
from dpnn_bridge.modules.nn.table import FlattenTable, NarrowTable, SelectTable, SplitTable
from dpnn_bridge.modules.rnn.gated import GRU, FastLSTM
from dpnn_bridge.modules.rnn.misc import SAdd


def _gates(input_size: int, output_size: int, transfers: Sequence[nn.Module]) -> nn.Sequential:
    """Return a module that maps ``[input, state]`` to one gate for each activation function of ``transfers``."""
    n = len(transfers) * output_size
    return nn.Sequential(
        ParallelTable(nn.Linear(input_size, n), nn.Linear(output_size, n, bias=False)),
        CAddTable(),
        Reshape(len(transfers), output_size),
        SplitTable(1, 2),
        ParallelTable(*transfers),
    )


def _product(*positions: int) -> nn.Sequential:
    """Return a module that multiplies the elements of a list at the given positions, counted from 1."""
    return nn.Sequential(ConcatTable(*(SelectTable(p) for p in positions)), CMulTable())


def gru(input_size: int, output_size: int) -> GRU:
    """Create a :class:`GRU`.

    Lua:
        ``nn.GRU(inputSize, outputSize)``, GRU.lua
    """
    gates = _gates(input_size, output_size, [nn.Sigmoid(), nn.Sigmoid()])
    candidate = nn.Sequential(
        ConcatTable(
            nn.Sequential(SelectTable(1), nn.Linear(input_size, output_size)),
            nn.Sequential(NarrowTable(2, 2), CMulTable(), nn.Linear(output_size, output_size, bias=False)),
        ),
        CAddTable(),
        nn.Tanh(),
    )
    updated = nn.Sequential(ConcatTable(candidate, nn.Sequential(SelectTable(4), SAdd(-1, negate=True))), CMulTable())
    step = nn.Sequential(
        ConcatTable(nn.Identity(), gates),
        FlattenTable(),  # x, h, r, z
        ConcatTable(updated, _product(2, 4)),
        CAddTable(),
    )
    return GRU(step, input_size=input_size, output_size=output_size)


def fast_lstm(input_size: int, output_size: int) -> FastLSTM:
    """Create a :class:`FastLSTM`.

    Lua:
        ``nn.FastLSTM(inputSize, outputSize)``, FastLSTM.lua
    """
    transfers = [nn.Sigmoid(), nn.Tanh(), nn.Sigmoid(), nn.Sigmoid()]
    gates = nn.Sequential(NarrowTable(1, 2), _gates(input_size, output_size, transfers))
    cell = nn.Sequential(ConcatTable(_product(1, 2), _product(3, 5)), CAddTable())
    output = nn.Sequential(ConcatTable(nn.Sequential(SelectTable(1), nn.Tanh()), SelectTable(2)), CMulTable())
    step = nn.Sequential(
        ConcatTable(gates, SelectTable(3)),
        FlattenTable(),  # i, g, f, o, c
        ConcatTable(cell, SelectTable(4)),
        ConcatTable(output, SelectTable(1)),
    )
    return FastLSTM(step, input_size=input_size, output_size=output_size)


def gru_of(weight: Tensor, bias: Tensor, input_size: int, output_size: int) -> GRU:
    """Create a :class:`GRU` with the parameters of a :class:`~dpnn_bridge.modules.rnn.seq_gru.SeqGRU`."""
    n = 2 * output_size
    x, h = weight[:input_size].t(), weight[input_size:].t()
    return _filled(gru(input_size, output_size), [x[:n], bias[:n], h[:n], x[n:], bias[n:], h[n:]])


def fast_lstm_of(weight: Tensor, bias: Tensor, input_size: int, output_size: int) -> FastLSTM:
    """Create a :class:`FastLSTM` with the parameters of a :class:`~dpnn_bridge.modules.rnn.seq_lstm.SeqLSTM`."""
    i, f, o, g = weight.t().chunk(4)
    gates = torch.cat([i, g, f, o])
    i, f, o, g = bias.chunk(4)
    values = [gates[:, :input_size], torch.cat([i, g, f, o]), gates[:, input_size:]]
    return _filled(fast_lstm(input_size, output_size), values)


_ModuleT = TypeVar("_ModuleT", bound=nn.Module)


def _filled(module: _ModuleT, values: list[Tensor]) -> _ModuleT:
    """Set the parameters of a module to ``values``, with their device and dtype."""
    module.to(values[0].device, values[0].dtype)
    with torch.no_grad():
        for parameter, value in zip(module.parameters(), values, strict=True):
            parameter.copy_(value)
    return module
