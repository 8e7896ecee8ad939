"""The recurrent attention model of rnn."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.faults import Fault
from dpnn_bridge.conversion.memory import Each, Trace
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.reshape import sizes_of
from dpnn_bridge.modules.rnn.memory import Memory, Remembering, forget
from dpnn_bridge.modules.rnn.sequencer import AbstractSequencerClass
from dpnn_bridge.objects import LuaObject, LuaTable
from dpnn_bridge.torch7.gradient import block_gradient


@lua_class("nn.RecurrentAttention")
class RecurrentAttention(Memory, Remembering):
    """Runs a step module several times on the same input, each time with an action computed from its last output.

    Args:
        rnn: step module with input ``[input, action]``.
        action: step module that computes the action from the previous output of ``rnn``, initially zeros.
        num_steps: number of steps.
        hidden_size: shape of one sample's output of ``rnn``, as a list.
        forward_actions: return pairs ``[output, action]``; as in Torch7, these pairs are then the input of ``action``.

    Shape:
        - Input: the first input of ``rnn``, with the batch as the first dimension.
        - Output: list of ``num_steps`` outputs.

    Lua:
        ``nn.RecurrentAttention(rnn, action, nStep, hiddenSize)``, RecurrentAttention.lua

    Differs from PyTorch:
        As in Torch7, no gradient flows from ``rnn`` into ``action``, which is trained by a reward.
    """

    def __init__(
        self,
        rnn: nn.Module,
        action: nn.Module,
        num_steps: int,
        hidden_size: list[int],
        *,
        forward_actions: bool = False,
    ) -> None:
        super().__init__()
        self.rnn, self.action = rnn, action
        self.num_steps, self.hidden_size, self.forward_actions = num_steps, hidden_size, forward_actions

    def forward(self, input: Tensor) -> list[Any]:
        forget(self.rnn)
        forget(self.action)
        last: Any = input.new_zeros(input.shape[0], *self.hidden_size)
        outputs = []
        for _ in range(self.num_steps):
            action = self.action(last)
            output = self.rnn([input, block_gradient(action)])
            last = [output, action] if self.forward_actions else output
            outputs.append(last)
        return outputs

    class Lua(AbstractSequencerClass):
        faults = (
            Fault(
                ("output", "gradInput", "gradParams"),
                "in evaluation mode, all steps of a recurrent module return the same buffer, with the last result",
                mode="eval",
                result=lambda module, output: [output[-1]] * len(output),
            ),
        )
        computed_fields = ("action", "hiddenSize")
        scalars = {"nStep": "num_steps", "forwardActions": "forward_actions"}
        defaults = {"forwardActions": False}
        scratch = ("actions", "gradHidden")

        @classmethod
        def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
            return {**super().arguments(obj, ctx), "hidden_size": [*sizes_of(obj["hiddenSize"])]}

        @classmethod
        def to_lua(cls, module: RecurrentAttention, ctx: LuaContext) -> dict[str, Any]:
            fields = super().to_lua(module, ctx)
            rnn, action = fields["modules"].as_list()
            fields |= {"rnn": rnn, "action": action, "hiddenSize": LuaTable.from_list(module.hidden_size)}
            return fields | {name: LuaTable() for name in ("output", "actions", "gradHidden")}

        @classmethod
        def output_memory(cls, obj: LuaObject, input: Any, trace: Trace) -> Any:
            for _ in range(min(int(obj.get("nStep") or 1), 2)):
                trace.read(trace.run(obj["rnn"], [input, trace.new()], "rnn"))
            return Each(trace.new())
