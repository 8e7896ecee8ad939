"""Wrap Lua modules and criterions as :class:`torch.nn.Module` with autograd."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from dpnn_bridge.conversion.placeholder import Placeholder
from dpnn_bridge.errors import LuaBridgeError
from dpnn_bridge.lua.autograd import Forward, LuaFunctionality, ObjectBridge, flatten, read_answers, restore, same
from dpnn_bridge.objects import LuaObject


def _attribute(name: str) -> str:
    """Return the attribute for a tensor that Lua names."""
    return name.replace(".", "_") or "_"


class _Call:
    """One forward of a Lua module: what its backward needs.

    Attributes:
        input: its Lua values.
        shape: how the outputs are nested, from :func:`flatten`.
        outputs: Lua's own tensors as long as they have its values, copies after :meth:`keep`.
    """

    __slots__ = ("__weakref__", "_kept", "input", "outputs", "shape")
    input: Any
    shape: Any
    outputs: list[torch.Tensor]

    def __init__(self) -> None:
        self._kept = False

    def keep(self) -> None:
        """Copy the outputs, since another forward is about to overwrite them."""
        if not self._kept:
            self.outputs, self._kept = [o.clone() for o in self.outputs], True


class LuaModule(LuaFunctionality, Placeholder):
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
        Lua keeps the state of one forward pass. A backward pass of an earlier one runs that forward pass again, and
        raises if its outputs are not the same. No second derivatives, DataParallel, TorchScript or pickle. Runs on the
        CPU. Tensors that do not have the module's type raise, as in Torch7.

    Examples:
        >>> layer = LuaBridge(lua_path="nn").module("nn.Linear", 3, 2)          # doctest: +SKIP
        >>> layer(torch.ones(5, 3, dtype=torch.float64)).sum().backward()       # doctest: +SKIP
    """

    def __init__(self, bridge: ObjectBridge, obj: Any) -> None:
        nn.Module.__init__(self)
        self._start(bridge, obj)
        self.path = ""
        self._last: Callable[[], _Call | None] = lambda: None  # whose outputs Lua's tensors have
        self._names: list[str] = []
        self._bind(first=True)

    @read_answers
    def _bind(self, first: bool = False) -> None:
        """Make parameters and buffers views of what Lua contains now."""
        names, weights, _, buffers = self.bridge.state_of(self.lua)
        bound: dict[str, None] = {}
        last: dict[str, int] = {}
        for name, weight in zip(names, weights, strict=True):
            attribute = self._free_attribute(_attribute(name), bound, last)
            bound[attribute] = None
            known = self._parameters.get(attribute)
            if known is None:
                self.register_parameter(attribute, nn.Parameter(weight, weight.is_floating_point()))
            else:
                gradient, known.grad = known.grad, None
                known.data = weight
                known.grad = None if gradient is None else gradient.to(weight.dtype)
        self._names = list(bound)
        self._state = [("", n) for n in self._names]
        self._shared = [*weights, *(value for _, value in buffers)]
        for name, value in buffers:
            attribute = _attribute(name)
            if attribute in self._buffers:
                self._buffers[attribute] = value
            elif first and not hasattr(self, attribute):
                self.register_buffer(attribute, value)
            self._state.append(("buffer", attribute))

    def _free_attribute(self, name: str, bound: dict[str, None], last: dict[str, int]) -> str:
        """Return a name, or one with an underscore and a number behind it, that is not an attribute yet.

        Args:
            name: of a parameter.
            bound: names of the parameters before it.
            last: the last number behind each name, which is increased.
        """
        free = name
        while free in bound or (free not in self._parameters and hasattr(self, free)):
            last[name] = last.get(name, 0) + 1
            free = f"{name}_{last[name] if last[name] > 1 else ''}"
        return free

    def _tensors(self) -> list[torch.Tensor | None]:
        """Return the synchronized tensors: parameters, then buffers, in the order of ``state_of``.

        Memory that Python put in the place of Lua's (``load_state_dict(assign=True)``, ``parameter.data = …``) is
        copied to Lua's first, and given up.
        """
        tensors = [self._buffers.get(n) if kind else self._parameters.get(n) for kind, n in self._state]
        for own, shared in zip(tensors, self._shared, strict=True):
            if own is None or own.data_ptr() == shared.data_ptr():
                continue
            if own.shape != shared.shape:
                sizes = f"{list(own.shape)} in Python and {list(shared.shape)} in Lua"
                raise LuaBridgeError(f"a tensor of {self.class_name} has the sizes {sizes}")
            shared.copy_(own.detach())
            own.data = shared
        return tensors

    @property
    def obj(self) -> LuaObject:
        """The inert object, as ``torch.save`` would write it now."""
        self.bridge.push(self.lua, self._tensors())
        return super().obj

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
        shape = flatten(input, leaves)
        count, step = len(leaves), self._next_step()
        call = _Call()

        def run(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            call.input = self.bridge.copy_to_lua(restore(shape, list(tensors[:count])))
            call.outputs = self._run_forward(call)
            self._last = weakref.ref(call)
            return tuple(self.bridge.copy_from_lua(o) for o in call.outputs)

        def replay() -> bool:
            if self._replay(call):
                return True
            # a layer that works in place has overwritten the first
            call.input = self.bridge.copy_to_lua(restore(shape, leaves))
            return self._replay(call)

        def back(gradients: tuple[torch.Tensor | None, ...]) -> list[torch.Tensor | None]:
            self._return_to(step, replay)
            grad_input, own = self._backward(call, list(gradients))
            parameters = [self._gradient_of("a parameter", *pair) for pair in zip(self._weights, own, strict=True)]
            return [*self._input_gradients(shape, grad_input, leaves), *parameters]

        outputs = Forward.apply(run, back, *leaves, *self._weights)
        return restore(call.shape, list(outputs))

    @read_answers
    def _run_forward(self, call: _Call) -> list[torch.Tensor]:
        """Run a forward; return Lua's own tensors, which the next forward overwrites."""
        if (last := self._last()) is not None:
            last.keep()
        outputs: list[torch.Tensor] = []
        call.shape = flatten(self.bridge.forward(self.lua, call.input, self._tensors()), outputs)
        return outputs

    def _replay(self, call: _Call) -> bool:
        """Run a forward pass again and restore the buffers; return whether the outputs are the same."""
        kept = {name: b.clone() for name, b in self._buffers.items() if b is not None}
        try:
            outputs = self._run_forward(call)
        finally:
            for name, value in kept.items():
                self._buffers[name].copy_(value)  # type: ignore[union-attr]
        return len(outputs) == len(call.outputs) and all(map(same, outputs, call.outputs))

    @read_answers
    def _backward(self, call: _Call, gradients: list[Any]) -> tuple[Any, list[Any]]:
        """Return gradInput and the gradients of the parameters."""
        pairs = zip(gradients, call.outputs, strict=True)
        whole = [torch.zeros_like(o) if g is None else g for g, o in pairs]
        given = self.bridge.copy_to_lua(restore(call.shape, whole))
        grad_input, own = self.bridge.backward(self.lua, call.input, given, self._tensors())
        if len(own) != len(self._names):
            raise ValueError(f"{len(own)} gradients of {len(self._names)} parameters")
        return grad_input, own

    def train(self, mode: bool = True) -> LuaModule:
        """Set the mode, in Lua with ``module:training()`` or ``module:evaluate()``."""
        nn.Module.train(self, mode)
        self.bridge.method(self.lua, "training" if mode else "evaluate")
        return self

    def _dtype(self) -> torch.dtype:
        floating = (p.dtype for p in self._weights if p.is_floating_point())
        return next(floating, None) or super()._dtype()

    def _change_type(self, name: str) -> None:
        self.bridge.push(self.lua, self._tensors())
        super()._change_type(name)
        self._bind()

    def __deepcopy__(self, memo: dict[int, Any]) -> LuaModule:
        copied = super().__deepcopy__(memo)
        for ours, theirs in zip(copied._weights, self._weights, strict=True):
            ours.requires_grad_(theirs.requires_grad)
            memo[id(theirs)] = ours  # an optimizer that is copied with the module has those of the copy
        for name in copied._buffers.keys() & self._buffers.keys():
            memo[id(self._buffers[name])] = copied._buffers[name]
        return copied


class LuaCriterion(LuaFunctionality, nn.Module):
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
        shape = flatten(input, leaves)
        step = self._next_step()
        state: dict[str, Any] = {}
        aim = self.bridge.copy_to_lua(target)
        method = self.bridge.method

        def loss_of(input: Any) -> torch.Tensor:
            loss = method(self.lua, "forward", input, aim)
            return torch.as_tensor(loss, dtype=torch.float64).reshape(()).clone()

        @read_answers
        def run(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            state["input"] = self.bridge.copy_to_lua(restore(shape, list(tensors)))
            state["loss"] = loss_of(state["input"])
            dtype = next((t.dtype for t in tensors if t.is_floating_point()), torch.float64)
            return (state["loss"].to(dtype, copy=True),)

        @read_answers
        def back(gradients: tuple[torch.Tensor | None, ...]) -> list[torch.Tensor | None]:
            self._return_to(step, lambda: same(loss_of(state["input"]), state["loss"]))
            found = self._input_gradients(shape, method(self.lua, "backward", state["input"], aim), leaves)
            if not any(g is not None for g in found):
                raise ValueError("no gradInput")
            scale = gradients[0]
            return found if scale is None else [None if g is None else g * scale for g in found]

        (loss,) = Forward.apply(run, back, *leaves)
        return loss
