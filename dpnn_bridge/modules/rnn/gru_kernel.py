"""Compute a sequence of GRU steps, with the reset gate before the product, in few operations."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from dpnn_bridge.modules.rnn.products import Products, differentiable, gate_sums, product, weight_gradient


def gru_steps(
    x: Tensor,
    weight: Tensor,
    recurrent: Tensor,
    bias: Tensor,
    hidden: Tensor,
    mask: Tensor | None,
    z_scales_state: bool,
    factors: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Compute the outputs of a sequence step by step, with differentiable operations.

    Args:
        x: input :math:`(T, N, I)`.
        weight, recurrent, bias: weights of input :math:`(3 H, I)` and state :math:`(3 H, H)`, and bias :math:`(3 H)`;
            the rows are those of reset gate, update gate and candidate.
        hidden: initial state :math:`(N, H)`.
        mask: outputs that are set to zero, :math:`(T, N, 1)`, or None.
        z_scales_state: whether the update gate multiplies the previous state; False: the candidate.
        factors: dropout factors, see :func:`~dpnn_bridge.modules.rnn.products.gate_sums`.

    Returns:
        The outputs :math:`(T, N, H)`.
    """
    sums, outputs = gate_sums(x, weight, recurrent, bias, 3, factors), []
    for t in range(x.shape[0]):
        reset, update = (gate.sigmoid() for gate in sums(t, hidden, slice(2)))
        (candidate,) = sums(t, reset * hidden, slice(2, 3))
        ends = (candidate.tanh(), hidden) if z_scales_state else (hidden, candidate.tanh())
        hidden = torch.lerp(*ends, update)
        hidden = hidden if mask is None else hidden.masked_fill(mask[t], 0)
        outputs.append(hidden)
    return torch.stack(outputs)


class GRUSequence(torch.autograd.Function):
    """Computes :func:`gru_steps`; saves gates, candidate and output of each step for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        recurrent: Tensor,
        bias: Tensor,
        hidden: Tensor,
        mask: Tensor | None,
        z_scales_state: bool,
    ) -> Tensor:
        T, N, H = *x.shape[:2], hidden.shape[1]
        gates = product(x.reshape(T * N, -1), weight, bias).view(T, N, 3 * H)
        states = x.new_empty(T + 1, N, H)
        states[0] = before = hidden
        gated = torch.empty_like(hidden)
        of_gates, of_candidate = (Products(part, N, T) for part in recurrent.split([2 * H, H]))
        parts = (gates[..., : 2 * H], *gates.split(H, 2), states[1:])
        for t, (both, reset, update, candidate, output) in enumerate(zip(*(p.unbind(0) for p in parts), strict=True)):
            of_gates.add_to(both, before)
            both.sigmoid_()
            of_candidate.add_to(candidate, torch.mul(reset, before, out=gated))
            candidate.tanh_()
            ends = (candidate, before) if z_scales_state else (before, candidate)
            torch.lerp(*ends, update, out=output)
            if mask is not None:
                output.masked_fill_(mask[t], 0)
            before = output
        ctx.z_scales_state = z_scales_state
        ctx.save_for_backward(x, weight, recurrent, bias, hidden, mask, gates, states)
        return states[1:].clone()  # a copy, because in-place operations may change the outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, gates, states = ctx.saved_tensors
        if torch.is_grad_enabled():  # for second derivatives
            steps = partial(gru_steps, z_scales_state=ctx.z_scales_state)
            return differentiable(lambda *a: [steps(*a)], inputs, ctx.needs_input_grad, gradients)
        x, weight, recurrent, _, _, mask = inputs
        T, N, H = *x.shape[:2], recurrent.shape[1]
        reset, update, candidate = gates.split(H, 2)
        before = states[:-1]
        # derivatives of the outputs with respect to the arguments of the activation functions, for all steps
        local = torch.addcmul(gates, gates, gates, value=-1)
        by_reset, by_update, by_candidate = local.split(H, 2)
        by_reset *= before
        by_update *= before - candidate if ctx.z_scales_state else candidate - before
        # factors of the previous state and of the candidate in the output
        old, new = (update, 1 - update) if ctx.z_scales_state else (1 - update, update)
        torch.addcmul(new, new * candidate, candidate, value=-1, out=by_candidate)
        if mask is not None:
            old = old.masked_fill(mask, 0)
            local[..., H:].masked_fill_(mask, 0)
        dhidden = _backward_steps(gradients[0], local, reset, old, recurrent)
        flat, flat_x, needs = local.view(T * N, -1), x.reshape(T * N, -1), ctx.needs_input_grad
        drecurrent = torch.empty_like(recurrent) if needs[2] else None
        if drecurrent is not None:
            parts = zip(drecurrent.split([2 * H, H]), flat.split([2 * H, H], 1), (before, before * reset), strict=True)
            for part, gradient, factor in parts:
                part.copy_(weight_gradient(gradient, factor.view(T * N, H), recurrent))
        return (
            product(flat, weight.t()).view(x.shape) if needs[0] else None,
            weight_gradient(flat, flat_x, weight) if needs[1] else None,
            drecurrent,
            flat.sum(0) if needs[3] else None,
            dhidden if needs[4] else None,
            None,
            None,
        )


def _backward_steps(output_gradients: Tensor, local: Tensor, reset: Tensor, old: Tensor, recurrent: Tensor) -> Tensor:
    """Multiply ``local`` in place by the gradients of the outputs, from the last step to the first.

    Args:
        output_gradients: gradients of the outputs, :math:`(T, N, H)`.
        local: derivatives of the outputs with respect to the gates' sums, :math:`(T, N, 3 H)`.
        reset: the reset gates, :math:`(T, N, H)`.
        old: factors of the previous states in the outputs, :math:`(T, N, H)`.
        recurrent: weight of the state.

    Returns:
        The gradient of the initial state.
    """
    T, N, H = reset.shape
    of_gates, of_candidate = (Products(part.t(), N, T) for part in recurrent.split([2 * H, H]))
    others = local.unflatten(2, (3, H))[:, :, 1:]
    parts = (local[..., : 2 * H], others, *local.split(H, 2)[::2], reset, old)
    dhidden = output_gradients[-1]
    earlier = [dhidden.new_zeros(N, H), *output_gradients[:-1]]
    steps = [*zip(earlier, *(p.unbind(0) for p in parts), strict=True)]
    for output, gates, update_and_candidate, by_reset, by_candidate, r, k in reversed(steps):
        update_and_candidate.mul_(dhidden.unsqueeze(1))
        through = of_candidate(by_candidate)
        by_reset.mul_(through)
        dhidden = torch.addcmul(output, dhidden, k).addcmul_(through, r)
        of_gates.add_to(dhidden, gates)
    return dhidden
