"""Compute a sequence of LSTM steps, with PyTorch's own LSTM if possible."""

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
        weight: weight of the input, :math:`(4 H, I)`.
        recurrent: weight of the previous output, :math:`(4 H, H)`; :math:`(4 H, O)` with a projection.
        bias: bias :math:`(4 H)`.
        order: order of the gates' rows, a permutation of ``"ifgo"``: ``i`` input, ``f`` forget, ``g`` candidate, ``o``
            output.
        peepholes: peephole weights of the gates i, f and o, :math:`(3, H)`, or None.
        projection: weight of the projection to the output, :math:`(O, H)`, or None.
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
    """Compute the outputs of an LSTM for a sequence.

    Args:
        x: input :math:`(T, N, I)`.
        weights: the parameters.
        hidden: initial output, :math:`(N, H)`; :math:`(N, O)` with a projection.
        cell: initial cell, :math:`(N, H)`.
        mask: outputs and cells that are set to zero, :math:`(T, N, 1)`, or None.

    Returns:
        The outputs :math:`(T, N, H)` (:math:`(T, N, O)` with a projection), the last cell, and a function that returns
        all cells :math:`(T, N, H)`.
    """
    order, values = weights.order, (weights.weight, weights.recurrent, weights.bias)
    extensions = weights.peepholes, weights.projection
    run = _fused(x) if mask is None and all(v is None for v in extensions) else None
    if run is not None:
        outputs, last = run(order, x, *values, hidden, cell)
        return outputs, last, lambda: _cells(order, x, *values, hidden, cell, outputs)
    values = _Reordered.apply(order, *values) if order != TORCH_ORDER else values
    outputs, cells = LSTMSequence.apply(x, *values, *extensions, hidden, cell, mask)
    return outputs, cells[-1], lambda: cells


def _fused(x: Tensor) -> Callable[..., tuple[Tensor, Tensor]] | None:
    """Return a function that runs a sequence as one operation; None if PyTorch has none for this dtype and device."""
    if x.device.type == "cpu":
        return _OneDNN.apply if x.dtype == torch.float32 and has_onednn() else None
    return _torch_lstm if x.device.type == "cuda" and torch.backends.cudnn.enabled else None


class _Reordered(torch.autograd.Function):
    """Converts the gates' rows of tensors to PyTorch's order."""

    @staticmethod
    def forward(ctx: Any, order: str, *values: Tensor) -> tuple[Tensor, ...]:
        ctx.order, ctx.row_major = order, [value.is_contiguous() for value in values]
        return reordered(values, order)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        return None, *map(in_layout, reordered(gradients, TORCH_ORDER, ctx.order), ctx.row_major)


def reordered(values: Sequence[Tensor], order: str, new_order: str = TORCH_ORDER) -> tuple[Tensor, ...]:
    """Return row-major tensors with the gates' rows in another order."""
    values = tuple(value.contiguous() for value in values)
    if order == new_order:
        return values
    indices = [order.index(name) for name in new_order]
    return tuple(torch.cat([blocks[i] for i in indices]) for blocks in (value.chunk(4) for value in values))


def _reorder_in_place(value: Tensor, order: str, new_order: str) -> Tensor:
    """Reorder the gates' rows in place, because allocating another tensor takes more time than the copy."""
    blocks, indices, saved = value.chunk(4), [order.index(name) for name in new_order], {}
    for k, i in enumerate(indices):
        if i != k:
            if k in indices[k + 1 :]:
                saved[k] = blocks[k].clone()
            blocks[k].copy_(saved.get(i, blocks[i]))
    return value


def _torch_lstm(
    order: str, x: Tensor, weight: Tensor, recurrent: Tensor, bias: Tensor, hidden: Tensor, cell: Tensor
) -> tuple[Tensor, Tensor]:
    """Run ``torch.lstm``; return a copy of the outputs, because in-place operations may change them."""
    weights = [*_Reordered.apply(order, weight, recurrent, bias), torch.zeros_like(bias)]
    state = [hidden.unsqueeze(0), cell.unsqueeze(0)]
    outputs, _, last = torch.lstm(x, state, weights, True, 1, 0.0, torch.is_grad_enabled(), False, False)
    return outputs.clone(), last[0]


class _OneDNN(torch.autograd.Function):
    """Runs the operations of ``torch.lstm`` on the CPU, with support for second derivatives."""

    @staticmethod
    def forward(
        ctx: Any, order: str, x: Tensor, weight: Tensor, recurrent: Tensor, bias: Tensor, hidden: Tensor, cell: Tensor
    ) -> tuple[Tensor, Tensor]:
        train = any(ctx.needs_input_grad)
        inputs, size = _operands(order, x, weight, recurrent, bias, hidden, cell), (recurrent.shape[1], 1)
        with torch.set_grad_enabled(train):  # the operation saves its workspace only if gradients are enabled
            results = torch.ops.aten.mkldnn_rnn_layer(*inputs, False, [], _LSTM, *size, True, False, False, train)
        outputs, _, last, _ = results
        if not train:
            return outputs, last[0]
        ctx.order = order
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight, recurrent, bias, hidden, cell, *results)
        return outputs.clone(), last[0].clone()  # copies, because in-place operations may change the outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        *saved, workspace = ctx.saved_tensors
        values, results, order = saved[:6], saved[6:], ctx.order
        if torch.is_grad_enabled():  # for second derivatives
            steps = partial(_outputs_and_last_cell, order)
            return None, *differentiable(steps, values, ctx.needs_input_grad[1:], gradients)
        given, last = gradients
        last = None if last is None else last.unsqueeze(0)
        size, weights = (values[2].shape[1], 1), values[1:4]
        results = torch.ops.aten.mkldnn_rnn_layer_backward(
            *(*_operands(order, *values), *results, given, None, last),
            *(False, _LSTM, *size, True, True, False, [], False, workspace),
        )
        x, *parameters, _, hidden, cell = results
        parameters = [
            in_layout(_reorder_in_place(gradient, TORCH_ORDER, order), value.is_contiguous())
            for gradient, value in zip(parameters, weights, strict=True)
        ]
        return None, x, *parameters, hidden[0], cell[0]


#: number of the LSTM mode in PyTorch's recurrent operations
_LSTM = 2


def _operands(
    order: str, x: Tensor, weight: Tensor, recurrent: Tensor, bias: Tensor, hidden: Tensor, cell: Tensor
) -> list[Tensor]:
    """Return the tensor arguments of the operations, contiguous as they require."""
    weights = reordered((weight.detach(), recurrent.detach(), bias.detach()), order)
    states = (hidden.unsqueeze(0), cell.unsqueeze(0))
    return [x.detach().contiguous(), *weights, torch.zeros_like(bias), *(s.detach().contiguous() for s in states)]


def _outputs_and_last_cell(
    order: str, x: Tensor, weight: Tensor, recurrent: Tensor, bias: Tensor, hidden: Tensor, cell: Tensor
) -> tuple[Tensor, Tensor]:
    weight, recurrent, bias = reordered((weight, recurrent, bias), order)
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
    """Compute the cells of all steps from the outputs, because ``torch.lstm`` returns only the last cell."""
    before = torch.cat([hidden.unsqueeze(0), outputs[:-1]])
    gates = dict(zip(order, (x @ weight.t() + bias + before @ recurrent.t()).chunk(4, 2), strict=True))
    cells = []
    for forget, new in zip(gates["f"].sigmoid(), gates["i"].sigmoid() * gates["g"].tanh(), strict=True):
        cell = forget * cell + new
        cells.append(cell)
    return torch.stack(cells)
