"""A whole sequence of steps of a gated recurrent unit whose reset gate comes before the product, in few operations."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from dpnn_bridge.modules.rnn.products import AddedProduct, differentiable, product


def gru_steps(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    recurrent: Tensor,
    candidate_weight: Tensor,
    candidate_bias: Tensor,
    candidate_recurrent: Tensor,
    hidden: Tensor,
    mask: Tensor | None,
    keeps: bool,
) -> Tensor:
    """Compute the outputs of a sequence by operations that autograd knows, one time step after the other.

    Args:
        x: :math:`(T, N, I)`.
        weight, bias, recurrent: of reset and update gate, :math:`(2 H, I)`, :math:`(2 H)` and :math:`(2 H, H)`.
        candidate_weight, candidate_bias, candidate_recurrent: of the candidate, :math:`(H, I)`, :math:`(H)`,
            :math:`(H, H)`.
        hidden: the state at the start, :math:`(N, H)`.
        mask: which outputs are zero, :math:`(T, N, 1)`, or None.
        keeps: the update gate is the share of the old state, else that of the candidate.
    """
    gates, candidates = x @ weight.t() + bias, x @ candidate_weight.t() + candidate_bias
    outputs = []
    for t in range(len(x)):
        reset, update = (gates[t] + hidden @ recurrent.t()).sigmoid().chunk(2, 1)
        candidate = (candidates[t] + (reset * hidden) @ candidate_recurrent.t()).tanh()
        hidden = torch.lerp(candidate, hidden, update) if keeps else torch.lerp(hidden, candidate, update)
        if mask is not None:
            hidden = hidden.masked_fill(mask[t], 0)
        outputs.append(hidden)
    return torch.stack(outputs)


class GRUSequence(torch.autograd.Function):
    """The same as :func:`gru_steps`. Of each step, the gates and the candidate are kept for backward."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        recurrent: Tensor,
        candidate_weight: Tensor,
        candidate_bias: Tensor,
        candidate_recurrent: Tensor,
        hidden: Tensor,
        mask: Tensor | None,
        keeps: bool,
    ) -> Tensor:
        T, N, H = *x.shape[:2], hidden.shape[1]
        flat = x.reshape(T * N, -1)
        gates = product(flat, weight, bias).view(T, N, 2 * H)
        candidates = product(flat, candidate_weight, candidate_bias).view(T, N, H)
        outputs = x.new_empty(T, N, H)
        added, candidate_added = AddedProduct(recurrent, N, T), AddedProduct(candidate_recurrent, N, T)
        resets, updates = (part.unbind(0) for part in gates.chunk(2, 2))
        previous = hidden
        for t, (gate, candidate, output) in enumerate(
            zip(gates.unbind(0), candidates.unbind(0), outputs.unbind(0), strict=True)
        ):
            torch.sigmoid(added(gate, previous), out=gate)
            torch.tanh(candidate_added(candidate, resets[t] * previous), out=candidate)
            ends = (candidate, previous) if keeps else (previous, candidate)
            torch.lerp(*ends, updates[t], out=output)
            if mask is not None:
                output.masked_fill_(mask[t], 0)
            previous = output
        ctx.keeps = keeps
        weights = (weight, bias, recurrent, candidate_weight, candidate_bias, candidate_recurrent)
        ctx.save_for_backward(x, *weights, hidden, mask, gates, candidates)
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (given,) = gradients
        *inputs, gates, candidates = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient itself is to be differentiated
            steps = partial(gru_steps, keeps=ctx.keeps)
            return differentiable(lambda *a: [steps(*a)], inputs, ctx.needs_input_grad, gradients)
        x, weight, _, recurrent, candidate_weight, _, candidate_recurrent, hidden, mask = inputs
        T, N, H = candidates.shape
        reset, update = gates.chunk(2, 2)
        before = _states_before(hidden, candidates, update, mask, ctx.keeps)
        # the derivatives of the output by what comes before the transfer functions, for all steps at once
        local = torch.addcmul(gates, gates, gates, value=-1)
        by_reset, by_update = local.chunk(2, 2)
        by_reset *= before
        by_update *= before - candidates if ctx.keeps else candidates - before
        kept, taken = (update, 1 - update) if ctx.keeps else (1 - update, update)
        by_candidate = (1 - candidates.square()).mul_(taken)
        if mask is not None:
            kept = kept.masked_fill(mask, 0)
            by_update.masked_fill_(mask, 0)
            by_candidate.masked_fill_(mask, 0)
        added, candidate_added = AddedProduct(recurrent.t(), N, T), AddedProduct(candidate_recurrent.t(), N, T)
        zeros = x.new_zeros(N, H)
        dhidden = given[-1]
        for t in range(T - 1, -1, -1):
            by_candidate[t].mul_(dhidden)
            by_update[t].mul_(dhidden)
            dproduct = candidate_added(zeros, by_candidate[t])
            by_reset[t].mul_(dproduct)
            rest = torch.addcmul(given[t - 1] if t else zeros, dhidden, kept[t]).addcmul_(dproduct, reset[t])
            dhidden = added(rest, local[t])
        flat, flat_candidate, flat_x = local.view(T * N, -1), by_candidate.view(T * N, -1), x.reshape(T * N, -1)
        needs = ctx.needs_input_grad
        dx = None
        if needs[0]:
            dx = product(flat, weight.t()).add_(product(flat_candidate, candidate_weight.t())).view(x.shape)
        return (
            dx,
            product(flat.t(), flat_x.t()) if needs[1] else None,
            flat.sum(0) if needs[2] else None,
            product(flat.t(), before.view(T * N, H).t()) if needs[3] else None,
            product(flat_candidate.t(), flat_x.t()) if needs[4] else None,
            flat_candidate.sum(0) if needs[5] else None,
            product(flat_candidate.t(), before.mul_(reset).view(T * N, H).t()) if needs[6] else None,
            dhidden if needs[7] else None,
            None,
            None,
        )


def _states_before(hidden: Tensor, candidates: Tensor, update: Tensor, mask: Tensor | None, keeps: bool) -> Tensor:
    """Return the state that each step started from. Recomputing them takes less than storing them."""
    states = torch.empty_like(candidates)
    states[0] = hidden
    for t in range(len(states) - 1):
        ends = (candidates[t], states[t]) if keeps else (states[t], candidates[t])
        torch.lerp(*ends, update[t], out=states[t + 1])
        if mask is not None:
            states[t + 1].masked_fill_(mask[t], 0)
    return states
