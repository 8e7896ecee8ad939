"""Wrap Lua modules and criterions as :class:`torch.nn.Module` with autograd."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from dpnn_bridge.base.boundary import wrap_errors
from dpnn_bridge.base.display import printable
from dpnn_bridge.conversion.placeholder import Placeholder
from dpnn_bridge.errors import LuaBridgeError
from dpnn_bridge.objects import LuaObject

Tensors = Sequence[torch.Tensor | None]


class ObjectBridge(Protocol):
    """What a module asks of the :class:`~dpnn_bridge.lua.LuaBridge` in which its object lives."""

    @property
    def runtime(self) -> str: ...
    def type_of(self, value: Any) -> str: ...
    def to_lua(self, value: Any) -> Any: ...
    def to_object(self, value: Any) -> LuaObject: ...
    def definition(self, name: str) -> str: ...
    def method(self, obj: Any, name: str, *args: Any) -> Any: ...
    def state_of(self, obj: Any) -> tuple[list[str], list[torch.Tensor], list[torch.Tensor], list[tuple[str, Any]]]: ...
    def push(self, obj: Any, tensors: Tensors) -> None: ...
    def forward(self, obj: Any, input: Any, tensors: Tensors) -> Any: ...
    def backward(self, obj: Any, input: Any, grad_output: Any, tensors: Tensors) -> tuple[Any, list[torch.Tensor]]: ...


#: what a Lua class, or a sandbox that its code took over, answers may be anything
_read_answers = wrap_errors(LuaBridgeError, "reading what Lua answered")


def _attribute(name: str) -> str:
    """Return the attribute for a tensor that Lua names."""
    return name.replace(".", "_") or "_"


def _flatten(value: Any, tensors: list[torch.Tensor]) -> Any:
    """Move the tensors of nested lists and dicts to ``tensors``; return the rest, which tells where they were."""
    if isinstance(value, torch.Tensor):
        tensors.append(value)
        return len(tensors) - 1
    if isinstance(value, (list, tuple)):
        return [_flatten(v, tensors) for v in value]
    if isinstance(value, dict):
        return {k: _flatten(v, tensors) for k, v in value.items()}
    return (value,)


def _restore(shape: Any, tensors: list[Any]) -> Any:
    """Undo :func:`_flatten`."""
    if isinstance(shape, int):
        return tensors[shape]
    if isinstance(shape, list):
        return [_restore(s, tensors) for s in shape]
    if isinstance(shape, dict):
        return {k: _restore(s, tensors) for k, s in shape.items()}
    return shape[0]


class _Forward(torch.autograd.Function):
    """One forward of a Lua module; its backward runs updateGradInput and accGradParameters."""

    @staticmethod
    def forward(ctx: Any, run: Callable[..., Any], back: Callable[..., Any], *tensors: torch.Tensor) -> Any:
        ctx.back = back
        outputs = run(*tensors)
        ctx.mark_non_differentiable(*[o for o in outputs if not o.is_floating_point()])
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> Any:
        if torch.is_grad_enabled():
            raise LuaBridgeError(
                "a Lua module computes its gradients in Lua, which autograd cannot differentiate again: "
                "call backward without create_graph=True"
            )
        return None, None, *ctx.back(gradients)


class _LuaFunctionality:
    """The base of modules and criterions: the Lua object, and the state of its last forward."""

    bridge: ObjectBridge
    lua: Any
    _step: int

    def _start(self, bridge: ObjectBridge, obj: Any) -> None:
        object.__setattr__(self, "bridge", bridge)
        object.__setattr__(self, "lua", obj)
        self._step = 0

    @property
    def class_name(self) -> str:
        """Its Lua class, such as ``nn.Linear``."""
        return self.bridge.type_of(self.lua)

    def _next_step(self) -> int:
        self._step += 1
        return self._step

    def _return_to(self, step: int, replay: Callable[[], bool]) -> None:
        """Bring the Lua object back to the forward that a backward belongs to, by running that forward again.

        Raises:
            LuaBridgeError: the outputs are not the same (random numbers, changed parameters).
        """
        if step == self._step:
            return
        if not replay():
            raise LuaBridgeError(
                f"{self.class_name} ran forward again before this backward, and running the first forward once more "
                "gives other outputs (it draws random numbers, or its parameters changed): a Lua module keeps the "
                "state of its last forward only. Call backward after each forward, or wrap a clone for the second one"
            )
        self._step = step

    def _lua_copy(self, shape: Any, tensors: list[torch.Tensor]) -> Any:
        """Return the Lua values of copies, since Lua modules keep references to inputs and may overwrite them."""
        return self.bridge.to_lua(_restore(shape, [t.detach().clone() for t in tensors]))

    def __reduce__(self) -> Any:
        raise LuaBridgeError(
            f"{self.class_name} is in a Lua state and cannot be pickled: save its state_dict, or write it with "
            "dpnn_bridge.save (.pt, .t7)"
        )


class LuaModule(_LuaFunctionality, Placeholder):
    """A Lua module as a PyTorch module.

    Parameters share memory with the tensors of ``module:parameters()``, so that an optimizer of PyTorch trains what Lua
    has and the reverse. Other tensors of its state (running means …) are buffers, shared as well. Written to ``.t7``
    or ``.pt`` it becomes the object of its Lua class again.

    Args:
        bridge: where the object lives.
        obj: the Lua object.

    Shape:
        As the Lua module: tensors, or lists and dicts of them for Lua tables.

    Lua:
        any class with updateOutput, updateGradInput and accGradParameters.

    Differs from PyTorch:
        Lua keeps the state of one forward: a backward that belongs to an earlier one runs that forward again and raises
        when its outputs are not the same. No backward through gradients, no DataParallel, TorchScript or pickle. Runs
        on the CPU. Tensors that do not have the module's type raise, as in Torch7.

    Examples:
        >>> layer = LuaBridge(lua_path="nn").module("nn.Linear", 3, 2)          # doctest: +SKIP
        >>> layer(torch.ones(5, 3, dtype=torch.float64)).sum().backward()       # doctest: +SKIP
    """

    def __init__(self, bridge: ObjectBridge, obj: Any) -> None:
        nn.Module.__init__(self)
        self._start(bridge, obj)
        self.path = ""
        self._gradients: list[torch.Tensor] = []
        self._names: list[str] = []
        self._bind(first=True)

    @_read_answers
    def _bind(self, first: bool = False) -> None:
        """Make parameters and buffers views of what Lua contains now."""
        names, weights, self._gradients, buffers = self.bridge.state_of(self.lua)
        self._names = []
        for name, weight in zip(names, weights, strict=True):
            attribute = _attribute(name)
            while attribute in self._names or (attribute not in self._parameters and hasattr(self, attribute)):
                attribute += "_"
            self._names.append(attribute)
            known = self._parameters.get(attribute)
            if known is None:
                self.register_parameter(attribute, nn.Parameter(weight, weight.is_floating_point()))
            else:
                known.data = weight
        self._state = [("", n) for n in self._names]
        for name, value in buffers:
            attribute = _attribute(name)
            if attribute in self._buffers:
                self._buffers[attribute] = value
            elif first and not hasattr(self, attribute):
                self.register_buffer(attribute, value)
            self._state.append(("buffer", attribute))

    def _tensors(self) -> list[torch.Tensor | None]:
        """Return the synchronized tensors: parameters, then buffers, in the order of ``state_of``."""
        return [self._buffers.get(n) if kind else self._parameters.get(n) for kind, n in self._state]

    @property
    def obj(self) -> LuaObject:
        """The inert object, as ``torch.save`` would write it now."""
        self.bridge.push(self.lua, self._tensors())
        return self.bridge.to_object(self.lua)

    @property
    def mapped_by(self) -> str:  # type: ignore[override]
        """The user's Lua file that defines its class; empty if a package does."""
        return self.bridge.definition(self.class_name)

    @property
    def _weights(self) -> list[torch.Tensor]:
        return [self._parameters[name] for name in self._names]  # type: ignore[misc]

    def forward(self, input: Any) -> Any:
        """Run ``updateOutput``; autograd later runs ``updateGradInput`` and ``accGradParameters``."""
        leaves: list[torch.Tensor] = []
        shape = _flatten(input, leaves)
        count, step = len(leaves), self._next_step()
        state: dict[str, Any] = {}

        def run(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            state["input"] = self._lua_copy(shape, list(tensors[:count]))
            state["outputs"] = self._run_forward(state)
            return tuple(o.clone() for o in state["outputs"])

        def back(gradients: tuple[torch.Tensor | None, ...]) -> list[torch.Tensor | None]:
            self._return_to(step, lambda: self._replay(state))
            return self._backward(state, list(gradients), leaves)

        outputs = _Forward.apply(run, back, *leaves, *self._weights)
        return _restore(state["shape"], list(outputs))

    @_read_answers
    def _run_forward(self, state: dict[str, Any]) -> list[torch.Tensor]:
        outputs: list[torch.Tensor] = []
        state["shape"] = _flatten(self.bridge.forward(self.lua, state["input"], self._tensors()), outputs)
        return [o.clone() for o in outputs]

    def _replay(self, state: dict[str, Any]) -> bool:
        """Run a forward once more, buffers as they were after it; whether the outputs are the same."""
        kept = {name: b.clone() for name, b in self._buffers.items() if b is not None}
        outputs = self._run_forward(state)
        for name, value in kept.items():
            self._buffers[name].copy_(value)  # type: ignore[union-attr]
        return all(torch.equal(a, b) for a, b in zip(outputs, state["outputs"], strict=True))

    @_read_answers
    def _backward(
        self, state: dict[str, Any], gradients: list[torch.Tensor | None], inputs: list[torch.Tensor]
    ) -> list[torch.Tensor | None]:
        given = self._lua_copy(state["shape"], [g for g in gradients if g is not None])
        result: list[torch.Tensor] = []
        grad_input, own = self.bridge.backward(self.lua, state["input"], given, self._tensors())
        _flatten(grad_input, result)
        slopes: list[torch.Tensor | None] = [
            g.clone().reshape(x.shape) if x.is_floating_point() and g.numel() == x.numel() else None
            for g, x in zip(result, inputs, strict=False)
        ]
        slopes += [None] * (len(inputs) - len(slopes))
        return [*slopes, *[g.clone() for g in own]]

    def train(self, mode: bool = True) -> LuaModule:
        """Set the mode, in Lua with ``module:training()`` or ``module:evaluate()``."""
        nn.Module.train(self, mode)
        self.bridge.method(self.lua, "training" if mode else "evaluate")
        return self

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> LuaModule:
        """Apply ``.float()`` or ``.double()``, which change the type in Lua as well; other devices are out of reach."""
        probe = fn(next((p.detach() for p in self._weights), torch.empty(0, dtype=torch.float64))[:0])
        if probe.device.type != "cpu":
            raise LuaBridgeError(f"{self.class_name} runs in Lua on the CPU and cannot move to {probe.device}")
        names = {torch.float32: "torch.FloatTensor", torch.float64: "torch.DoubleTensor"}
        if probe.dtype not in names:
            raise LuaBridgeError(f"{self.class_name} computes in float or double, not in {probe.dtype}")
        self.bridge.push(self.lua, self._tensors())
        self.bridge.method(self.lua, "type", names[probe.dtype])
        self._bind()
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> LuaModule:
        """Return a copy in the same Lua state, of the object as ``torch.save`` would write it now."""
        copied = memo[id(self)] = LuaModule(self.bridge, self.bridge.to_lua(copy.deepcopy(self.obj)))
        copied.path, copied.training = self.path, self.training
        for ours, theirs in zip(copied._weights, self._weights, strict=True):
            ours.requires_grad_(theirs.requires_grad)
        return copied

    def extra_repr(self) -> str:
        return f"{printable(self.class_name)}, in {self.bridge.runtime}"


class LuaCriterion(_LuaFunctionality, nn.Module):
    """A Lua criterion as a PyTorch module: ``criterion(input, target)`` gives a scalar loss.

    Args:
        bridge: where the object lives.
        obj: the Lua object.

    Lua:
        any class with updateOutput(input, target) and updateGradInput(input, target).

    Examples:
        >>> loss = LuaBridge(lua_path="nn").criterion("nn.MSECriterion")        # doctest: +SKIP
        >>> loss(prediction, target).backward()                                 # doctest: +SKIP
    """

    def __init__(self, bridge: ObjectBridge, obj: Any) -> None:
        nn.Module.__init__(self)
        self._start(bridge, obj)

    def forward(self, input: Any, target: Any = None) -> torch.Tensor:
        """Run ``updateOutput``; autograd later runs ``updateGradInput``."""
        leaves: list[torch.Tensor] = []
        shape = _flatten(input, leaves)
        step = self._next_step()
        state: dict[str, Any] = {}
        targets: list[torch.Tensor] = []
        aim = self._lua_copy(_flatten(target, targets), targets)
        method = self.bridge.method

        @_read_answers
        def run(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            state["input"] = self._lua_copy(shape, list(tensors))
            loss = state["loss"] = method(self.lua, "forward", state["input"], aim)
            dtype = next((t.dtype for t in tensors if t.is_floating_point()), torch.float64)
            return (torch.as_tensor(loss, dtype=dtype).reshape(()).clone(),)

        @_read_answers
        def back(gradients: tuple[torch.Tensor | None, ...]) -> list[torch.Tensor | None]:
            self._return_to(step, lambda: method(self.lua, "forward", state["input"], aim) == state["loss"])
            result: list[torch.Tensor] = []
            _flatten(method(self.lua, "backward", state["input"], aim), result)
            scale = gradients[0]
            assert scale is not None
            return [g.reshape(x.shape) * scale for g, x in zip(result, leaves, strict=True)]

        (loss,) = _Forward.apply(run, back, *leaves)
        return loss

    def extra_repr(self) -> str:
        return f"{self.class_name}, in {self.bridge.runtime}"
