"""Recurrent layers: LSTM as rnn's SeqLSTM, others as cells that rnn's Sequencer and Recurrence run step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.contexts import LuaContext
from dpnn_bridge.conversion.registry import composition
from dpnn_bridge.modules.nn.arithmetic import CAddTable, CMulTable, CSubTable
from dpnn_bridge.modules.nn.container import ConcatTable, ParallelTable
from dpnn_bridge.modules.nn.reshape import Narrow
from dpnn_bridge.modules.nn.table import SelectTable
from dpnn_bridge.modules.pytorch.parts import Parts, refuse
from dpnn_bridge.modules.rnn.recurrence import Recurrence
from dpnn_bridge.modules.rnn.seq_lstm import SeqLSTM, SeqLSTMP
from dpnn_bridge.modules.rnn.sequencer import Sequencer
from dpnn_bridge.objects import LuaObject


def _sequence(module: Any, ctx: LuaContext, make: Callable[[str, int], nn.Module]) -> LuaObject:
    """Return the layers and directions of a recurrent layer.

    Args:
        module: the layer.
        ctx: the conversion.
        make: gives a module on :math:`(T, N, *)` for the suffix of its parameters and the number of its features.
    """
    if module.dropout == 1:
        refuse(module, "dropout=1", "dropout below 1 can be written")
    parts, size, layers = Parts(module, ctx), module.input_size, list[LuaObject]()
    for number in range(module.num_layers):
        if number and module.dropout:
            layers.append(parts("Dropout", p=module.dropout, v2=True, inplace=False))
        suffix = f"_l{number}"
        forward = ctx.to_lua(make(suffix, size).train(module.training))
        size = getattr(module, "proj_size", 0) or module.hidden_size
        if not module.bidirectional:
            layers.append(forward)
            continue
        inner = module.input_size if number == 0 else 2 * size
        backward = ctx.to_lua(make(f"{suffix}_reverse", inner).train(module.training))
        turns = [parts("SeqReverseSequence", dim=1) for _ in range(2)]
        layers.append(parts.join("JoinTable", forward, parts.chain(turns[0], backward, turns[1]), dimension=3))
        size *= 2
    if module.batch_first:
        layers = [parts.swap(1, 2), *layers, parts.swap(1, 2)]
    return parts.chain(*layers)


# ---------------------------------------------------------------------- long short-term memory
@composition(nn.LSTM)
def lstm(module: nn.LSTM, ctx: LuaContext) -> LuaObject:
    """Export an LSTM; rnn's single bias is the sum of both."""
    if not module.bias:
        refuse(module, "bias=False in an LSTM", "one with biases, of zero, can be written")

    def layer(suffix: str, size: int) -> nn.Module:
        own = nn.ParameterList(p for name, p in module.named_parameters() if name.endswith(suffix))
        return ctx.with_parameters_of_first(_seq_lstm(module, suffix, size), own)

    return _sequence(module, ctx, layer)


def _seq_lstm(module: nn.LSTM, suffix: str, size: int) -> nn.Module:
    def arranged(tensor: Tensor) -> nn.Parameter:
        """Return the gates in the order of rnn: input, forget, output, cell."""
        i, f, g, o = tensor.detach().chunk(4)
        return nn.Parameter(torch.cat([i, f, o, g]))

    def own(name: str) -> Tensor:
        return getattr(module, name + suffix).detach()

    if module.proj_size:
        twin: SeqLSTM = SeqLSTMP(size, module.hidden_size, module.proj_size)
        twin.weight_o = nn.Parameter(own("weight_hr").t().contiguous())
    else:
        twin = SeqLSTM(size, module.hidden_size)
    weight = arranged(torch.cat([own("weight_ih"), own("weight_hh")], 1))
    twin.weight = nn.Parameter(weight.detach().t().contiguous())
    twin.bias = arranged(own("bias_ih") + own("bias_hh"))
    return twin


# ---------------------------------------------------------------------- cells
def _linear(module: Any, names: str) -> nn.Linear:
    """Return a linear layer with the module's own parameters, ``names`` such as ``ih_l0``."""
    weight, bias = getattr(module, f"weight_{names}"), getattr(module, f"bias_{names}", None)
    twin = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    twin._parameters |= {"weight": weight, "bias": bias}
    return twin


def _both(module: Any, suffix: str) -> nn.Module:
    """Return the module ``[x, h]`` -> the products of both with their weights."""
    return ParallelTable(_linear(module, f"ih{suffix}"), _linear(module, f"hh{suffix}"))


def _pick(index: int, start: int, size: int) -> nn.Module:
    """Return the module that selects columns of one of several matrices."""
    return nn.Sequential(SelectTable(index), Narrow(2, start + 1, size))


def _joined(how: nn.Module, *branches: nn.Module) -> nn.Module:
    return nn.Sequential(ConcatTable(*branches), how)


def _sum_of(start: int, size: int) -> nn.Module:
    return _joined(CAddTable(), _pick(1, start, size), _pick(2, start, size))


def _plain_cell(module: Any, suffix: str = "") -> nn.Module:
    """Return the module ``[x, h]`` -> the next h, of an Elman network."""
    activation = nn.Tanh() if module.nonlinearity == "tanh" else nn.ReLU()
    return nn.Sequential(_both(module, suffix), CAddTable(), activation)


def _gru_cell(module: Any, suffix: str = "") -> nn.Module:
    """Return the module ``[x, h]`` -> the next h; the reset gate follows the product, as in cuDNN but not rnn."""
    size = module.hidden_size
    products = nn.Sequential(
        ConcatTable(
            nn.Sequential(SelectTable(1), _linear(module, f"ih{suffix}")),
            nn.Sequential(SelectTable(2), _linear(module, f"hh{suffix}")),
            SelectTable(2),
        )
    )
    reset = nn.Sequential(_sum_of(0, size), nn.Sigmoid())
    update = nn.Sequential(_sum_of(size, size), nn.Sigmoid())
    kept = _joined(CMulTable(), reset, _pick(2, 2 * size, size))
    new = nn.Sequential(_joined(CAddTable(), _pick(1, 2 * size, size), kept), nn.Tanh())
    change = _joined(CMulTable(), SelectTable(2), _joined(CSubTable(), SelectTable(3), SelectTable(1)))
    mixed = _joined(CAddTable(), SelectTable(1), change)
    return nn.Sequential(products, ConcatTable(new, update, SelectTable(3)), mixed)


def _lstm_cell(module: Any) -> nn.Module:
    """Return the module ``[x, [h, c]]`` -> the next ``[h, c]``."""
    size = module.hidden_size
    state = nn.Sequential(SelectTable(2), SelectTable(1))
    sums = _joined(
        CAddTable(), nn.Sequential(SelectTable(1), _linear(module, "ih")), nn.Sequential(state, _linear(module, "hh"))
    )
    flat = ConcatTable(sums, nn.Sequential(SelectTable(2), SelectTable(2)))

    def gate(number: int, activation: nn.Module) -> nn.Module:
        return nn.Sequential(_pick(1, number * size, size), activation)

    new = _joined(CMulTable(), gate(0, nn.Sigmoid()), gate(2, nn.Tanh()))
    cell = _joined(CAddTable(), _joined(CMulTable(), gate(1, nn.Sigmoid()), SelectTable(2)), new)
    output = _joined(CMulTable(), SelectTable(1), nn.Sequential(SelectTable(2), nn.Tanh()))
    return nn.Sequential(flat, ConcatTable(gate(3, nn.Sigmoid()), cell), ConcatTable(output, SelectTable(2)))


@composition(nn.GRU, nn.RNN)
def stepwise(module: Any, ctx: LuaContext) -> LuaObject:
    cell = _gru_cell if isinstance(module, nn.GRU) else _plain_cell
    return _sequence(
        module, ctx, lambda suffix, size: Sequencer(Recurrence(cell(module, suffix), module.hidden_size, 1))
    )


@composition(nn.GRUCell, nn.RNNCell, nn.LSTMCell)
def step(module: Any, ctx: LuaContext) -> LuaObject:
    """Export a cell that takes ``{x, h}``, for LSTM ``{x, {h, c}}``."""
    makers: dict[type[nn.Module], Callable[[Any], nn.Module]] = {nn.GRUCell: _gru_cell, nn.RNNCell: _plain_cell}
    return ctx.to_lua(makers.get(type(module), _lstm_cell)(module).train(module.training))
