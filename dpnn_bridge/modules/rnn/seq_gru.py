"""SeqGRU of rnn: a gated recurrent unit for a sequence in one tensor."""

from __future__ import annotations

import torch
from torch import Tensor

from dpnn_bridge.conversion.faster import faster
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.rnn.cells import gru_of
from dpnn_bridge.modules.rnn.gated import GRU
from dpnn_bridge.modules.rnn.gru_kernel import GRUSequence
from dpnn_bridge.modules.rnn.products import fit
from dpnn_bridge.modules.rnn.seq_lstm import SequenceModule


def _gru_at_once(module: SeqGRU, x: Tensor, start: list[Tensor]) -> tuple[Tensor, list[Tensor]] | None:
    """Compute :meth:`SeqGRU._run` with :class:`GRUSequence`; return None if the tensors do not allow this."""
    if not x.numel() or not fit(x, module.weight, start, module.output_size):
        return None
    weight, recurrent = (part.t() for part in module.weight.split([module.input_size, module.output_size]))
    output = GRUSequence.apply(x, weight, recurrent, module.bias, start[0], module._masked(x), True)
    return output, [output[-1].clone()]


@lua_class("nn.SeqGRU")
class SeqGRU(SequenceModule):
    """Gated recurrent unit for a complete sequence.

    Args:
        input_size: number of input features, I.
        output_size: number of output features, O.
        batch_first: input and output have shape :math:`(N, T, *)`.
        mask_zero: set output and state to zero in time steps whose input is zero.

    Attributes:
        weight: weight :math:`(I + O, 3 O)`: rows of the input, then of the state; columns of reset gate, update gate
            and candidate.
        bias: bias :math:`(3 O)`.
        user_prev_output: initial state of the next call only.

    Shape:
        - Input: :math:`(T, N, I)`, or the list ``[h0, x]``.
        - Output: :math:`(T, N, O)`.

    Lua:
        ``nn.SeqGRU(inputSize, outputSize)``, SeqGRU.lua

    Differs from PyTorch:
        ``torch.nn.GRU`` applies the reset gate after the product with the state.

    Raises:
        ValueError: the input is not a batch of sequences, or a state has another batch size or number of features.
    """

    def __init__(
        self, input_size: int, output_size: int, *, batch_first: bool = False, mask_zero: bool = False
    ) -> None:
        super().__init__(input_size, output_size, output_size, 3, batch_first, mask_zero)

    @faster(_gru_at_once)
    def _run(self, x: Tensor, start: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        mask, size = self._masked(x), 2 * self.output_size
        projected = x @ self.weight[: self.input_size] + self.bias
        recurrent = self.weight[self.input_size :]
        output = start[0]
        outputs = []
        for t, step in enumerate(projected.unbind(0)):
            r, z = (step[:, :size] + output @ recurrent[:, :size]).sigmoid().chunk(2, 1)
            candidate = (step[:, size:] + (r * output) @ recurrent[:, size:]).tanh()
            output = candidate - z * candidate + z * output
            if mask is not None:
                output = output.masked_fill(mask[t], 0)
            outputs.append(output)
        return torch.stack(outputs), [output]

    def to_gru(self) -> GRU:
        """Return a :class:`GRU`, which computes one time step, with copies of the parameters."""
        return gru_of(self.weight, self.bias, self.input_size, self.output_size)

    class Lua(SequenceModule.Lua):
        scalars = {"inputSize": "input_size", "outputSize": "output_size", "batchfirst": "batch_first"}
        scalars |= {"maskzero": "mask_zero"}
        defaults = {"batchfirst": False, "maskzero": False}
