"""Sequences of recurrent cells with dropout inside: each gate sees input and state through masks of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from dpnn_bridge.modules.rnn.gru_kernel import gru_state
from dpnn_bridge.modules.rnn.lstm_kernel import lstm_state


def dropped_lstm(
    x: Tensor,
    factors: tuple[Tensor, Tensor],
    weight: Tensor,
    recurrent: Tensor,
    bias: Tensor,
    peepholes: Tensor | None,
    hidden: Tensor,
    cell: Tensor,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Compute the outputs and cells of an LSTM.

    Args:
        x: :math:`(T, N, I)`.
        factors: of the input of each gate, :math:`(4, T, N, I)`, and of the state, :math:`(T, 4, N, H)`; 1 in place of
            N if all rows have the same.
        weight, recurrent, bias, peepholes, hidden, cell, mask: as of
            :func:`~dpnn_bridge.modules.rnn.lstm_kernel.lstm_steps`.
    """
    by_gate, outputs, cells = _by_gate(recurrent, 4), [], []
    for t, (step, of_state) in enumerate(zip(_of_input(x, factors[0], weight, bias), factors[1], strict=True)):
        gates = torch.baddbmm(step, hidden * of_state, by_gate).unbind(0)
        hidden, cell = lstm_state(gates, cell, peepholes, None if mask is None else mask[t])
        outputs.append(hidden)
        cells.append(cell)
    return torch.stack(outputs), torch.stack(cells)


def dropped_gru(
    x: Tensor,
    factors: tuple[Tensor, Tensor],
    weight: Tensor,
    recurrent: Tensor,
    bias: Tensor,
    hidden: Tensor,
    mask: Tensor | None,
    keeps: bool,
) -> Tensor:
    """Compute the outputs of a gated recurrent unit.

    Args:
        x: :math:`(T, N, I)`.
        factors: of the input of each gate, :math:`(3, T, N, I)`, and of the state, :math:`(T, 3, N, H)`; 1 in place of
            N if all rows have the same.
        weight, recurrent, bias, hidden, mask, keeps: as of :func:`~dpnn_bridge.modules.rnn.gru_kernel.gru_steps`.
    """
    by_gate, outputs = _by_gate(recurrent, 3), []
    for t, (step, of_state) in enumerate(zip(_of_input(x, factors[0], weight, bias), factors[1], strict=True)):
        reset, update = torch.baddbmm(step[:2], hidden * of_state[:2], by_gate[:2]).sigmoid().unbind(0)
        candidate = torch.addmm(step[2], reset * hidden * of_state[2], by_gate[2]).tanh()
        hidden = gru_state(candidate, update, hidden, keeps, None if mask is None else mask[t])
        outputs.append(hidden)
    return torch.stack(outputs)


def _by_gate(matrix: Tensor, gates: int) -> Tensor:
    """Return the matrices of the gates, transposed: :math:`(gates \\cdot H, I)` to :math:`(gates, I, H)`."""
    return matrix.reshape(gates, -1, matrix.shape[1]).transpose(1, 2)


def _of_input(x: Tensor, factors: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    """Return what the gates get of the input, :math:`(gates, N, H)` for each time step."""
    gates, (T, N) = len(factors), x.shape[:2]
    dropped = (x * factors).view(gates, T * N, -1)
    return torch.baddbmm(bias.view(gates, 1, -1), dropped, _by_gate(weight, gates)).view(gates, T, N, -1).unbind(1)
