"""Compute a sequence of LSTM steps, with optional peepholes and projection, in few operations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dpnn_bridge.modules.rnn.products import Products, differentiable, gate_sums, product, weight_gradient


def lstm_steps(
    x: Tensor,
    weight: Tensor,
    recurrent: Tensor,
    bias: Tensor,
    peepholes: Tensor | None,
    projection: Tensor | None,
    hidden: Tensor,
    cell: Tensor,
    mask: Tensor | None,
    factors: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute the outputs and cells of a sequence step by step, with differentiable operations.

    Args:
        x: input :math:`(T, N, I)`.
        weight, recurrent, bias: weights of input :math:`(4 H, I)` and previous output :math:`(4 H, O)`, and bias
            :math:`(4 H)`; the rows are those of input gate, forget gate, candidate and output gate, as in
            ``torch.nn.LSTM``.
        peepholes: peephole weights of the three gates, :math:`(3, H)`, or None.
        projection: weight of the projection to the output, :math:`(O, H)`, or None.
        hidden, cell: initial output :math:`(N, O)` and cell :math:`(N, H)`.
        mask: outputs and cells that are set to zero, :math:`(T, N, 1)`, or None.
        factors: dropout factors, see :func:`~dpnn_bridge.modules.rnn.products.gate_sums`.

    Returns:
        The outputs :math:`(T, N, O)` and cells :math:`(T, N, H)`.
    """
    sums, outputs, cells = gate_sums(x, weight, recurrent, bias, 4, factors), [], []
    for t in range(x.shape[0]):
        i, f, g, o = sums(t, hidden)
        if peepholes is not None:
            i, f = i + peepholes[0] * cell, f + peepholes[1] * cell
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        if mask is not None:
            cell = cell.masked_fill(mask[t], 0)
        if peepholes is not None:
            o = o + peepholes[2] * cell
        hidden = o.sigmoid() * cell.tanh()  # zero where the cell is zero
        hidden = hidden if projection is None else hidden @ projection.t()
        outputs.append(hidden)
        cells.append(cell)
    return torch.stack(outputs), torch.stack(cells)


class LSTMSequence(torch.autograd.Function):
    """Computes :func:`lstm_steps`; saves gates, cell and tanh(cell) of each step for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        recurrent: Tensor,
        bias: Tensor,
        peepholes: Tensor | None,
        projection: Tensor | None,
        hidden: Tensor,
        cell: Tensor,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        T, N, H = *x.shape[:2], cell.shape[1]
        gates = product(x.reshape(T * N, -1), weight, bias).view(T, N, 4, H)
        cells, squashed, outputs = (x.new_empty(T, N, H) for _ in range(3))
        projected = outputs if projection is None else x.new_empty(T, N, len(projection))
        of_hidden, of_output = Products(recurrent, N, T), None if projection is None else Products(projection, N, T)
        parts = (
            gates.flatten(2),
            gates[:, :, :2],
            *gates.unbind(2),
            cells,
            cells.unsqueeze(2),
            squashed,
            outputs,
            projected,
        )
        hidden_before, cell_before, broadcast = hidden, cell, cell.unsqueeze(1)
        for t, (step, both, i, f, g, o, c, c_, th, r, h) in enumerate(zip(*(p.unbind(0) for p in parts), strict=True)):
            of_hidden.add_to(step, hidden_before)
            if peepholes is not None:
                both.addcmul_(broadcast, peepholes[:2])
            both.sigmoid_()
            torch.mul(f, cell_before, out=c).addcmul_(i, g.tanh_())
            if mask is not None:
                c.masked_fill_(mask[t], 0)
            if peepholes is not None:
                o.addcmul_(c, peepholes[2])
            torch.mul(torch.tanh(c, out=th), o.sigmoid_(), out=r)
            if of_output is not None:
                h.copy_(of_output(r))
            hidden_before, cell_before, broadcast = h, c, c_
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(
            *(x, weight, recurrent, bias, peepholes, projection, hidden, cell, mask), *(gates, cells, squashed)
        )
        return projected, cells

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        *inputs, gates, cells, squashed = ctx.saved_tensors
        if torch.is_grad_enabled():  # for second derivatives
            return differentiable(lstm_steps, inputs, ctx.needs_input_grad, gradients)
        x, weight, recurrent, _, peepholes, projection, hidden, cell, mask = inputs
        T, N, H = cells.shape
        i, f, g, o = gates.unbind(2)
        before, outputs = torch.cat([cell.unsqueeze(0), cells[:-1]]), squashed * o
        # derivatives of cells and outputs with respect to the arguments of the activation functions, for all steps
        local = torch.addcmul(gates, gates, gates, value=-1)
        di, df, dg, do = local.unbind(2)
        di *= g
        df *= before
        do *= squashed
        torch.addcmul(i, i * g, g, value=-1, out=dg)
        by_cell, carried = torch.addcmul(o, outputs, squashed, value=-1), f
        if peepholes is not None:
            by_cell.addcmul_(do, peepholes[2])
            carried = torch.addcmul(f, di, peepholes[0]).addcmul_(df, peepholes[1])
        if mask is not None:
            carried = carried.masked_fill(mask, 0)
            local.masked_fill_(mask.unsqueeze(3), 0)
            by_cell.masked_fill_(mask, 0)
        dhidden, dcell, projected = _backward_steps(gradients, local, by_cell, carried, recurrent, projection)
        flat, needs, dprojection = local.view(T * N, 4 * H), ctx.needs_input_grad, None
        if projection is not None:
            outputs = outputs.view(T * N, H)
            dprojection = weight_gradient(torch.cat(projected), outputs, projection) if needs[5] else None
            outputs = product(outputs, projection).view(T, N, -1)
        before_h = torch.cat([hidden.unsqueeze(0), outputs[:-1]]).view(T * N, -1)
        return (
            product(flat, weight.t()).view(x.shape) if needs[0] else None,
            weight_gradient(flat, x.reshape(T * N, -1), weight) if needs[1] else None,
            weight_gradient(flat, before_h, recurrent) if needs[2] else None,
            flat.sum(0) if needs[3] else None,
            torch.stack([(d * c).sum((0, 1)) for d, c in ((di, before), (df, before), (do, cells))])
            if needs[4]
            else None,
            dprojection,
            dhidden if needs[6] else None,
            dcell if needs[7] else None,
            None,
        )


def _backward_steps(
    gradients: tuple[Tensor | None, ...],
    local: Tensor,
    by_cell: Tensor,
    carried: Tensor,
    recurrent: Tensor,
    projection: Tensor | None,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Multiply ``local`` in place by the gradients of outputs and cells, from the last step to the first.

    Args:
        gradients: gradients of outputs and cells, each of which may be None.
        local: derivatives of cells and outputs with respect to the gates' sums, :math:`(T, N, 4, H)`.
        by_cell: derivatives of the outputs with respect to the cells, :math:`(T, N, H)`.
        carried: derivatives of the cells with respect to the previous cells, :math:`(T, N, H)`.
        recurrent: weight of the previous output.
        projection: weight of the projection, or None.

    Returns:
        The gradients of the initial output and cell, and for each step the gradient of the projection's result; empty
        without a projection.
    """
    T, N, H = by_cell.shape
    output_gradients, cell_gradients = gradients
    dcell, by_hidden = by_cell.new_zeros(N, H), Products(recurrent.t(), N, T)
    if output_gradients is None:
        output_gradients = by_cell.new_zeros(()).expand(T, N, recurrent.shape[1])
    by_result = None if projection is None else Products(projection.t(), N, T)
    dhidden, broadcast, projected = output_gradients[-1], dcell.unsqueeze(1), []
    parts = (local.flatten(2), local[:, :, :3], local[:, :, 3], by_cell, carried)
    earlier = [None, *output_gradients[:-1].contiguous()]
    steps = zip(earlier, *(p.unbind(0) for p in parts), strict=True)
    for t, (output, step, others, by_output, by_c, carry) in reversed([*enumerate(steps)]):
        if cell_gradients is not None:
            dcell += cell_gradients[t]
        if by_result is not None:
            projected.append(dhidden)
            dhidden = by_result(dhidden)
        dcell.addcmul_(dhidden, by_c)
        by_output.mul_(dhidden)
        others.mul_(broadcast)
        dcell.mul_(carry)
        dhidden = by_hidden(step, output)
    return dhidden, dcell, projected[::-1]
