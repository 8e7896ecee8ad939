"""A whole sequence of LSTM steps, with or without peepholes, in few operations."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from dpnn_bridge.modules.rnn.products import AddedProduct, differentiable, product


def lstm_steps(
    x: Tensor,
    weight: Tensor,
    recurrent: Tensor,
    bias: Tensor,
    peepholes: Tensor | None,
    hidden: Tensor,
    cell: Tensor,
    mask: Tensor | None,
    order: str,
) -> tuple[Tensor, Tensor]:
    """Compute the outputs and cells of a sequence by operations that autograd knows, one time step after the other.

    Args:
        x: :math:`(T, N, I)`.
        weight, recurrent, bias: of input and state, :math:`(4 H, I)`, :math:`(4 H, H)` and :math:`(4 H)`.
        peepholes: of the gates i, f and o, :math:`(3, H)`, or None.
        hidden, cell: output and cell at the start, :math:`(N, H)`.
        mask: which outputs and cells are zero, :math:`(T, N, 1)`, or None.
        order: the gates in the order of the rows: ``i`` input, ``f`` forget, ``g`` candidate, ``o`` output.
    """
    outputs, cells = [], []
    for t, step in enumerate((x @ weight.t() + bias).unbind(0)):
        gates = dict(zip(order, (step + hidden @ recurrent.t()).chunk(4, 1), strict=True))
        i, f, g, o = (gates[name] for name in "ifgo")
        if peepholes is not None:
            i, f = i + peepholes[0] * cell, f + peepholes[1] * cell
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        if mask is not None:
            cell = cell.masked_fill(mask[t], 0)
        if peepholes is not None:
            o = o + peepholes[2] * cell
        hidden = o.sigmoid() * cell.tanh()  # zero where the cell is
        outputs.append(hidden)
        cells.append(cell)
    return torch.stack(outputs), torch.stack(cells)


class LSTMSequence(torch.autograd.Function):
    """The same as :func:`lstm_steps`. Of each step, the gates and the cell are kept for backward."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        recurrent: Tensor,
        bias: Tensor,
        peepholes: Tensor | None,
        hidden: Tensor,
        cell: Tensor,
        mask: Tensor | None,
        order: str,
    ) -> tuple[Tensor, Tensor]:
        T, N, H = *x.shape[:2], recurrent.shape[1]
        gates = product(x.reshape(T * N, -1), weight, bias).view(T, N, 4 * H)
        cells, outputs = x.new_empty(T, N, H), x.new_empty(T, N, H)
        added = AddedProduct(recurrent, N, T)
        blocks = {name: slice(k * H, (k + 1) * H) for k, name in enumerate(order)}
        i, f, g, o = (gates[..., blocks[name]].unbind(0) for name in "ifgo")
        sigmoids = _sigmoids(order, H, with_output=peepholes is None)
        activated = [gates[..., part].unbind(0) for part in sigmoids]
        previous_h, previous_c = hidden, cell
        for t, (c, out) in enumerate(zip(cells.unbind(0), outputs.unbind(0), strict=True)):
            step = added(gates[t], previous_h)
            if peepholes is not None:
                step[:, blocks["i"]].addcmul_(previous_c, peepholes[0])
                step[:, blocks["f"]].addcmul_(previous_c, peepholes[1])
            for part, result in zip(sigmoids, activated, strict=True):
                torch.sigmoid(step[:, part], out=result[t])
            torch.tanh(step[:, blocks["g"]], out=g[t])
            torch.mul(f[t], previous_c, out=c).addcmul_(i[t], g[t])
            if mask is not None:
                c.masked_fill_(mask[t], 0)
            if peepholes is not None:
                torch.sigmoid(step[:, blocks["o"]].addcmul_(c, peepholes[2]), out=o[t])
            torch.tanh(c, out=out).mul_(o[t])
            previous_h, previous_c = out, c
        ctx.order = order
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight, recurrent, bias, peepholes, hidden, cell, mask, gates, cells)
        return outputs, cells

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        *inputs, gates, cells = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient itself is to be differentiated
            return differentiable(partial(lstm_steps, order=ctx.order), inputs, ctx.needs_input_grad, gradients)
        x, weight, recurrent, _, peepholes, hidden, cell, mask = inputs
        T, N, H = cells.shape
        blocks = {name: slice(k * H, (k + 1) * H) for k, name in enumerate(ctx.order)}
        i, f, g, o = (gates[..., blocks[name]] for name in "ifgo")
        before = torch.cat([cell.unsqueeze(0), cells[:-1]])
        through = cells.tanh()
        outputs = through * o
        # the derivatives of cell and output by the gates before their transfer functions, for all steps at once
        local = 1 - gates
        local *= gates
        di, df, dg, do = (local[..., blocks[name]] for name in "ifgo")
        di *= g
        df *= before
        do *= through
        torch.mul(g, g, out=dg).neg_().add_(1).mul_(i)
        through = through.square_().neg_().add_(1).mul_(o)  # of the output by the cell
        carried = f
        if peepholes is not None:
            through.addcmul_(do, peepholes[2])
            carried = torch.addcmul(f, di, peepholes[0]).addcmul_(df, peepholes[1])
        if mask is not None:
            carried = carried.masked_fill(mask, 0)
            for part in (local, through):
                part.masked_fill_(mask, 0)
        dhidden, dcell = _backward_steps(gradients, local, do, through, carried, recurrent, ctx.order)
        flat, before_h = local.view(T * N, 4 * H), torch.cat([hidden.unsqueeze(0), outputs[:-1]]).view(T * N, H)
        needs = ctx.needs_input_grad
        return (
            product(flat, weight.t()).view(x.shape) if needs[0] else None,
            product(flat.t(), x.reshape(T * N, -1).t()) if needs[1] else None,
            product(flat.t(), before_h.t()) if needs[2] else None,
            flat.sum(0) if needs[3] else None,
            torch.stack([(d * c).sum((0, 1)) for d, c in ((di, before), (df, before), (do, cells))])
            if needs[4]
            else None,
            dhidden if needs[5] else None,
            dcell if needs[6] else None,
            None,
            None,
        )


def _backward_steps(
    gradients: tuple[Tensor | None, ...],
    local: Tensor,
    do: Tensor,
    through: Tensor,
    carried: Tensor,
    recurrent: Tensor,
    order: str,
) -> tuple[Tensor, Tensor]:
    """Multiply ``local`` in place by the gradients of outputs and cells, from the last step to the first.

    Returns:
        The gradients of the initial output and cell.
    """
    T, N, H = through.shape
    given, given_cells = gradients
    given = through.new_zeros(()).expand(T, N, H) if given is None else given
    zeros = through.new_zeros(N, H)
    added = AddedProduct(recurrent.t(), N, T)
    output_gate = order.index("o")
    others = [part for part in (local[..., : output_gate * H], local[..., (output_gate + 1) * H :]) if part.shape[2]]
    steps = [part.unflatten(2, (-1, H)).unbind(0) for part in others]
    dcell, dhidden = through.new_zeros(N, H), given[-1]
    for t in range(T - 1, -1, -1):
        if given_cells is not None:
            dcell += given_cells[t]
        dcell.addcmul_(dhidden, through[t])
        do[t].mul_(dhidden)
        for part in steps:
            part[t].mul_(dcell.unsqueeze(1))
        dcell.mul_(carried[t])
        dhidden = added(given[t - 1].contiguous() if t else zeros, local[t])
    return dhidden, dcell


def _sigmoids(order: str, size: int, with_output: bool) -> list[slice]:
    """Return the largest runs of columns of neighbouring gates that go through a sigmoid together."""
    runs: list[slice] = []
    for k, name in enumerate(order):
        if name == "g" or (name == "o" and not with_output):
            continue
        start, stop = k * size, (k + 1) * size
        if runs and runs[-1].stop == start:
            start = runs.pop().start
        runs.append(slice(start, stop))
    return runs
