"""A whole sequence of LSTM steps, by PyTorch's own LSTM where it computes the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dpnn_bridge.modules.rnn.lstm_kernel import LSTMSequence, lstm_steps
from dpnn_bridge.modules.rnn.products import differentiable, has_onednn, in_layout

#: the order of the gates in ``torch.nn.LSTM``
TORCH_ORDER = "ifgo"


@dataclass(frozen=True)
class LSTMWeights:
    """The parameters of an LSTM.

    Args:
        weight: of the input, :math:`(4 H, I)`.
        recurrent: of the output of the step before, :math:`(4 H, H)`; :math:`(4 H, O)` with a projection.
        bias: :math:`(4 H)`.
        order: the gates in the order of the rows: ``i`` input, ``f`` forget, ``g`` candidate, ``o`` output.
        peepholes: of the gates i, f and o, :math:`(3, H)`, or None.
        projection: of what the cell gives to the output, :math:`(O, H)`, or None.
    """

    weight: Tensor
    recurrent: Tensor
    bias: Tensor
    order: str
    peepholes: Tensor | None = None
    projection: Tensor | None = None


def lstm_sequence(
    x: Tensor, weights: LSTMWeights, hidden: Tensor, cell: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor, Callable[[], Tensor]]:
    """Compute the outputs of an LSTM over a sequence.

    Args:
        x: :math:`(T, N, I)`.
        weights: the parameters.
        hidden: output at the start, :math:`(N, H)`.
        cell: cell at the start, :math:`(N, H)`.
        mask: outputs and cells that are zero, :math:`(T, N, 1)`, or None.

    Returns:
        The outputs :math:`(T, N, H)`, the last cell, and a function that returns the cells :math:`(T, N, H)`.
    """
    order, values = weights.order, (weights.weight, weights.recurrent, weights.bias)
    added = weights.peepholes, weights.projection
    run = _fused(x) if mask is None and all(v is None for v in added) else None
    if run is not None:
        outputs, last = run(order, x, *values, hidden, cell)
        return outputs, last, lambda: _cells(order, x, *values, hidden, cell, outputs)
    values = _Arranged.apply(order, *values) if order != TORCH_ORDER else values
    outputs, cells = LSTMSequence.apply(x, *values, *added, hidden, cell, mask)
    return outputs, cells[-1], lambda: cells


def _fused(x: Tensor) -> Callable[..., tuple[Tensor, Tensor]] | None:
    """Return a function that runs the whole sequence as one operation, if there is one for this type and device."""
    if x.device.type == "cpu":
        return _OneDNN.apply if x.dtype == torch.float32 and has_onednn() else None
    return _torch_lstm if x.device.type == "cuda" and torch.backends.cudnn.enabled else None


class _Arranged(torch.autograd.Function):
    """Tensors with the blocks of their gates in PyTorch's order."""

    @staticmethod
    def forward(ctx: Any, order: str, *values: Tensor) -> tuple[Tensor, ...]:
        ctx.order, ctx.row_major = order, [value.is_contiguous() for value in values]
        return arranged(values, order)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        return None, *_arranged_back(gradients, ctx.order, ctx.row_major)


def arranged(values: Sequence[Tensor], order: str, wanted: str = TORCH_ORDER) -> tuple[Tensor, ...]:
    """Return tensors with the blocks of their gates in another order, row-major in memory."""
    values = tuple(value.contiguous() for value in values)
    if order == wanted:
        return values
    places = [order.index(name) for name in wanted]
    return tuple(torch.cat([blocks[k] for k in places]) for blocks in (value.chunk(4) for value in values))


def _arranged_back(gradients: Sequence[Tensor], order: str, row_major: Sequence[bool]) -> list[Tensor]:
    """Return gradients of arranged tensors as those of the tensors, in the memory layouts of these."""
    return [*map(in_layout, arranged(gradients, TORCH_ORDER, order), row_major)]


def _arrange_in_place(value: Tensor, order: str, wanted: str) -> Tensor:
    """Exchange the blocks of the gates; another tensor would take new memory, which costs more time than the copy."""
    blocks, places, kept = value.chunk(4), [order.index(name) for name in wanted], {}
    for k, place in enumerate(places):
        if place != k:
            if k in places[k + 1 :]:
                kept[k] = blocks[k].clone()
            blocks[k].copy_(kept.get(place, blocks[place]))
    return value


def _torch_lstm(
    order: str, x: Tensor, weight: Tensor, recurrent: Tensor, bias: Tensor, hidden: Tensor, cell: Tensor
) -> tuple[Tensor, Tensor]:
    """Run ``torch.lstm``; the outputs may be changed in place."""
    weights = [*_Arranged.apply(order, weight, recurrent, bias), torch.zeros_like(bias)]
    state = [hidden.unsqueeze(0), cell.unsqueeze(0)]
    outputs, _, last = torch.lstm(x, state, weights, True, 1, 0.0, torch.is_grad_enabled(), False, False)
    return outputs.clone(), last[0]


class _OneDNN(torch.autograd.Function):
    """The operations of ``torch.lstm`` on a CPU, so that the gradient can be differentiated in turn."""

    @staticmethod
    def forward(
        ctx: Any, order: str, x: Tensor, weight: Tensor, recurrent: Tensor, bias: Tensor, hidden: Tensor, cell: Tensor
    ) -> tuple[Tensor, Tensor]:
        train = any(ctx.needs_input_grad)
        inputs, size = _operands(order, x, weight, recurrent, bias, hidden, cell), (recurrent.shape[1], 1)
        with torch.set_grad_enabled(train):  # without, it keeps nothing for backward
            results = torch.ops.aten.mkldnn_rnn_layer(*inputs, False, [], _LSTM, *size, True, False, False, train)
        outputs, _, last, _ = results
        if not train:
            return outputs, last[0]
        ctx.order = order
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight, recurrent, bias, hidden, cell, *results)
        return outputs.clone(), last[0].clone()  # which may be changed in place

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        *saved, workspace = ctx.saved_tensors
        values, results, order = saved[:6], saved[6:], ctx.order
        if torch.is_grad_enabled():  # the gradient itself is to be differentiated
            steps = partial(_outputs_and_last_cell, order)
            return None, *differentiable(steps, values, ctx.needs_input_grad[1:], gradients)
        given, last = gradients
        last = None if last is None else last.unsqueeze(0)
        size, weights = (values[2].shape[1], 1), values[1:4]
        found = torch.ops.aten.mkldnn_rnn_layer_backward(
            *(*_operands(order, *values), *results, given, None, last),
            *(False, _LSTM, *size, True, True, False, [], False, workspace),
        )
        x, *parameters, _, hidden, cell = found
        parameters = [
            in_layout(_arrange_in_place(gradient, TORCH_ORDER, order), value.is_contiguous())
            for gradient, value in zip(parameters, weights, strict=True)
        ]
        return None, x, *parameters, hidden[0], cell[0]


#: the number of the mode LSTM in PyTorch's recurrent operations
_LSTM = 2


def _operands(
    order: str, x: Tensor, weight: Tensor, recurrent: Tensor, bias: Tensor, hidden: Tensor, cell: Tensor
) -> list[Tensor]:
    """Return the tensors that the operations take, which they read as if they were contiguous."""
    weights = arranged((weight.detach(), recurrent.detach(), bias.detach()), order)
    states = (hidden.unsqueeze(0), cell.unsqueeze(0))
    return [x.detach().contiguous(), *weights, torch.zeros_like(bias), *(s.detach().contiguous() for s in states)]


def _outputs_and_last_cell(
    order: str, x: Tensor, weight: Tensor, recurrent: Tensor, bias: Tensor, hidden: Tensor, cell: Tensor
) -> tuple[Tensor, Tensor]:
    weight, recurrent, bias = arranged((weight, recurrent, bias), order)
    outputs, cells = lstm_steps(x, weight, recurrent, bias, None, None, hidden, cell, None)
    return outputs, cells[-1]


def _cells(
    order: str,
    x: Tensor,
    weight: Tensor,
    recurrent: Tensor,
    bias: Tensor,
    hidden: Tensor,
    cell: Tensor,
    outputs: Tensor,
) -> Tensor:
    """Return the cells after all steps, from the outputs: ``torch.lstm`` returns the last one only."""
    before = torch.cat([hidden.unsqueeze(0), outputs[:-1]])
    gates = dict(zip(order, (x @ weight.t() + bias + before @ recurrent.t()).chunk(4, 2), strict=True))
    cells = []
    for forget, new in zip(gates["f"].sigmoid(), gates["i"].sigmoid() * gates["g"].tanh(), strict=True):
        cell = forget * cell + new
        cells.append(cell)
    return torch.stack(cells)
