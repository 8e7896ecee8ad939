"""Step modules that create a recurrence from other modules: Recurrent, Recurrence, Recursor, NormStabilizer."""

from __future__ import annotations

from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dpnn_bridge.compare.nested import first_tensor
from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.faults import Fault
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.lua_class import has_tensor
from dpnn_bridge.conversion.lua_values import fresh, to_value
from dpnn_bridge.conversion.memory import fed_back_memory, step_memory
from dpnn_bridge.conversion.noise import paired
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.rnn.clones import clone_of, shared_clone
from dpnn_bridge.modules.rnn.initial_output import sizes_from_lua, sizes_to_lua, zeros
from dpnn_bridge.modules.rnn.memory import forget, get_hidden_state, max_bptt_step, set_hidden_state
from dpnn_bridge.modules.rnn.misc import CopyGrad
from dpnn_bridge.modules.rnn.recurrent import AbstractRecurrent
from dpnn_bridge.modules.rnn.structure import modules_in
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor
from dpnn_bridge.torch7.gradient import with_penalty


def _has_layer_after_step_module(module: nn.Module) -> bool:
    """Return whether a layer follows a step module in the same Sequential of Torch7's modules for a time step."""
    sequences = [[*m] for m in modules_in(module, AbstractRecurrent) if isinstance(m, nn.Sequential)]
    if isinstance(module, Recurrent):
        sequences.append([module.merge_module, module.transfer_module])
    return any(isinstance(m, AbstractRecurrent) for sequence in sequences for m in sequence[:-1])


_LAYER_AFTER_STEP_MODULE = Fault(
    ("gradInput", "gradParams"),
    "layers after a step module run backward on its output of the last step: only nn.Recursor sets the output of an "
    "earlier step",
    when=_has_layer_after_step_module,
)


@lua_class("nn.Recurrent")
class Recurrent(AbstractRecurrent):
    """A simple recurrent network: ``transfer(merge([input_module(x), feedback_module(h)]))``.

    The first step of a sequence is ``transfer(start_module(input_module(x)))``. Torch7 runs it with clones of both
    modules, which keep states of their own: step modules inside them start again in the second step.

    Args:
        start_module: module for the first step only.
        input_module: module for the input.
        feedback_module: module for the previous output.
        transfer_module: module for the final value.
        merge_module: module that combines the outputs of ``input_module`` and ``feedback_module``.
        rho: maximum number of time steps through which gradients flow back.

    Shape:
        - Input: the input of ``input_module``.
        - Output: the output of ``transfer_module``.

    Lua:
        ``nn.Recurrent(start, input, feedback, transfer, rho, merge)``, Recurrent.lua
    """

    #: whether Torch7's first step continues an earlier sequence: the file was saved after a forward pass
    _first_continues = False

    def __init__(
        self,
        start_module: nn.Module,
        input_module: nn.Module,
        feedback_module: nn.Module,
        transfer_module: nn.Module,
        merge_module: nn.Module,
        *,
        rho: int = 99999,
    ) -> None:
        super().__init__(rho)
        self.start_module, self.input_module, self.feedback_module = start_module, input_module, feedback_module
        self.transfer_module, self.merge_module = transfer_module, merge_module

    def forward(self, input: Any) -> Any:
        previous = self._previous(input)
        if self.step == 2:
            forget(self.input_module)
            forget(self.transfer_module)
        value = self.input_module(input)
        if self.step == 1:
            value = self.start_module(value)
        else:
            value = self.merge_module([value, self.feedback_module(previous)])
        output = self.transfer_module(value)
        return self._advance(output, output)

    def _initial(self, input: Any) -> None:
        return None

    class Lua(AbstractRecurrent.Lua):
        user_states = {}
        #: results of every time step, in files of nnx from before March 20, 2015; Torch7 fills the tables again
        step_results: ClassVar[tuple[str, ...]] = (
            "initialOutputs",
            "initialGradInputs",
            "recurrentOutputs",
            "recurrentGradInputs",
        )
        scratch = (*AbstractRecurrent.Lua.scratch, "initialModule", *step_results)
        members = {
            "startModule": "start_module",
            "inputModule": "input_module",
            "feedbackModule": "feedback_module",
            "transferModule": "transfer_module",
            "mergeModule": "merge_module",
        }

        faults = (
            *AbstractRecurrent.Lua.faults,
            Fault(
                ("output", "gradInput", "gradParams"),
                "forget() does not reach Torch7's modules for the first step: step modules inside them continue from "
                "the previous sequence",
                when=lambda module: module._first_continues,  # type: ignore[arg-type, return-value]
            ),
            _LAYER_AFTER_STEP_MODULE,
        )

        @classmethod
        def build(cls, obj: LuaObject, ctx: TorchContext) -> nn.Module:
            return Recurrent(**cls.arguments(obj, ctx))

        @classmethod
        def fill(cls, module: Recurrent, obj: LuaObject, ctx: TorchContext) -> None:
            super().fill(module, obj, ctx)
            first = obj.get("initialModule")
            module._first_continues = any((o.get("step") or 1) > 1 for o in cls._first_steps(module, first))

        @classmethod
        def _first_steps(cls, module: nn.Module, first: Any) -> list[LuaObject]:
            """Return the objects of the step modules inside ``initialModule``."""
            start, input, _, transfer, _ = cls.children(module)
            objects = first["modules"].as_list() if isinstance(first, LuaObject) and "modules" in first else []
            pairs = chain.from_iterable(map(paired, (input, start, transfer), objects))
            return [obj for child, obj in pairs if isinstance(child, AbstractRecurrent)]

        @classmethod
        def inner_to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
            """Create Torch7's modules for the first and for later steps, which share parameters."""
            start, input, feedback, transfer, merge = (ctx.to_lua(m) for m in cls.children(module))
            tensor_class, train = ctx.type_of(module), module.training
            parallel = _container("nn.ParallelTable", [input, feedback], tensor_class, train)
            recurrent = _container("nn.Sequential", [parallel, merge, transfer], tensor_class, train)
            modules = [shared_clone(input), start, shared_clone(transfer)]
            first = _container("nn.Sequential", modules, tensor_class, train)
            for obj in cls._first_steps(module, first):
                obj["step"] = 1
            fields = {
                "recurrentModule": recurrent,
                "initialModule": first,
                "modules": LuaTable.from_list([start, input, feedback, transfer, merge]),
                "sharedClones": LuaTable({2: recurrent}),
            }
            record = record_of(module)
            fields |= {name: LuaTable() for name in cls.step_results if record and name in record.scratch}
            return cls.with_clones(fields, module, ctx)

        @classmethod
        def step_modules(cls, module: nn.Module, after: LuaObject, step: int) -> list[tuple[nn.Module, Any]]:
            start, input, feedback, transfer, merge = cls.children(module)
            if step == 1:
                return list(zip((input, start, transfer), after["initialModule"]["modules"].as_list(), strict=True))
            if (clone := clone_of(after, step)) is None:
                return []
            parallel, *rest = clone["modules"].as_list()
            objects = [*parallel["modules"].as_list(), *rest]
            return list(zip((input, feedback, merge, transfer), objects, strict=True))


def _container(class_name: str, modules: list[LuaObject], tensor_class: str, train: bool) -> LuaObject:
    """Create a container of Lua objects; the buffers of a ParallelTable are tables."""
    tables = {"output": LuaTable(), "gradInput": LuaTable()} if class_name == "nn.ParallelTable" else {}
    return fresh(class_name, tensor_class, *modules, train=train, **tables)


class _ModuleFieldClass(AbstractRecurrent.Lua):
    """Base class of mappings with an additional Lua field ``module``, which Torch7 does not update for masks."""

    @classmethod
    def inner_to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
        fields, record = super().inner_to_lua(module, ctx), record_of(module)
        return fields if record and "module" in record.fields else {**fields, "module": fields["recurrentModule"]}


@lua_class("nn.Recurrence")
class Recurrence(AbstractRecurrent):
    """Runs a module on ``[input, previous output]``; in the first step, the previous output is zero.

    Args:
        module: maps ``[input, previous output]`` to the output, a tensor or nested lists.
        output_size: shape of one sample's output, or a list of shapes for a list of outputs.
        input_dims: number of dimensions of one sample of the (first) input tensor; an input with one more is a batch.
        rho: maximum number of time steps through which gradients flow back.

    Attributes:
        user_prev_output: initial output of every sequence; None: zeros.

    Shape:
        - Input: a batch or one sample.
        - Output: the output of ``module``.

    Lua:
        ``nn.Recurrence(recurrentModule, outputSize, nInputDim, rho)``, Recurrence.lua
    """

    def __init__(self, module: nn.Module, output_size: int | list[Any], input_dims: int, *, rho: int = 9999) -> None:
        super().__init__(rho)
        self.module = module
        self.output_size = [output_size] if isinstance(output_size, int) else output_size
        self.input_dims = input_dims
        self.user_prev_output: Any = None

    def forward(self, input: Any) -> Any:
        output = self.module([input, self._previous(input)])
        return self._advance(output, output)

    def _initial(self, input: Any) -> Any:
        if self.user_prev_output is not None:
            return self.user_prev_output
        if 0 in self.states:
            return self.states[0]
        first = first_tensor(input)
        if first.dim() not in (self.input_dims, self.input_dims + 1):
            raise ValueError(
                f"Recurrence: expected an input with {self.input_dims} dimensions, or {self.input_dims + 1} "
                f"for a batch, found shape {tuple(first.shape)}"
            )
        batch = list(first.shape[:1]) if first.dim() > self.input_dims else []
        like = [*filter(torch.is_floating_point, self.parameters()), first][0]
        dtype = like.dtype if like.is_floating_point() else torch.get_default_dtype()
        return zeros(self.output_size, batch, dtype, first.device)

    def get_hidden_state(self, step: int | None = None) -> list[Any]:
        """Return ``[output, hidden states of the module]`` after time step ``step``."""
        return [super().get_hidden_state(step), [get_hidden_state(self.module, step)]]

    def set_hidden_state(self, step: int | None, state: list[Any]) -> None:
        """Replace the output and, if ``state`` has two elements, the hidden states of the module."""
        super().set_hidden_state(step, state[0])
        if len(state) > 1 and state[1]:
            set_hidden_state(self.module, step, state[1][0])

    class Lua(_ModuleFieldClass):
        scalars = {"rho": "rho", "nInputDim": "input_dims"}
        defaults = {"rho": 9999}
        faults = (*AbstractRecurrent.Lua.faults, _LAYER_AFTER_STEP_MODULE)
        user_states = {"user_prev_output": "userPrevOutput"}
        output_memory = fed_back_memory

        @classmethod
        def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
            return {**super().arguments(obj, ctx), "output_size": sizes_from_lua(obj["outputSize"])}

        @classmethod
        def to_lua(cls, module: Recurrence, ctx: LuaContext) -> dict[str, Any]:
            fields = super().to_lua(module, ctx) | {"typeTensor": LuaTensor.empty(ctx.type_of(module))}
            if module.step > 1:
                fields["zeroTensor"] = cls.zeros_to_lua(module, ctx)
            record = record_of(module)
            if record is None or "outputSize" not in record.fields:
                fields["outputSize"] = sizes_to_lua(module.output_size)
            return fields


@lua_class("nn.Recursor")
class Recursor(AbstractRecurrent):
    """Wraps any module as a step module; recurrent modules in it keep their own states.

    Args:
        module: module that is called once per time step.
        rho: maximum number of time steps through which gradients flow back.

    Shape:
        - Input, output: the module's input and output.

    Lua:
        ``nn.Recursor(module, rho)``, Recursor.lua
    """

    def __init__(self, module: nn.Module, *, rho: int = 9999999) -> None:
        super().__init__(rho)
        self.module = module

    def forward(self, input: Any) -> Any:
        self._begin()
        return self._finish(self.module(input))

    def get_hidden_state(self, step: int | None = None) -> Any:
        """Return the hidden state of the wrapped module."""
        return get_hidden_state(self.module, step)

    def set_hidden_state(self, step: int | None, state: Any) -> None:
        """Replace the hidden state of the wrapped module."""
        set_hidden_state(self.module, step, state)

    def max_bptt_step(self, rho: int) -> None:
        """Set the maximum number of time steps through which gradients flow back, also in the wrapped module."""
        super().max_bptt_step(rho)
        max_bptt_step(self.module, rho)

    class Lua(_ModuleFieldClass):
        defaults = {"rho": 9999999}
        user_states = {}
        output_memory = step_memory


@lua_class("nn.NormStabilizer")
class NormStabilizer(AbstractRecurrent):
    """Returns its input and penalizes changes of the norm between time steps.

    In training mode, the backward pass adds the gradient of
    :math:`\\beta \\sum_t \\text{mean}_n (\\|h_t\\| - \\|h_{t-1}\\|)^2` to the gradient of the loss.

    Args:
        recurrent_module: module that returns its input; default: :class:`CopyGrad`.
        beta: weight of the penalty.
        rho: maximum number of time steps through which gradients flow back.

    Shape:
        - Input, output: :math:`(N, H)`.

    Lua:
        ``nn.NormStabilizer(beta)``, NormStabilizer.lua
    """

    def __init__(self, recurrent_module: nn.Module | None = None, *, beta: float = 1.0, rho: int = 99999) -> None:
        super().__init__(rho)
        self.recurrent_module = CopyGrad() if recurrent_module is None else recurrent_module
        self.beta = beta
        self._norms: dict[int, Tensor] = {}  # time step of the sequence -> norms

    def forward(self, input: Tensor) -> Tensor:
        output = self.recurrent_module(input)
        if self.training:
            if self.step > 1:
                change = input.norm(dim=1) - self._previous(input).norm(dim=1)
                output = with_penalty(output, self.beta * change.square().mean())
            earlier = self._norms if self.step > 1 else {}
            self._norms = {**earlier, self.step: input.detach().norm(dim=1)}
        return self._advance(output, input)

    def update_loss(self) -> Tensor:
        """Return Torch7's loss :math:`\\beta / T \\sum_t \\text{mean}_n (\\|h_t\\| + \\|h_{t-1}\\|)^2`.

        As in Torch7, this loss adds the norms, unlike the penalty, which subtracts them.

        Raises:
            RuntimeError: no time step ran in training mode.
        """
        if not self._norms:
            raise RuntimeError("NormStabilizer has no loss yet: run a time step in training mode first")
        last = max(self._norms)
        pairs = ((norm, self._norms[t - 1]) for t, norm in self._norms.items() if t - 1 in self._norms)
        total = sum(((a + b).square().mean() for a, b in pairs), self._norms[last].new_zeros(()))
        return self.beta * total / last

    def _state_attributes(self) -> dict[str, Any]:
        return {**super()._state_attributes(), "_norms": self._norms}

    class Lua(AbstractRecurrent.Lua):
        scalars = ("rho", "beta")
        user_states = {}
        output_memory = step_memory

        @classmethod
        def fill(cls, module: NormStabilizer, obj: LuaObject, ctx: TorchContext) -> None:
            super().fill(module, obj, ctx)
            for step in obj.get("sharedClones") or ():
                clone = clone_of(obj, step)
                if clone is not None and has_tensor(clone, "norm") and step < module.step:
                    module._norms[step] = to_value(clone["norm"]).flatten()

        @classmethod
        def inner_to_lua(cls, module: NormStabilizer, ctx: LuaContext) -> dict[str, Any]:
            """Write the clones with the norms of earlier steps, which Torch7's backward pass of the next step reads.

            Torch7 would create a missing clone with the norms of another step. It keeps ``rho + 1`` clones and uses
            the oldest again.
            """
            fields = super().inner_to_lua(module, ctx)
            norms, last = dict(module._norms), module.step - 1
            if isinstance(state := module.states.get(last), Tensor) and state.dim() == 2:
                norms.setdefault(last, state.detach().norm(dim=1))  # of a step in evaluation mode
            inner, clones = fields["recurrentModule"], LuaTable()
            for step in sorted(t for t in norms if last - module.rho <= t <= last):
                clones[step] = shared_clone(inner) if clones else inner
                clones[step]["norm"] = ctx.constant(norms[step].unsqueeze(1), module)
            return {**fields, "sharedClones": clones} if clones else fields
