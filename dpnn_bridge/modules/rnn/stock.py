"""Recurrent modules as layers of ``torch.nn``, for programs that expect ``nn.LSTM`` or ``nn.RNN``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.modes import restoring_modes
from dpnn_bridge.modules.nn.nngraph import GModule
from dpnn_bridge.modules.rnn.algebra import Term, depends_on
from dpnn_bridge.modules.rnn.gated import StepModule
from dpnn_bridge.modules.rnn.lstm import LSTMWeights, arranged
from dpnn_bridge.modules.rnn.over_time import recognized
from dpnn_bridge.modules.rnn.recognition import Cell, LSTMCell, RNNCell, stacked
from dpnn_bridge.modules.rnn.recurrence import Recursor
from dpnn_bridge.modules.rnn.seq_lstm import SeqLSTM
from dpnn_bridge.modules.rnn.sequencer import Sequencer
from dpnn_bridge.modules.rnn.step_models import StepModel, step_model


class _Layer(NamedTuple):
    """One layer of a recurrent layer of ``torch.nn``, with its parameters in PyTorch's order."""

    kind: type[nn.LSTM | nn.RNN]
    weight: Tensor
    recurrent: Tensor
    bias: Tensor
    projection: Tensor | None = None


def to_stock(module: nn.Module) -> nn.LSTM | nn.RNN:
    """Return a layer of ``torch.nn`` with copies of the parameters, which computes the same over a sequence.

    ``weight_ih_l0`` and ``bias_ih_l0`` are the matrix and the bias of the input, ``weight_hh_l0`` is the matrix of the
    state. The rows of the gates are in PyTorch's order, and ``bias_hh_l0`` is zero. Remembered states are not part of
    the layer, nor what a step model computes before the first and after the last layer.

    Args:
        module: a step module such as ``FastLSTM``, a ``Sequencer`` or ``Recursor`` of one, ``SeqLSTM``, ``SeqLSTMP``,
            or an nngraph step model such as that of char-rnn, whose layers become those of one layer of ``torch.nn``.

    Raises:
        ValueError: no layer of ``torch.nn`` computes the same, for example with peepholes, masks, or a reset gate
            before the product.

    Examples:
        >>> to_stock(SeqLSTM(3, 4))
        LSTM(3, 4)
    """
    while isinstance(module, (Sequencer, Recursor)):
        module = module.module
    layers, dropout = _layers(module)
    if len({(layer.kind, layer.recurrent.shape) for layer in layers}) != 1:
        raise ValueError(f"no layer of torch.nn computes what this {type(module).__name__} computes")
    first = layers[0]
    sizes = (first.weight.shape[1], len(first.weight) // (4 if first.kind is nn.LSTM else 1), len(layers))
    projected: dict[str, Any] = {} if first.projection is None else {"proj_size": len(first.projection)}
    like = {"dtype": first.weight.dtype, "device": first.weight.device}
    stock = first.kind(*sizes, dropout=dropout, **projected, **like)
    with torch.no_grad():
        for k, layer in enumerate(layers):
            values = [layer.weight, layer.recurrent, layer.bias, torch.zeros_like(layer.bias), layer.projection]
            for parameter, value in zip(stock._all_weights[k], values, strict=False):
                getattr(stock, parameter).copy_(value)
    return stock.train(module.training)


def stock_layers(model: nn.Module) -> Iterator[tuple[str, nn.LSTM | nn.RNN]]:
    """Yield the name of each outermost module that :func:`to_stock` converts, and the layer of ``torch.nn``."""
    above: str | None = None
    for name, module in model.named_modules():
        inside = above is not None and (not above or name.startswith(f"{above}."))
        if inside or not isinstance(module, (Sequencer, Recursor, SeqLSTM, StepModule, GModule)):
            continue
        try:
            layer = to_stock(module)
        except (
            ValueError,
            RuntimeError,
        ):  # torch.nn computes something else, or sizes do not fit, as calls will report
            continue
        yield name, layer
        above = name


def _layers(module: nn.Module) -> tuple[list[_Layer], float]:
    """Return the layers, none if they are unknown, and the dropout between them."""
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
    cells, chances = ([], set()) if plan is None else _chain(plan)
    return (_of_cells(cells), max(chances, default=0.0)) if len(chances) < 2 else ([], 0.0)


def _plan(model: GModule) -> StepModel | None:
    """Return what a step model computes, if possible with the dropout that evaluation mode leaves out."""
    states = model.num_inputs - 1
    with restoring_modes(model):
        for module in model.modules():
            module.training |= isinstance(module, nn.Dropout)
        plan = step_model(model, states)
    return step_model(model, states) if plan is None else plan


def _chain(plan: StepModel) -> tuple[list[Cell], set[float]]:
    """Return the cells of a step model, none if they are not one above the other; and the dropout between them."""
    left = [*{places: cell for cell, places in plan.cells.values()}.items()]
    cells: list[Cell] = []
    chances: set[float] = set()
    below: Term | None = None
    while left:
        for entry in left:
            source, chance = _without_dropout(entry[1].input)
            if source is below or (below is None and not depends_on(source, plan.before)):
                break
        else:
            return [], set()
        chances |= set() if below is None else {chance}
        left.remove(entry)
        cells.append(entry[1])
        below = plan.states[entry[0][0]]
    return cells, chances


def _without_dropout(term: Term) -> tuple[Term, float]:
    if term.kind == "module" and isinstance(term.args[1], nn.Dropout):
        return term.args[0], term.args[1].p
    return term, 0.0


def _of_cells(cells: list[Cell]) -> list[_Layer]:
    """Return the layers that compute the same as cells, none if one of them is of another kind."""
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
    weight, recurrent, bias = arranged(values, weights.order)
    return _Layer(nn.LSTM, weight, recurrent, bias, projection)
