"""Export recurrent layers: LSTM as rnn's SeqLSTM, others as cells that rnn's Sequencer and Recurrence run stepwise."""

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
from dpnn_bridge.modules.pytorch.input_dimensions import dimensions
from dpnn_bridge.modules.pytorch.parts import Parts, refuse
from dpnn_bridge.modules.rnn.recurrence import Recurrence
from dpnn_bridge.modules.rnn.seq_lstm import SeqLSTM, SeqLSTMP
from dpnn_bridge.modules.rnn.sequencer import Sequencer
from dpnn_bridge.objects import LuaObject


def _sequence(module: Any, ctx: LuaContext, make: Callable[[str, int], nn.Module]) -> LuaObject:
    """Compose the layers and directions of a recurrent layer.

    Args:
        module: the layer.
        ctx: context of the export.
        make: function of the suffix of a layer's parameters and its number of input features; returns a module for
            inputs :math:`(T, N, *)`.
    """
    if module.dropout == 1:
        refuse(module, "dropout=1", "dropout below 1 can be exported")
    parts, size, layers = Parts(module, ctx), module.input_size, list[LuaObject]()
    for number in range(module.num_layers):
        if number and module.dropout:
            layers.append(parts("Dropout", p=module.dropout, v2=True, stochastic_inference=False))
        suffix = f"_l{number}"
        forward = ctx.to_lua(make(suffix, size).train(module.training))
        size = getattr(module, "proj_size", 0) or module.hidden_size
        if not module.bidirectional:
            layers.append(forward)
            continue
        inner = module.input_size if number == 0 else 2 * size
        backward = ctx.to_lua(make(f"{suffix}_reverse", inner).train(module.training))
        reverse = [parts("SeqReverseSequence", dim=1) for _ in range(2)]
        layers.append(parts.join("JoinTable", forward, parts.chain(reverse[0], backward, reverse[1]), dimension=3))
        size *= 2
    if module.batch_first and dimensions(module, ctx) != 2:
        layers = [parts.swap(1, 2), *layers, parts.swap(1, 2)]
    return parts.of_batch(3, *layers, position=2)


# ---------------------------------------------------------------------- long short-term memory
@composition(nn.LSTM)
def lstm(module: nn.LSTM, ctx: LuaContext) -> LuaObject:
    """Export an LSTM; rnn has one bias, the sum of PyTorch's two."""
    if not module.bias:
        refuse(module, "bias=False in an LSTM", "set bias=True and the biases to zero")

    def layer(suffix: str, size: int) -> nn.Module:
        own = nn.ParameterList(p for name, p in module.named_parameters() if name.endswith(suffix))
        return ctx.with_parameters_of_first(_seq_lstm(module, suffix, size), own)

    return _sequence(module, ctx, layer)


def _seq_lstm(module: nn.LSTM, suffix: str, size: int) -> nn.Module:
    def permuted(tensor: Tensor) -> nn.Parameter:
        """Permute the gates to the order of rnn: input, forget, output, cell."""
        i, f, g, o = tensor.detach().chunk(4)
        return nn.Parameter(torch.cat([i, f, o, g]))

    def own(name: str) -> Tensor:
        tensor = getattr(module, name + suffix).detach()
        return tensor.float() if tensor.itemsize == 2 else tensor  # files store the sum of the biases in 32 bits

    if module.proj_size:
        equivalent: SeqLSTM = SeqLSTMP(size, module.hidden_size, module.proj_size)
        equivalent.weight_o = nn.Parameter(own("weight_hr").t().contiguous())
    else:
        equivalent = SeqLSTM(size, module.hidden_size)
    weight = permuted(torch.cat([own("weight_ih"), own("weight_hh")], 1))
    equivalent.weight = nn.Parameter(weight.detach().t().contiguous())
    equivalent.bias = permuted(own("bias_ih") + own("bias_hh"))
    return equivalent


# ---------------------------------------------------------------------- cells
def _linear(module: Any, suffix: str) -> nn.Linear:
    """Return a linear layer with the module's parameters of a suffix such as ``ih_l0``."""
    weight, bias = getattr(module, f"weight_{suffix}"), getattr(module, f"bias_{suffix}", None)
    equivalent = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    equivalent._parameters |= {"weight": weight, "bias": bias}
    return equivalent


def _both(module: Any, suffix: str) -> nn.Module:
    """Return a module that maps ``[x, h]`` to the products of both with their weights."""
    return ParallelTable(_linear(module, f"ih{suffix}"), _linear(module, f"hh{suffix}"))


def _pick(index: int, start: int, size: int) -> nn.Module:
    """Return a module that selects columns of one of several matrices."""
    return nn.Sequential(SelectTable(index), Narrow(2, start + 1, size))


def _joined(table_layer: nn.Module, *branches: nn.Module) -> nn.Module:
    """Return parallel branches whose outputs are combined by a table layer."""
    return nn.Sequential(ConcatTable(*branches), table_layer)


def _sum_of(start: int, size: int) -> nn.Module:
    """Return a module that adds the same columns of two matrices."""
    return _joined(CAddTable(), _pick(1, start, size), _pick(2, start, size))


def _rnn_cell(module: Any, suffix: str = "") -> nn.Module:
    """Return the Elman cell, a module that maps ``[x, h]`` to the next h."""
    activation = nn.Tanh() if module.nonlinearity == "tanh" else nn.ReLU()
    return nn.Sequential(_both(module, suffix), CAddTable(), activation)


def _gru_cell(module: Any, suffix: str = "") -> nn.Module:
    """Return the GRU cell, a module that maps ``[x, h]`` to the next h.

    The reset gate is applied after the product with the weight, as in PyTorch, but unlike in rnn.
    """
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
    """Return the LSTM cell, a module that maps ``[x, [h, c]]`` to the next ``[h, c]``."""
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
    cell = _gru_cell if isinstance(module, nn.GRU) else _rnn_cell
    return _sequence(
        module, ctx, lambda suffix, size: Sequencer(Recurrence(cell(module, suffix), module.hidden_size, 1))
    )


@composition(nn.GRUCell, nn.RNNCell, nn.LSTMCell)
def step(module: Any, ctx: LuaContext) -> LuaObject:
    """Export a cell; its input in Lua is ``{x, h}``, or ``{x, {h, c}}`` for an LSTM."""
    cells: dict[type[nn.Module], Callable[[Any], nn.Module]] = {nn.GRUCell: _gru_cell, nn.RNNCell: _rnn_cell}
    return ctx.to_lua(cells.get(type(module), _lstm_cell)(module).train(module.training))
