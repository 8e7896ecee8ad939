"""Modules that apply a step module, or any module, to a sequence."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dpnn_bridge.compare.nested import map_tensors
from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.faster import faster
from dpnn_bridge.conversion.faults import Fault
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.lua_class import LuaClass, empty_table
from dpnn_bridge.conversion.memory import Each, Trace, decorated_memory, run_decorated, view_of
from dpnn_bridge.conversion.placeholder import Placeholder, is_step_in_lua
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.decorator import Decorator
from dpnn_bridge.modules.nn.indices import from_one
from dpnn_bridge.modules.rnn.memory import Memory, Remembering, detach, forget, max_bptt_step, mode_of
from dpnn_bridge.modules.rnn.over_time import at_once
from dpnn_bridge.modules.rnn.recurrence import Recursor
from dpnn_bridge.modules.rnn.recurrent import AbstractRecurrent
from dpnn_bridge.objects import LuaObject, LuaTable


class AbstractSequencerClass(LuaClass):
    """Base class of the mappings of sequence modules; the inner module is in the fields ``module`` and ``modules``.

    Attributes:
        of_steps: whether Torch7 calls the inner module once per time step. The export, like Torch7's constructor, then
            wraps a module that is not a step module in a ``Recursor``; otherwise every step would overwrite the
            previous output.
    """

    of_steps: ClassVar[bool] = True
    repeats = True
    scratch = ("tableoutput", "tablegradInput", "tablegradinput")
    computed_fields = ("modules", "module", "rnn", "_remember")

    @classmethod
    def upgrade(cls, obj: LuaObject) -> LuaObject:
        """Upgrade files of July 2015, in which ``_remember`` is a boolean for evaluation mode only."""
        obj, remember = super().upgrade(obj), obj.get("_remember")
        return obj.changed(_remember="eval" if remember else "neither") if isinstance(remember, bool) else obj

    @classmethod
    def build(cls, obj: LuaObject, ctx: TorchContext) -> nn.Module:
        children = ctx.children(obj) or [ctx.to_torch(obj["module"], "module")]
        if any(is_step_in_lua(m) for child in children for m in child.modules()):
            raise TypeError("it contains a step module that runs in Lua, whose states only a sequencer in Lua can use")
        module = cls.torch_type(*children, **cls.arguments(obj, ctx))
        module.remembering = mode_of(obj, ctx)
        return module

    @classmethod
    def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
        assert isinstance(module, Remembering)
        assert isinstance(module, nn.Module)
        children = [cls._step_module(m, module, ctx) for m in cls.children(module)]
        fields = super().to_lua(module, ctx) | {"modules": LuaTable.from_list(children)}
        if len(children) == 1:
            fields["module"] = children[0]
        if module.remembering is not None:
            fields["_remember"] = module.remembering
        return fields

    @classmethod
    def _step_module(cls, child: nn.Module, module: nn.Module, ctx: LuaContext) -> LuaObject:
        is_step = isinstance(child, (AbstractRecurrent, Placeholder))
        if is_step or not cls.of_steps or record_of(module) or not ctx.compose:
            return ctx.to_lua(child)
        recursor = Recursor(child)
        recursor.training = module.training
        return ctx.to_lua(recursor)


@lua_class("nn.Sequencer")
class Sequencer(Memory, Remembering):
    """Applies a module to every time step of a sequence.

    The state of the module is reset at the start of every call, unless :meth:`remember` is set, and when the mode
    changes between training and evaluation. A remembered state is detached.

    Args:
        module: a step module, or any module.

    Shape:
        - Input: :math:`(T, *)`, or a list with one element for each time step.
        - Output: :math:`(T, *)`, or a list.

    Lua:
        ``nn.Sequencer(module)``, Sequencer.lua
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, input: Tensor | list[Any]) -> Any:
        if self.remembers:
            detach(self.module)
        else:
            forget(self.module)
        max_bptt_step(self.module, len(input))
        return self._run(input)

    @faster(lambda self, input: at_once(self.module, input))
    def _run(self, input: Tensor | list[Any]) -> Any:
        outputs = [self.module(x) for x in (input.unbind(0) if isinstance(input, Tensor) else input)]
        return torch.stack(outputs) if isinstance(input, Tensor) else outputs

    def train(self, mode: bool = True) -> Sequencer:
        if mode != self.training:
            forget(self.module)
        return super().train(mode)

    def max_bptt_step(self, rho: int) -> None:
        """Do nothing: gradients flow through the complete sequence of each call."""

    def extra_repr(self) -> str:
        return f"remembering={self.remembering!r}" if self.remembering not in (None, "neither") else ""

    class Lua(AbstractSequencerClass):
        @classmethod
        def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
            fields: dict[str, Any] = {"_remember": "neither"} | super().to_lua(module, ctx)
            return fields | {"output": LuaTable(), "tableoutput": LuaTable(), "_output": LuaTable()}

        @classmethod
        def output_memory(cls, obj: LuaObject, input: Any, trace: Trace) -> Any:
            """Return the outputs of the steps, which Torch7 copies in evaluation and if the input is a tensor."""
            if not isinstance(input, list):
                return trace.computed(run_decorated(obj, trace.element(view_of(input, obj), None), trace))
            outputs = [run_decorated(obj, value, trace) for value in input]
            return [trace.computed(value) for value in outputs] if obj.get("train") is False else outputs


def _repeated(input: Tensor, times: int) -> list[Tensor]:
    """Return a list with several views of a tensor; resource limits count the operation that creates them."""
    return [*input.expand(times, *input.shape)] if times > 0 else []


@lua_class("nn.Repeater")
class Repeater(Memory, Remembering):
    """Applies a step module several times to the same input; each call starts a new sequence.

    Args:
        module: the step module.
        rho: number of time steps.

    Shape:
        - Input: the module's input.
        - Output: list of ``rho`` outputs.

    Lua:
        ``nn.Repeater(module, rho)``, Repeater.lua
    """

    def __init__(self, module: nn.Module, rho: int) -> None:
        super().__init__()
        self.module = module
        self.rho = rho

    def forward(self, input: Any) -> list[Any]:
        forget(self.module)
        return self._run(input)

    @faster(lambda self, input: at_once(self.module, _repeated(input, self.rho)) if isinstance(input, Tensor) else None)
    def _run(self, input: Any) -> list[Any]:
        return [self.module(input) for _ in range(self.rho)]

    def max_bptt_step(self, rho: int) -> None:
        """Set the number of time steps."""
        self.rho = rho
        max_bptt_step(self.module, rho)

    class Lua(AbstractSequencerClass):
        scalars = ("rho",)
        constants = {"output": empty_table}

        @classmethod
        def upgrade(cls, obj: LuaObject) -> LuaObject:
            """Upgrade files of 2015, in which ``module`` is named ``rnn`` and ``rho`` is named ``nStep``."""
            obj = super().upgrade(obj)
            if obj.get("module") is None and obj.get("rnn") is not None:
                obj = obj.changed(module=obj["rnn"], rnn=None)
            return obj.changed(rho=obj["nStep"]) if obj.get("rho") is None and obj.get("nStep") is not None else obj

        @classmethod
        def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
            """Write the fields of a file of 2015 under both names."""
            fields, record = super().to_lua(module, ctx), record_of(module)
            if record is None or "nStep" not in record.fields:
                return fields
            return fields | {"rnn": fields["module"], "nStep": fields["rho"]}

        @classmethod
        def output_memory(cls, obj: LuaObject, input: Any, trace: Trace) -> Any:
            for _ in range(min(int(obj.get("rho") or 1), 2)):
                trace.read(run_decorated(obj, input, trace))
            return Each(trace.new())


def _check_list(module: nn.Module, input: Any) -> None:
    if isinstance(input, Tensor):
        raise TypeError(
            f"{type(module).__name__}: expected a list with one element for each time step, found a tensor of shape "
            f"{tuple(input.shape)}; pass list(input)"
        )


@lua_class("nn.BiSequencer")
class BiSequencer(Memory, Remembering, Decorator):
    """Runs a step module forward and another one backward over a sequence, and merges their outputs at every step.

    Args:
        module: the network of both sequencers and the merge module.

    Shape:
        - Input: list with one element for each time step.
        - Output: list of merged outputs.

    Lua:
        ``nn.BiSequencer(forward, backward, merge)``, BiSequencer.lua. As in Torch7's last version, ``remember`` of this
        module does not set the inner sequencers; call ``remember(module.module)``.

    Raises:
        TypeError: the input is a tensor.
    """

    def forward(self, input: list[Any]) -> list[Any]:
        _check_list(self, input)
        return super().forward(input)

    class Lua(AbstractSequencerClass):
        output_memory = decorated_memory
        of_steps = False


@lua_class("nn.BiSequencerLM")
class BiSequencerLM(Memory, Remembering):
    """Like :class:`BiSequencer`, for language models: no output depends on the input of the same time step.

    The output at step t merges the forward output at t - 1 and the backward output at t + 1, with zeros at the ends.

    Args:
        fwd: maps the list of all inputs except the last to a list of outputs.
        bwd: maps the list of all inputs except the first to a list of outputs.
        merge: maps ``[forward outputs, backward outputs]``, both of the input's length, to a list of outputs.

    Shape:
        - Input: list with at least two elements.
        - Output: list of merged outputs.

    Lua:
        ``nn.BiSequencerLM(forward, backward, merge)``, BiSequencerLM.lua

    Raises:
        TypeError: the input is a tensor.
        ValueError: the sequence has fewer than two elements.
    """

    def __init__(self, fwd: nn.Module, bwd: nn.Module, merge: nn.Module) -> None:
        super().__init__()
        self.fwd, self.bwd, self.merge = fwd, bwd, merge

    def forward(self, input: list[Any]) -> Any:
        _check_list(self, input)
        if len(input) < 2:
            raise ValueError(f"BiSequencerLM: expected a list of at least 2 elements, found {len(input)}")
        forwards, backwards = self.fwd(input[:-1]), self.bwd(input[1:])
        first, last = (map_tensors(torch.zeros_like, outputs[0]) for outputs in (forwards, backwards))
        return self.merge([[first, *forwards], [*backwards, last]])

    class Lua(AbstractSequencerClass):
        faults = (
            Fault(
                ("gradInput",),
                "after a shorter sequence, Torch7 uses one buffer for two elements of gradInput",
            ),
        )
        computed_fields = ("_fwd", "_bwd", "_merge")
        of_steps = False

        @classmethod
        def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
            fields = super().to_lua(module, ctx) | {"output": LuaTable(), "gradInput": LuaTable()}
            return fields | dict(zip(("_fwd", "_bwd", "_merge"), fields["modules"].as_list(), strict=True))


@lua_class("nn.SeqBRNN")
class SeqBRNN(Decorator):
    """Merges the outputs of two sequence LSTMs, of which one runs on the reversed sequence.

    Args:
        module: the network of both LSTMs and the merge module.

    Shape:
        - Input: :math:`(T, N, I)`; :math:`(N, T, I)` if the Lua module was created with ``batchFirst``.
        - Output: the output of the merge module.

    Lua:
        ``nn.SeqBRNN(inputDim, hiddenDim, batchFirst, merge)``, SeqBRNN.lua
    """


@lua_class("nn.SeqReverseSequence")
class SeqReverseSequence(nn.Module):
    """Reverses a tensor along one dimension.

    Args:
        dim: the dimension, counted from 1.

    Shape:
        - Input, output: :math:`(*)`.

    Lua:
        ``nn.SeqReverseSequence(dim)``, SeqReverseSequence.lua
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        return input.flip(from_one(self.dim))

    class Lua(LuaClass):
        scalars = ("dim",)
        scratch = ("outputIndices", "gradIndices")
