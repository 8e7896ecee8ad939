"""A whole sequence of LSTM steps, by PyTorch's own LSTM where it computes the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dpnn_bridge.modules.rnn.lstm_kernel import LSTMSequence, lstm_steps
from dpnn_bridge.modules.rnn.products import differentiable, pulled_back


@dataclass(frozen=True)
class LSTMWeights:
    """The parameters of an LSTM.

    Args:
        weight: of the input, :math:`(4 H, I)`.
        recurrent: of the output of the step before, :math:`(4 H, H)`.
        bias: :math:`(4 H)`.
        order: the gates in the order of the rows: ``i`` input, ``f`` forget, ``g`` candidate, ``o`` output.
        peepholes: of the gates i, f and o, :math:`(3, H)`, or None.
    """

    weight: Tensor
    recurrent: Tensor
    bias: Tensor
    order: str
    peepholes: Tensor | None = None


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
    w = weights
    if mask is None and w.peepholes is None and _has_fused_kernel(x):
        outputs, last = _StockLSTM.apply(x, w.weight, w.recurrent, w.bias, hidden, cell, w.order)
        return outputs, last, lambda: _cells(x, w, hidden, cell, outputs)
    outputs, cells = LSTMSequence.apply(x, w.weight, w.recurrent, w.bias, w.peepholes, hidden, cell, mask, w.order)
    return outputs, cells[-1], lambda: cells


def _has_fused_kernel(x: Tensor) -> bool:
    """Return whether ``torch.lstm`` runs the whole sequence as one operation, and not as one for each step."""
    if x.device.type == "cpu":
        return x.dtype == torch.float32 and torch._C._get_mkldnn_enabled()  # pyright: ignore[reportAttributeAccessIssue]
    return x.device.type == "cuda" and torch.backends.cudnn.enabled


class _StockLSTM(torch.autograd.Function):
    """``torch.lstm``, whose gradient can be differentiated and whose outputs may be changed in place."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, recurrent: Tensor, bias: Tensor, hidden: Tensor, cell: Tensor, order: str
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.order = order
        inputs = [x, weight, recurrent, bias, hidden, cell]
        run = _stock_run(inputs, ctx.needs_input_grad, order)
        outputs, last = run[1]
        if not any(ctx.needs_input_grad):
            return outputs, last
        holder = x.new_empty(0)
        holder.run = run  # type: ignore[attr-defined]  # a saved tensor, and so what it holds, is freed by backward
        ctx.save_for_backward(*inputs, holder)
        return outputs.detach().clone(), last.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        *inputs, holder = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient itself is to be differentiated
            return differentiable(_last_cell(ctx.order), inputs, ctx.needs_input_grad, gradients)
        # hooks on saved tensors may have put another in the place of the holder
        aliases, results = getattr(holder, "run", None) or _stock_run(inputs, ctx.needs_input_grad, ctx.order)
        found = pulled_back(results, aliases, ctx.needs_input_grad, gradients, retain_graph=True)
        weights = (None if v is None else _arranged(v, "ifgo", ctx.order) for v in found[1:4])
        return found[0], *weights, *found[4:]


def _stock_run(inputs: list[Tensor], needed: Sequence[bool], order: str) -> tuple[list[Tensor], list[Tensor]]:
    """Run ``torch.lstm`` in a graph of its own; return the inputs of that graph, and outputs and last cell."""
    x, weight, recurrent, bias, hidden, cell = inputs
    values = [x, *(_arranged(v, order, "ifgo") for v in (weight, recurrent, bias)), hidden, cell]
    aliases = [v.detach().requires_grad_(n) for v, n in zip(values, needed, strict=False)]
    x, *weights, hidden, cell = aliases
    train = any(needed)
    with torch.set_grad_enabled(train):
        state = [hidden.unsqueeze(0).contiguous(), cell.unsqueeze(0).contiguous()]
        weights.append(torch.zeros_like(bias))
        outputs, _, last = torch.lstm(x, state, weights, True, 1, 0.0, train, False, False)
        return aliases, [outputs, last[0]]


def _arranged(value: Tensor, order: str, wanted: str) -> Tensor:
    """Return ``value`` with the blocks of its gates in another order."""
    if order == wanted:
        return value.contiguous()
    blocks = dict(zip(order, value.chunk(4), strict=True))
    return torch.cat([blocks[name] for name in wanted])


def _last_cell(order: str) -> Callable[..., tuple[Tensor, Tensor]]:
    def steps(x: Tensor, weight: Tensor, recurrent: Tensor, bias: Tensor, hidden: Tensor, cell: Tensor) -> Any:
        outputs, cells = lstm_steps(x, weight, recurrent, bias, None, hidden, cell, None, order)
        return outputs, cells[-1]

    return steps


def _cells(x: Tensor, weights: LSTMWeights, hidden: Tensor, cell: Tensor, outputs: Tensor) -> Tensor:
    """Return the cells after all steps, from the outputs: ``torch.lstm`` returns the last one only."""
    before = torch.cat([hidden.unsqueeze(0), outputs[:-1]])
    gates = x @ weights.weight.t() + weights.bias + before @ weights.recurrent.t()
    blocks = dict(zip(weights.order, gates.chunk(4, 2), strict=True))
    forget, new = blocks["f"].sigmoid(), blocks["i"].sigmoid() * blocks["g"].tanh()
    cells = []
    for f, n in zip(forget, new, strict=True):
        cell = f * cell + n
        cells.append(cell)
    return torch.stack(cells)
