"""Replays traces of calls that Torch7 recorded (fixtures of kind ``sequence``) on converted modules.

Torch7 runs backward step by step; here the gradients of all steps of a run are collected and autograd runs once, when
the trace goes on. What each call gave in Torch7 is compared all the same.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge import memory, parity, training
from dpnn_bridge.compare import nested
from dpnn_bridge.conversion import convert_object, registry, to_lua
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.conversion.options import Options
from dpnn_bridge.modules.rnn.dropout import LazyDropout
from dpnn_bridge.modules.rnn.gated import GRU, LSTM
from dpnn_bridge.modules.rnn.recurrence import NormStabilizer, Recurrence
from dpnn_bridge.modules.rnn.recurrent import AbstractRecurrent
from dpnn_bridge.modules.rnn.seq_gru import SeqGRU
from dpnn_bridge.modules.rnn.seq_lstm import SeqLSTM, SequenceModule
from dpnn_bridge.modules.rnn.sequencer import BiSequencer, BiSequencerLM
from dpnn_bridge.objects import LuaTable
from dpnn_bridge.parity.gradients import compare_grad_input, compare_gradients
from dpnn_bridge.torch7.draws import torch7_random

#: Lua field -> attribute
FIELDS = {
    "step": "step",
    "rho": "rho",
    "_remember": "remembering",
    "userPrevOutput": "user_prev_output",
    "userPrevCell": "user_prev_cell",
}
#: fields through which Torch7 takes the gradient of the final state: position in the state
FINAL_GRADIENTS = {"userNextGradOutput": 0, "gradPrevOutput": 0, "userNextGradCell": 1}
#: fields in which Torch7 leaves the gradient of the initial state
INITIAL_GRADIENTS = {"userGradPrevOutput": "user_prev_output", "userGradPrevCell": "user_prev_cell"}


def lua_list(value: Any) -> Any:
    """Nested lists as Lua counts them: what is nil at the end is not there."""
    if not isinstance(value, list):
        return value
    value = [lua_list(v) for v in value]
    while value and value[-1] is None:
        value.pop()
    return value


def _as_state(module: nn.Module, state: Any) -> Any:
    return [state] if isinstance(module, Recurrence) else state


class Replay:
    """One trace on one converted module.

    Args:
        fixture: table of kind ``sequence``.
        device: where to run.
        tolerance: for what is computed in double precision.

    Attributes:
        result: all comparisons.
    """

    def __init__(self, fixture: LuaTable, device: str, tolerance: parity.Tolerance) -> None:
        self.fixture, self.device, self.accepted = fixture, device, tolerance
        self.calls = fixture["calls"].as_list()
        ops = {c["op"] for c in self.calls}
        self.tree = fixture.get("tree")
        self.scaled = any(c.get("scale") is not None for c in self.calls)
        self.watches_states = "getGradHiddenState" in ops
        self.objects: dict[str, nn.Module] = {"m": self._converted(fixture["module"])}
        self.result = parity.Result()
        self._runs: list[dict[str, Any]] = []  # forwards not yet run backward
        self._pending: list[dict[str, Any]] = []  # their gradients
        self._final: list[tuple[Tensor, Tensor]] = []  # states with gradients given by the user
        self._given: dict[str, Tensor] = {}  # initial states given by the user

    def _converted(self, obj: Any) -> nn.Module:
        return convert_object(obj, Options(gradients=True))[0].to(self.device)

    def _value(self, value: Any) -> Any:
        return to_value(value, device=self.device)

    def run(self) -> parity.Result:
        """Replays every call."""
        with parity.full_precision(), torch7_random(self.fixture.get("seed")):
            for number, call in enumerate(self.calls, 1):
                self._call(number, call)
            self._backward()
        expected = self._value(self.fixture.get("gradParams"))
        if expected:
            self._compare_gradients("gradParams", self.objects["m"], expected)
        return self.result

    # ------------------------------------------------------------------ calls
    def _object(self, call: LuaTable) -> nn.Module:
        module = self.objects[call.get("on") or "m"]
        path = call["at"].as_list() if call.get("at") is not None else []
        while path:
            key = path.pop(0)
            if key == "modules":
                module = registry.mapping_of(module).children(module)[path.pop(0) - 1]
            else:
                module = getattr(module, key)
        return module

    def _call(self, number: int, call: LuaTable) -> None:
        op, module = call["op"], self._object(call)
        name = f"call {number} {op}"
        if call.get("error") is not None:
            return
        if op in ("backward", "updateGradInput"):
            self._note_backward(name, module, call)
            return
        if op == "gradParams":
            self._backward()
            self._compare_gradients(name, module, self._value(call["result"]))
            return
        if op == "accGradParameters":  # autograd did it together with updateGradInput
            return
        if op not in ("get", "set", "setGradHiddenState") or call.get("field") in INITIAL_GRADIENTS:
            self._backward()
        arguments = [self._value(a) for a in call["args"].as_list()] if call.get("args") is not None else []
        value = getattr(self, f"op_{op}")(name, module, call, *arguments)
        if call.get("as") is not None:
            self.objects[call["as"]] = value
        elif call.get("result") is not None:
            self._compare(name, value, self._value(call["result"]))

    @property
    def tolerance(self) -> parity.Tolerance:
        """Single precision as soon as anything was computed in it."""
        ops = {c["op"] for c in self.calls}
        single = "float" in ops or any(p.dtype == torch.float32 for p in self.objects["m"].parameters())
        return self.accepted.in_single() if single else self.accepted

    def _compare(self, name: str, actual: Any, expected: Any) -> None:
        self.result.differences += parity.compare(name, actual, expected, self.tolerance)

    def _compare_gradients(self, name: str, module: nn.Module, expected: Any) -> None:
        gradients = training.parameters(module)[1]
        for difference in compare_gradients(module, gradients, expected, self.tolerance):
            difference.name = f"{name}: {difference.name}"
            self.result.differences.append(difference)

    # ------------------------------------------------------------------ forward and backward
    def op_forward(self, name: str, module: nn.Module, call: LuaTable) -> None:
        inputs = nested.require_grad(self._value(call["input"]))
        arguments = [inputs] if call.get("target") is None else [inputs, self._value(call["target"])]
        if self.watches_states:
            self._start_with_leaves(module, inputs)
        leaves: dict[str, Tensor] = {}
        if self.scaled:  # parameters of this step alone, so that its gradients can be weighted
            leaves = {n: nn.Parameter(p.detach()) for n, p in module.named_parameters()}
            output = torch.func.functional_call(module, leaves, tuple(arguments))
        else:
            output = module(*arguments)
        if self.watches_states:
            self._watch(module)
        self._runs.append({"module": module, "inputs": inputs, "output": output, "leaves": leaves})
        self._compare(name, output, self._value(call["output"]))

    op_updateOutput = op_forward  # noqa: N815

    def _start_with_leaves(self, module: nn.Module, inputs: Any) -> None:
        """Gives step modules an initial state that the gradient can be read from."""
        for m in module.modules():
            if isinstance(m, AbstractRecurrent) and m.step == 1 and (0 in m.states or m is module):
                state = m._initial(nested.first_tensor(inputs))
                m.set_hidden_state(0, nested.map_tensors(lambda t: t.detach().requires_grad_(), _as_state(m, state)))

    def _watch(self, module: nn.Module) -> None:
        """Lets the next step start from copies of the state, whose gradient is what flows into it from later steps."""
        for m in module.modules():
            if isinstance(m, AbstractRecurrent) and m.step - 1 in m.states:
                state = nested.map_tensors(lambda t: t.view_as(t), m.states[m.step - 1])
                nested.map_tensors(lambda t: t.retain_grad() if t.requires_grad else None, state)
                m.states[m.step - 1] = state

    def _note_backward(self, name: str, module: nn.Module, call: LuaTable) -> None:
        done = {id(p["run"]) for p in self._pending}
        run = next(r for r in reversed(self._runs) if r["module"] is module and id(r) not in done)
        if not self._pending:
            self._final += self._user_final(module)
        gradient = call.get("gradOutput")
        self._pending.append({"name": name, "run": run, "gradOutput": self._value(gradient), "call": call})

    def _user_final(self, module: nn.Module) -> list[tuple[Tensor, Tensor]]:
        """Final states with the gradients that the trace set."""
        found = []
        for m in module.modules():
            for field, position in FINAL_GRADIENTS.items():
                gradient = m.__dict__.get(field)
                if gradient is None or (self.tree == "2016" and field == "userNextGradOutput"):  # not known then
                    continue
                state = m.final if isinstance(m, SequenceModule) else memory.get_hidden_state(m)
                state = state if isinstance(state, list) else [state]
                found.append((state[position], gradient))
                if isinstance(m, SequenceModule):
                    del m.__dict__[field]
        return found

    def _backward(self) -> None:
        """Runs the gradients noted so far through autograd, once."""
        if not self._pending:
            return
        pairs = list(self._final)
        for pending in self._pending:
            output, gradient = pending["run"]["output"], pending["gradOutput"]
            leaves = list(nested.leaves(output))
            gradients = [torch.ones_like(o) for o in leaves] if gradient is None else list(nested.leaves(gradient))
            pairs += [(o, g.reshape(o.shape)) for o, g in zip(leaves, gradients, strict=True) if o.requires_grad]
        if pairs:
            torch.autograd.backward([o for o, _ in pairs], [g for _, g in pairs])
        for pending in self._pending:
            run, call = pending["run"], pending["call"]
            if call.get("gradInput") is not None:
                self.result.differences += compare_grad_input(
                    pending["name"], run["inputs"], self._value(call["gradInput"]), self.tolerance
                )
            for n, leaf in run["leaves"].items():
                parameter = run["module"].get_parameter(n)
                if leaf.grad is not None:
                    scaled = leaf.grad * (call.get("scale") if call.get("scale") is not None else 1)
                    parameter.grad = scaled if parameter.grad is None else parameter.grad + scaled
        done = {id(p["run"]) for p in self._pending}
        self._runs = [r for r in self._runs if id(r) not in done]
        self._pending, self._final = [], []

    # ------------------------------------------------------------------ fields
    def op_get(self, name: str, module: nn.Module, call: LuaTable) -> Any:
        field = call["field"]
        if field in INITIAL_GRADIENTS:
            given = self._given.get(INITIAL_GRADIENTS[field])
            return None if given is None else given.grad
        if field == "flag":  # a plain dropout has no such state
            lazy = isinstance(module, LazyDropout)
            return 1 in module.stale or not module.masks if lazy else self._value(call["result"])
        if field == "h0":
            assert isinstance(module, SequenceModule)
            return module.initial[0] if module.initial else torch.empty(0)
        if field == "cell":
            assert isinstance(module, SequenceModule)
            assert module.final is not None
            self._compare(name, module.final[1], self._value(call["result"])[-1])
            return self._value(call["result"])
        return getattr(module, FIELDS[field])

    def op_set(self, name: str, module: nn.Module, call: LuaTable) -> None:
        field, value = call["field"], nested.require_grad(self._value(call.get("value")))
        if field in FINAL_GRADIENTS:
            module.__dict__[field] = value
            return
        self._given[FIELDS[field]] = value
        setattr(module, FIELDS[field], value)

    # ------------------------------------------------------------------ hidden states
    def op_getHiddenState(self, name: str, module: nn.Module, call: LuaTable, step: int) -> Any:  # noqa: N802
        return lua_list(memory.get_hidden_state(module, step))

    def op_setHiddenState(self, name: str, module: nn.Module, call: LuaTable, step: int, state: Any) -> None:  # noqa: N802
        memory.set_hidden_state(module, step, state)

    def op_getGradHiddenState(self, name: str, module: nn.Module, call: LuaTable, step: int) -> Any:  # noqa: N802
        """What flows into a state from the later steps."""
        state = memory.get_hidden_state(module, step)
        return lua_list(nested.map_tensors(lambda t: torch.zeros_like(t) if t.grad is None else t.grad, state))

    def op_setGradHiddenState(self, name: str, module: nn.Module, call: LuaTable, step: int, gradient: Any) -> None:  # noqa: N802
        state = memory.get_hidden_state(module, step)
        pairs = zip(nested.leaves(state), nested.leaves(gradient), strict=False)
        self._final += [(s, g) for s, g in pairs if isinstance(g, Tensor)]

    # ------------------------------------------------------------------ modes
    def op_forget(self, name: str, module: nn.Module, call: LuaTable) -> None:
        memory.forget(module)

    def op_remember(self, name: str, module: nn.Module, call: LuaTable, mode: str = "both") -> None:
        if self.tree == "2016" and isinstance(module, (BiSequencer, BiSequencerLM)):
            for child in module.children():  # where remember still reached the sequencers inside
                memory.remember(child, mode)
        memory.remember(module, mode)

    def op_evaluate(self, name: str, module: nn.Module, call: LuaTable) -> None:
        module.eval()

    def op_training(self, name: str, module: nn.Module, call: LuaTable) -> None:
        module.train()

    def op_maxBPTTstep(self, name: str, module: nn.Module, call: LuaTable, rho: int) -> None:  # noqa: N802
        memory.max_bptt_step(module, rho)

    def op_clearState(self, name: str, module: nn.Module, call: LuaTable) -> None:  # noqa: N802
        memory.forget(module)
        for m in module.modules():
            if isinstance(m, LazyDropout) and self.tree == "head":
                m.stale |= set(m.masks)

    def op_float(self, name: str, module: nn.Module, call: LuaTable) -> None:
        if self.tree == "head" and isinstance(module, LSTM):
            memory.forget(module)  # LSTM:type() does; a GRU keeps its state, as every module does here
        module.float()

    def op_double(self, name: str, module: nn.Module, call: LuaTable) -> None:
        module.double()

    # ------------------------------------------------------------------ copies
    def op_clone(self, name: str, module: nn.Module, call: LuaTable) -> nn.Module:
        return copy.deepcopy(module)

    def op_sharedClone(self, name: str, module: nn.Module, call: LuaTable, *share: bool) -> nn.Module:  # noqa: N802
        return training.shared_clone(module, *share)

    def op_stepClone(self, name: str, module: nn.Module, call: LuaTable) -> nn.Module:  # noqa: N802
        recurrent = [m for m in module.modules() if isinstance(m, AbstractRecurrent)]
        return copy.deepcopy(module, {id(p): p for p in [*module.parameters(), *recurrent]})

    def op_saveload(self, name: str, module: nn.Module, call: LuaTable) -> None:
        self.objects[call.get("on") or "m"] = self._converted(to_lua(module))

    # ------------------------------------------------------------------ parameters
    def op_params(self, name: str, module: nn.Module, call: LuaTable) -> list[Tensor]:
        return training.parameters(module)[0]

    def op_getParameters(self, name: str, module: nn.Module, call: LuaTable) -> list[Tensor]:  # noqa: N802
        return list(training.get_parameters(module))

    def op_zeroGradParameters(self, name: str, module: nn.Module, call: LuaTable) -> None:  # noqa: N802
        training.zero_grad_parameters(module)

    def op_updateParameters(self, name: str, module: nn.Module, call: LuaTable, rate: float) -> None:  # noqa: N802
        training.update_parameters(module, rate)

    def op_updateGradParameters(self, name: str, module: nn.Module, call: LuaTable, *a: Any) -> None:  # noqa: N802
        training.update_grad_parameters(module, *a)

    def op_gradParamClip(self, name: str, module: nn.Module, call: LuaTable, *a: Any) -> Any:  # noqa: N802
        return training.grad_param_clip(module, *a)

    def op_maxParamNorm(self, name: str, module: nn.Module, call: LuaTable, *a: Any) -> None:  # noqa: N802
        training.max_param_norm(module, *a)

    def op_weightDecay(self, name: str, module: nn.Module, call: LuaTable, *a: Any) -> None:  # noqa: N802
        training.weight_decay(module, *a)

    # ------------------------------------------------------------------ single classes
    def op_reinforce(self, name: str, module: nn.Module, call: LuaTable, reward: Any) -> None:
        training.reinforce(module, reward)

    def op_updateLoss(self, name: str, module: nn.Module, call: LuaTable) -> Any:  # noqa: N802
        assert isinstance(module, NormStabilizer)
        return module.update_loss()

    def op_toGRU(self, name: str, module: nn.Module, call: LuaTable) -> nn.Module:  # noqa: N802
        assert isinstance(module, SeqGRU)
        return module.to_gru()

    def op_toFastLSTM(self, name: str, module: nn.Module, call: LuaTable) -> nn.Module:  # noqa: N802
        assert isinstance(module, SeqLSTM)
        return module.to_fast_lstm()

    def op_migrate(self, name: str, module: nn.Module, call: LuaTable, parameters: list[Tensor]) -> None:
        assert isinstance(module, GRU)
        module.migrate(parameters)
