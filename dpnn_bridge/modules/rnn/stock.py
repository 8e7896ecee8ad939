"""Convert recurrent modules to layers of ``torch.nn``, for programs that expect ``nn.LSTM`` or ``nn.RNN``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dpnn_bridge.base.boundary import wrap_errors
from dpnn_bridge.conversion.modes import restoring_modes
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.modules.nn.nngraph import GModule
from dpnn_bridge.modules.rnn.algebra import Term, depends_on
from dpnn_bridge.modules.rnn.gated import StepModule
from dpnn_bridge.modules.rnn.lstm import LSTMWeights, reordered
from dpnn_bridge.modules.rnn.over_time import recognized
from dpnn_bridge.modules.rnn.recognition import Cell, LSTMCell, RNNCell, stacked
from dpnn_bridge.modules.rnn.recurrence import Recursor
from dpnn_bridge.modules.rnn.seq_lstm import SeqLSTM
from dpnn_bridge.modules.rnn.sequencer import Sequencer
from dpnn_bridge.modules.rnn.step_models import StepModel, step_model


class _Layer(NamedTuple):
    """Parameters of one layer of a multi-layer ``nn.LSTM`` or ``nn.RNN``, with the gates in PyTorch's order."""

    torch_type: type[nn.LSTM | nn.RNN]
    weight: Tensor
    recurrent: Tensor
    bias: Tensor
    projection: Tensor | None = None


@wrap_errors(ConversionError, "converting to a layer of torch.nn")
def to_stock(module: nn.Module) -> nn.LSTM | nn.RNN:
    """Convert a recurrent module to an equivalent ``nn.LSTM`` or ``nn.RNN`` with copies of the parameters.

    ``bias_ih_l0`` is the bias of the module, and ``bias_hh_l0`` is zero. The layer does not contain remembered states,
    nor the layers of a step model before the first and after the last recurrent layer.

    Args:
        module: a step module such as ``FastLSTM``; a ``Sequencer`` or ``Recursor`` of a step module; ``SeqLSTM``;
            ``SeqLSTMP``; or an nngraph step model such as char-rnn's, whose recurrent layers become one multi-layer
            ``nn.LSTM`` or ``nn.RNN``.

    Raises:
        ConversionError: no layer of ``torch.nn`` is equivalent, for example because of peepholes, masks, or a reset
            gate before the product.

    Examples:
        >>> to_stock(SeqLSTM(3, 4))
        LSTM(3, 4)
    """
    while isinstance(module, (Sequencer, Recursor)):
        module = module.module
    layers, dropout = _layers(module)
    if len({(layer.torch_type, layer.recurrent.shape) for layer in layers}) != 1:
        reason = "an equivalent one has equal layers without peepholes, masks, and reset gates before the product"
        raise ConversionError(f"no layer of torch.nn is equivalent to this {type(module).__name__}: {reason}")
    first = layers[0]
    sizes = (first.weight.shape[1], len(first.weight) // (4 if first.torch_type is nn.LSTM else 1), len(layers))
    projected: dict[str, Any] = {} if first.projection is None else {"proj_size": len(first.projection)}
    like = {"dtype": first.weight.dtype, "device": first.weight.device}
    stock = first.torch_type(*sizes, dropout=dropout, **projected, **like)
    with torch.no_grad():
        for k, layer in enumerate(layers):
            values = [layer.weight, layer.recurrent, layer.bias, torch.zeros_like(layer.bias), layer.projection]
            for parameter, value in zip(stock._all_weights[k], values, strict=False):
                getattr(stock, parameter).copy_(value)
    return stock.train(module.training)


def stock_layers(model: nn.Module) -> Iterator[tuple[str, nn.LSTM | nn.RNN]]:
    """Yield the name of each outermost module that :func:`to_stock` can convert, and the converted layer."""
    outer: str | None = None
    for name, module in model.named_modules():
        inside = outer is not None and (not outer or name.startswith(f"{outer}."))
        if inside or not isinstance(module, (Sequencer, Recursor, SeqLSTM, StepModule, GModule)):
            continue
        try:
            layer = to_stock(module)
        except ConversionError:  # no equivalent layer, or wrong sizes, which a call of the module reports
            continue
        yield name, layer
        outer = name


def _layers(module: nn.Module) -> tuple[list[_Layer], float]:
    """Return the recurrent layers of a module, empty if one is not recognized, and the dropout between them."""
    if isinstance(module, SeqLSTM):
        if module.mask_zero or (module.weight_o is not None and module.output_size >= module.hidden_size):
            return [], 0.0
        weight, recurrent = (part.t() for part in module.weight.split([module.input_size, module.output_size]))
        projection = None if module.weight_o is None else module.weight_o.t()
        return [_lstm(LSTMWeights(weight, recurrent, module.bias, "ifog"), projection)], 0.0
    if isinstance(module, StepModule):
        found = recognized(module)
        return ([], 0.0) if found is None or found.mask is not None else (_of_cells([found.cell]), 0.0)
    plan = _plan(module) if isinstance(module, GModule) else None
    cells, rates = ([], set()) if plan is None else _chain(plan)
    return (_of_cells(cells), max(rates, default=0.0)) if len(rates) < 2 else ([], 0.0)


def _plan(model: GModule) -> StepModel | None:
    """Represent a step model, if possible with its dropout in training mode."""
    states = model.num_inputs - 1
    with restoring_modes(model):
        for module in model.modules():
            module.training |= isinstance(module, nn.Dropout)
        plan = step_model(model, states)
    return step_model(model, states) if plan is None else plan


def _chain(plan: StepModel) -> tuple[list[Cell], set[float]]:
    """Return the cells of a step model in order, empty if they are not a stack; and the dropout rates between them."""
    remaining = [*{indices: cell for cell, indices in plan.cells.values()}.items()]
    cells: list[Cell] = []
    rates: set[float] = set()
    below: Term | None = None
    while remaining:
        for entry in remaining:
            source, rate = _without_dropout(entry[1].input)
            if source is below or (below is None and not depends_on(source, plan.before)):
                break
        else:
            return [], set()
        rates |= set() if below is None else {rate}
        remaining.remove(entry)
        cells.append(entry[1])
        below = plan.states[entry[0][0]]
    return cells, rates


def _without_dropout(term: Term) -> tuple[Term, float]:
    """Return the input of a dropout, and its probability; for another term the term and 0."""
    if term.kind == "module" and isinstance(term.args[1], nn.Dropout):
        return term.args[0], term.args[1].p
    return term, 0.0


def _of_cells(cells: list[Cell]) -> list[_Layer]:
    """Return equivalent layers for the cells, empty if a cell has no equivalent in ``torch.nn``."""
    layers = []
    for cell in cells:
        if cell.dropouts:
            return []
        if isinstance(cell, LSTMCell) and (weights := cell.weights()).peepholes is None:
            layers.append(_lstm(weights))
        elif isinstance(cell, RNNCell):
            weight, bias, recurrent = stacked(cell.gates, "n")
            layers.append(_Layer(nn.RNN, weight, recurrent, bias))
        else:
            return []
    return layers


def _lstm(weights: LSTMWeights, projection: Tensor | None = None) -> _Layer:
    values = [weights.weight, weights.recurrent, weights.bias]
    weight, recurrent, bias = reordered(values, weights.order)
    return _Layer(nn.LSTM, weight, recurrent, bias, projection)
