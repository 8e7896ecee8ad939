"""Base class of the step modules of rnn: one call per time step, with a state between calls."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dpnn_bridge.compare.nested import first_tensor, map_tensors
from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.faults import Fault
from dpnn_bridge.conversion.lua_class import LuaClass, has_tensor
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.conversion.noise import paired, replayed
from dpnn_bridge.modules.dpnn.reinforce import Reinforce
from dpnn_bridge.modules.rnn.clones import clone_of, note_clones, shared_clone
from dpnn_bridge.modules.rnn.dropout import LazyDropout
from dpnn_bridge.modules.rnn.memory import Memory, in_type_of
from dpnn_bridge.modules.rnn.structure import modules_in
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor

#: attribute for the user's initial state of every sequence -> Lua field
USER_STATES = {"user_prev_output": "userPrevOutput", "user_prev_cell": "userPrevCell"}


class AbstractRecurrent(Memory):
    """Base class of modules that are called once per time step.

    Args:
        rho: maximum number of time steps through which gradients flow back; the state is detached every ``rho`` steps.

    Attributes:
        step: number of the next time step, counted from 1.
        states: time step -> hidden state after this step; 0 is a state set by the user. In evaluation mode, and after
            steps that were computed together, only the latest state; :meth:`get_hidden_state` computes the others.
    """

    def __init__(self, rho: int = 99999) -> None:
        super().__init__()
        self.rho = rho
        self.step = 1
        self.states: dict[int, Any] = {}
        self._start: Any = None
        self._earlier: tuple[int, Callable[[], list[Any]]] | None = None
        self._run_start = 1
        self._backward_ran = self._given = False
        self._rewards: dict[int, Tensor] = {}

    # ------------------------------------------------------------------ one time step
    def _begin(self) -> None:
        """Start a step: set the step of the dropout layers in this module."""
        for dropout in dropouts_in(self):
            dropout.step = self.step

    def _previous(self, input: Any) -> Any:
        """Start a step; return the state after the previous step."""
        self._begin()
        return self._state_before(input)

    def _state_before(self, input: Any) -> Any:
        """Return the state after the previous step, or the initial state."""
        if self._backward_ran or self.step - self._run_start >= self.rho:
            self.detach_own()
        if self.step == 1:
            self._start = in_type_of(input, self._initial(input))
            return self._start
        if self.step - 1 not in self.states:
            raise RuntimeError(
                f"{type(self).__name__} is at time step {self.step}, but the state after step {self.step - 1} was not "
                "saved in the file; call forget() to start a new sequence"
            )
        return in_type_of(input, self.states[self.step - 1])

    def _initial(self, input: Any) -> Any:
        raise NotImplementedError

    def _advance(self, output: Any, state: Any) -> Any:
        """Store the state after the current step, and return the step's output."""
        if self.training:
            self.states[self.step] = state
        else:
            self.states = {t: s for t, s in self.states.items() if t == 0} | {self.step: state}
        self._given = False
        return self._finish(output)

    def _finish(self, output: Any) -> Any:
        """End the current step: increment ``step`` and register a hook for the backward pass."""
        step, self.step = self.step, self.step + 1
        tensor = first_tensor(output)
        if tensor.requires_grad and not torch.compiler.is_compiling():
            tensor.register_hook(self._backward_hook([step]))
        return output

    # ------------------------------------------------------------------ many time steps together
    def pass_steps(self, steps: int, results: list[Tensor], dropouts: list[LazyDropout]) -> None:
        """End time steps that were computed together, with the effect of one call per step.

        Args:
            steps: number of time steps.
            results: tensors that all gradients of these steps pass.
            dropouts: the layers of :func:`dropouts_in`.
        """
        first, end = self.step, self.step + steps
        self.__dict__["step"] = end
        for dropout in dropouts:
            dropout.step = end - 1
        for result in results:
            if result.requires_grad:
                result.register_hook(self._backward_hook(range(end - 1, first - 1, -1), dropouts))

    def keep(self, state: Any, earlier: Callable[[], list[Any]], steps: int) -> None:
        """Store the state after time steps that were computed together.

        Args:
            state: the state after the last step.
            earlier: function that returns the states after all steps.
            steps: number of time steps.
        """
        last = self.step - 1
        if self.training:
            states = self._all_states() | {last: state}
            self.__dict__.update(states=states, _earlier=(last - steps + 1, earlier), _given=False)
        else:
            states = {t: s for t, s in self.states.items() if t == 0} | {last: state}
            self.__dict__.update(states=states, _given=False)

    def _backward_hook(
        self, steps: Sequence[int], dropouts: list[LazyDropout] | None = None
    ) -> Callable[[Tensor], None]:
        """Return a hook for a tensor of these time steps, to call :meth:`_note_backward`.

        The hook does not keep the module alive: the module keeps the tensor as its state, and Python cannot free a
        cycle through a hook.
        """
        reference = weakref.ref(self)

        def note(gradient: Tensor) -> None:
            if (module := reference()) is not None:
                module._note_backward(steps, dropouts_in(module) if dropouts is None else dropouts)

        return note

    def _note_backward(self, steps: Sequence[int], dropouts: list[LazyDropout]) -> None:
        self._backward_ran = True
        for dropout in dropouts:
            dropout.stale |= {*steps}
        for step in steps if self._rewards else ():
            self._give_reward(step)

    def _give_reward(self, step: int) -> None:
        if step in self._rewards:  # the backward pass of this step runs next
            for module in self.modules():
                if isinstance(module, Reinforce):
                    module.reinforce(self._rewards[step])

    # ------------------------------------------------------------------ memory
    def forget_own(self) -> None:
        states = {t: s for t, s in self.states.items() if t == 0 and not self.training}
        start = {"_run_start": 1, "_start": None, "_earlier": None, "_backward_ran": False, "_given": False}
        for name, value in {**start, "states": states, "step": 1}.items():
            object.__setattr__(self, name, value)  # faster than nn.Module.__setattr__, which looks up parameters

    def detach_own(self) -> None:
        if self._given and not self._backward_ran:  # a state set by the user may be part of another module's graph
            return
        self._earlier = None
        needed = {0, self.step - 1}
        self.states = {t: map_tensors(Tensor.detach, s) for t, s in self.states.items() if t in needed}
        self._run_start = self.step
        self._backward_ran = False

    def get_hidden_state(self, step: int | None = None) -> Any:
        """Return the state after time step ``step`` (default: the latest); None if it was not stored."""
        step = self.step - 1 if step is None else step
        self.states, self._earlier = self._all_states(), None
        return self._start if step == 0 and self._start is not None else self.states.get(step)

    def _all_states(self) -> dict[int, Any]:
        """Return :attr:`states`, including the states of steps that were computed together."""
        if self._earlier is None:
            return self.states
        first, states = self._earlier
        return dict(enumerate(states(), first)) | self.states

    def set_hidden_state(self, step: int | None, state: Any) -> None:
        """Replace the state after time step ``step``; 0 is the initial state, None the latest."""
        step = self.step - 1 if step is None else step
        self.states[step] = state
        self._given = self._given or step == self.step - 1

    def max_bptt_step(self, rho: int) -> None:
        """Set the maximum number of time steps through which gradients flow back."""
        self.rho = rho

    def reinforce(self, reward: Tensor | list[Tensor]) -> None:
        """Set the rewards of the REINFORCE modules in this module for the next backward pass.

        Args:
            reward: rewards :math:`(N)` of all time steps, or :math:`(T, N)` or a list for each of the latest steps.
        """
        each = reward if isinstance(reward, list) or reward.dim() > 1 else []
        self._rewards = dict(enumerate(each, self.step - len(each)))

    def _state_attributes(self) -> dict[str, Any]:
        values = {name: self.__dict__[name] for name in USER_STATES if name in self.__dict__}
        with torch.no_grad():
            values["states"] = self._all_states()
        values = map_tensors(Tensor.detach, values)
        return {**values, "_start": None, "_earlier": None, "_backward_ran": False}

    class Lua(LuaClass):
        """Base class of the mappings of step modules. Torch7's clones for each time step are not converted."""

        repeats = True
        faults = (
            Fault(
                ("gradInput", "gradParams"),
                "in evaluation mode, every step overwrites Torch7's buffers, so its backward pass is wrong",
                mode="eval",
            ),
        )
        scalars = ("rho",)
        defaults = {"rho": 99999}
        scratch = (
            *("sharedClones", "outputs", "gradInputs", "gradOutputs", "cells", "gradCells", "zeroTensor"),
            *("cell", "gradPrevOutput", "userGradPrevOutput", "userGradPrevCell"),
        )
        #: attribute with a tensor set by the user -> Lua field
        user_states: ClassVar[dict[str, str]] = USER_STATES

        @classmethod
        def matches(cls, obj: LuaObject) -> bool:
            return obj.get("recurrentModule") is not None

        @classmethod
        def build(cls, obj: LuaObject, ctx: TorchContext) -> nn.Module:
            inner = ctx.to_torch(obj["recurrentModule"], "recurrentModule")
            return cls.torch_type(inner, **cls.arguments(obj, ctx))

        @classmethod
        def fill(cls, module: AbstractRecurrent, obj: LuaObject, ctx: TorchContext) -> None:
            super().fill(module, obj, ctx)
            note_clones(obj, ctx)
            module.step = module._run_start = obj.get("step") or 1
            for step in {0, module.step - 1}:
                state = cls.state_from_lua(obj, step)
                if state is not None:
                    module.states[step] = state
            for attribute, name in cls.user_states.items():
                if has_tensor(obj, name) or isinstance(obj.get(name), LuaTable):
                    setattr(module, attribute, to_value(obj[name]))
            if dropouts_in(module):
                cls.fill_masks(module, obj)

        @classmethod
        def fill_masks(cls, module: nn.Module, obj: LuaObject) -> None:
            """Copy the dropout masks of the clones of all time steps."""
            dropouts = dropouts_in(module)
            for step in {1, *(obj.get("sharedClones") or ())}:
                for child, child_obj in cls.inside(module, obj, step):
                    if isinstance(child, LazyDropout) and child in dropouts:
                        LazyDropout.Lua.fill_step(child, child_obj, step)

        @classmethod
        def inside(cls, module: nn.Module, obj: Any, step: int) -> Iterator[tuple[nn.Module, LuaObject]]:
            """Yield the modules inside ``module``, each with the corresponding Lua object of a time step."""
            for inner, clone in cls.step_modules(module, obj, step):
                yield from paired(inner, clone) if isinstance(clone, LuaObject) else ()

        @classmethod
        def state_from_lua(cls, obj: LuaObject, step: int) -> Any:
            """Return the hidden state after a time step in ``obj``, or None."""
            return state_entry(obj, "outputs", step)

        @classmethod
        def state_to_lua(cls, state: Any) -> dict[str, Any]:
            """Map the name of each Lua table of states to its entry for one hidden state."""
            return {"outputs": state}

        @classmethod
        def handled(cls, module: nn.Module) -> set[str]:
            names = {"recurrentModule", "modules", "step"}
            return super().handled(module) | names | {n for a, n in cls.user_states.items() if hasattr(module, a)}

        @classmethod
        def inner_to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
            """Return the fields that contain modules."""
            inner = ctx.to_lua(cls.children(module)[0])
            clones, modules = LuaTable.from_list([inner]), LuaTable.from_list([inner])
            return cls.with_clones({"recurrentModule": inner, "modules": modules, "sharedClones": clones}, module, ctx)

        @classmethod
        def with_clones(cls, fields: dict[str, Any], module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
            """Add a clone to ``sharedClones`` for every time step that has its own dropout masks.

            Like in Torch7, the clones contain the same step modules, which have clones of their own.
            """
            clones, dropouts = fields["sharedClones"], dropouts_in(module)
            own = {step for d in dropouts for step in d.masks.keys() | d.stale}
            first = [pair for step in clones for pair in cls.inside(module, fields, step)] if own else []
            same = {id(obj): obj for child, obj in first if isinstance(child, AbstractRecurrent)}
            for step in sorted({*own, *clones} - {1}):
                clones.setdefault(step, shared_clone(fields["recurrentModule"], {**same}))
                for child, obj in cls.inside(module, fields, step):
                    if isinstance(child, LazyDropout) and child in dropouts:
                        obj.fields.update(LazyDropout.Lua.step_to_lua(child, step, ctx))
            return fields

        @classmethod
        def to_lua(cls, module: AbstractRecurrent, ctx: LuaContext) -> dict[str, Any]:
            fields: dict[str, Any] = super().to_lua(module, ctx) | cls.inner_to_lua(module, ctx) | {"step": module.step}
            for name in ("outputs", "gradInputs", "_gradOutputs", "gradOutputs"):
                fields[name] = LuaTable()
            for step, state in module.states.items():
                if step in (0, module.step - 1):
                    for name, value in cls.state_to_lua(state).items():
                        fields.setdefault(name, LuaTable())[step] = _lua_value(value, module, ctx)
            for attribute, name in cls.user_states.items():
                value = getattr(module, attribute, None)
                if value is not None:
                    fields[name] = _lua_value(value, module, ctx)
            return fields

        @classmethod
        def zeros_to_lua(cls, module: AbstractRecurrent, ctx: LuaContext) -> Any:
            """Create ``zeroTensor``, zeros like the last output; Torch7 resizes it only in the first step."""
            if module.step == 1 or module.step - 1 not in module.states:
                return LuaTensor.empty(ctx.type_of(module))
            output = cls.state_to_lua(module.states[module.step - 1])["outputs"]
            return _lua_value(map_tensors(torch.zeros_like, output), module, ctx)

        # ------------------------------------------------------------------ parity
        @classmethod
        def step_modules(cls, module: nn.Module, after: LuaObject, step: int) -> list[tuple[nn.Module, Any]]:
            """Return the submodules, each with the corresponding Lua object of time step ``step``, or None."""
            return [(cls.children(module)[0], clone_of(after, step))]

        @classmethod
        def last_ran(cls, module: nn.Module, after: LuaObject) -> list[tuple[nn.Module, LuaObject]] | None:
            """Return the clone of the last time step; None in evaluation mode, which uses no clones."""
            clones, last = after.get("sharedClones"), int(after.get("step") or 1) - 1
            if after.get("train") is False or not isinstance(clones, LuaTable) or last not in clones:
                return None
            return cls.step_modules(module, after, last)

        @classmethod
        def replay(cls, module: AbstractRecurrent, after: LuaObject) -> Callable[[Any], Any] | None:
            """Replay the random numbers that the clone of each time step stores."""
            if not module.training or not cls.children(module):
                return None

            def forward(input: Any) -> Any:
                with ExitStack() as stack:
                    for inner, obj in cls.step_modules(module, after, module.step):
                        stack.enter_context(replayed(inner, obj))
                    return type(module).forward(module, input)

            return forward


def dropouts_in(module: nn.Module) -> list[LazyDropout]:
    """Return the dropout layers that keep a mask for each time step of ``module``, not of a step module inside it."""
    inside = modules_in(module, AbstractRecurrent)
    return [m for m in inside if isinstance(m, LazyDropout) and m.p]


def state_entry(obj: LuaObject, name: str, step: int) -> Any:
    """Return the value of one time step in a Lua table of states, or None."""
    table = obj.get(name)
    value = to_value(table.get(step)) if isinstance(table, LuaTable) else None
    return None if isinstance(value, Tensor) and value.numel() == 0 else value


def _lua_value(value: Any, module: nn.Module, ctx: LuaContext) -> Any:
    if isinstance(value, (list, tuple)):
        return LuaTable.from_list(_lua_value(v, module, ctx) for v in value)
    return ctx.constant(value, module) if isinstance(value, Tensor) else value
