"""GRU layers in forks of torch-rnn (antihutka/torch-rnn, AlekzNet/rnn-chatbot)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.zoo.torch_rnn import SequenceRNN


@lua_class("nn.GRU")
class GRU(SequenceRNN):
    """GRU over a batch of sequences. The reset gate multiplies the state before the matrix product.

    Args:
        input_dim: size D of the inputs.
        hidden_dim: size H of the states.
        remember_states: start from the last state of the previous call.

    Shape:
        - Input: :math:`(N, T, D)`, or ``[h0, x]`` with :math:`(N, H)`.
        - Output: :math:`(N, T, H)`.

    Attributes:
        weight: :math:`(D + H, 3 H)`, columns of the update gate, the reset gate and the candidate.
        bias: :math:`(3 H)`.
        last: last output, or None.

    Lua:
        ``nn.GRU(input_dim, hidden_dim)``, torch-rnn forks' GRU.lua
    """

    gates = 3

    def _run(self, x: Tensor, initial: list[Tensor]) -> tuple[Tensor, Tensor]:
        states = self._states(x, initial[0][0], self.weight, self.bias)
        return states, states[:, -1:].transpose(0, 1)

    def _states(self, x: Tensor, state: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        D, H = self.input_dim, self.hidden_dim
        from_input = x @ weight[:D] + bias
        recurrent, candidate = weight[D:].split([2 * H, H], 1)
        states = []
        for step in from_input.unbind(1):
            update, reset = torch.sigmoid(step[:, : 2 * H] + state @ recurrent).chunk(2, 1)
            proposed = torch.tanh(step[:, 2 * H :] + (reset * state) @ candidate)
            state = state - update * state + update * proposed
            states.append(state)
        return torch.stack(states, 1)

    class Lua(SequenceRNN.Lua):
        state_fields = (("output", "h0"),)


@lua_class("nn.GRIDGRU")
class GridGRU(GRU):
    """A GRU along time, followed by a GRU along depth. The input of the layer is the state of the second GRU.

    Args:
        input_dim: size D of the inputs.
        hidden_dim: size H of the states.
        remember_states: start from the last state of the previous call.

    Shape:
        - Input: :math:`(N, T, D)`, or ``[h0, x]`` with :math:`(N, H)`.
        - Output: :math:`(N, T, D)`.

    Attributes:
        weight: :math:`(D + H, 3 H + 3 D)`, columns of the gates along time, then of the gates along depth.
        bias: :math:`(3 H + 3 D)`.
        last: last state along time, or None.

    Lua:
        ``nn.GRIDGRU(input_dim, hidden_dim)``, torch-rnn forks' GRIDGRU.lua
    """

    def __init__(self, input_dim: int, hidden_dim: int, remember_states: bool = False, device: Any = None) -> None:
        super().__init__(input_dim, hidden_dim, remember_states, device)
        columns = 3 * (hidden_dim + input_dim)
        self.weight = nn.Parameter(torch.empty(input_dim + hidden_dim, columns, device=device))
        self.bias = nn.Parameter(torch.empty(columns, device=device))
        self.reset_parameters()

    def _run(self, x: Tensor, initial: list[Tensor]) -> tuple[Tensor, Tensor]:
        D, H = self.input_dim, self.hidden_dim
        along_time, along_depth = self.weight.split([3 * H, 3 * D], 1)
        states = self._states(x, initial[0][0], along_time, self.bias[: 3 * H])
        gates, candidate = (states @ along_depth[D:] + self.bias[3 * H :]).split([2 * D, D], 2)
        update, reset = torch.sigmoid(gates + x @ along_depth[:D, : 2 * D]).chunk(2, 2)
        proposed = torch.tanh(candidate + (reset * x) @ along_depth[:D, 2 * D :])
        return x - update * x + update * proposed, states[:, -1:].transpose(0, 1)

    class Lua(SequenceRNN.Lua):
        scratch = (*SequenceRNN.Lua.scratch, "gatesd", "buffer1d", "buffer2d", "buffer3d", "grad_a_bufferd")
        state_fields = (("cell", "h0"),)
