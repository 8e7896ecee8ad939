"""Wrap Lua modules and criterions as :class:`torch.nn.Module` with autograd."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import increment_version

from dpnn_bridge.conversion.placeholder import Placeholder
from dpnn_bridge.errors import LuaBridgeError
from dpnn_bridge.lua.autograd import Forward, LuaFunctionality, ObjectBridge, flatten, read_answers, restore, same
from dpnn_bridge.lua.calls import OF_USER
from dpnn_bridge.objects import LuaObject


def _attribute(name: str) -> str:
    """Return the attribute name for a tensor with this name in Lua."""
    return name.replace(".", "_") or "_"


class _Call:
    """The data of a forward pass that its backward pass needs.

    Attributes:
        input: the input as Lua values.
        shape: structure of the output, from :func:`flatten`.
        outputs: the tensors of the output: Lua's own tensors, or copies after :meth:`keep`.
        mask: see :meth:`LuaModule.forward`.
    """

    __slots__ = ("__weakref__", "_kept", "input", "mask", "outputs", "shape")
    input: Any
    shape: Any
    outputs: list[torch.Tensor]

    def __init__(self, mask: Callable[[torch.Tensor], torch.Tensor] | None) -> None:
        self.mask, self._kept = mask, False

    def keep(self) -> None:
        """Copy the outputs before the next forward pass overwrites them."""
        if not self._kept:
            self.outputs, self._kept = [o.clone() for o in self.outputs], True


class LuaModule(LuaFunctionality, Placeholder):
    """A Lua module as a PyTorch module.

    Parameters share memory with the tensors of ``module:parameters()``, so a PyTorch optimizer and Lua code train the
    same weights. Other tensors of the module's state (running means …) are buffers and share memory too. In ``.t7`` and
    ``.pt`` files the module is saved as an object of its Lua class.

    Args:
        bridge: the bridge whose Lua state contains the object.
        obj: the Lua object.
        methods: the methods that run it: "forward" or "updateOutput", and "backward" or "updateGradInput", after which
            "accGradParameters" runs. Torch7's containers call others than a user.

    Shape:
        As the Lua module: tensors, or lists and dicts of tensors for Lua tables.

    Lua:
        any class with updateOutput, updateGradInput and accGradParameters.

    Differs from PyTorch:
        Lua keeps the state of one forward pass. A backward pass of an earlier forward pass runs the latter again, and
        raises an error if its outputs differ. No second derivatives, DataParallel, TorchScript or pickle. Runs on the
        CPU. Tensors of another type than the module's are an error, as in Torch7.

    Examples:
        >>> layer = LuaBridge(lua_path="nn").module("nn.Linear", 3, 2)          # doctest: +SKIP
        >>> layer(torch.ones(5, 3, dtype=torch.float64)).sum().backward()       # doctest: +SKIP
    """

    def __init__(self, bridge: ObjectBridge, obj: Any, methods: tuple[str, str] = OF_USER) -> None:
        nn.Module.__init__(self)
        self._start(bridge, obj)
        self._methods = methods
        self._last: Callable[[], _Call | None] = lambda: None  # call that produced Lua's outputs
        self._names: list[str] = []
        self._bind(first=True)

    @read_answers
    def _bind(self, first: bool = False) -> None:
        """Let parameters and buffers share the memory of the current tensors in Lua.

        Args:
            first: register the buffers too; later calls only update them.
        """
        names, weights, order, buffers = self.bridge.state_of(self.lua)
        bound: dict[str, None] = {}
        last: dict[str, int] = {}
        for name, weight in zip(names, weights, strict=True):
            attribute = self._free_attribute(_attribute(name), bound, last)
            bound[attribute] = None
            existing = self._parameters.get(attribute)
            if existing is None:
                self.register_parameter(attribute, nn.Parameter(weight, weight.is_floating_point()))
            else:
                gradient, existing.grad = existing.grad, None
                existing.data = weight
                existing.grad = None if gradient is None else gradient.to(weight.dtype)
        self._names = list(bound)
        self._lua_fields = dict(zip(bound, names, strict=True))
        self.listed_names = [self._names[int(n) - 1] for n in order]
        self._state = [("", n) for n in self._names]
        self._shared = [*weights, *(value for _, value in buffers)]
        self._fields = [*[""] * len(weights), *(name for name, _ in buffers)]  # empty for parameters
        for name, value in buffers:
            attribute = _attribute(name)
            if attribute in self._buffers:
                self._buffers[attribute] = value
            elif first and not hasattr(self, attribute):
                self.register_buffer(attribute, value)
            self._state.append(("buffer", attribute))

    def _free_attribute(self, name: str, bound: dict[str, None], last: dict[str, int]) -> str:
        """Return an unused attribute name: ``name``, or ``name`` with an underscore and a number.

        Args:
            name: name of a parameter.
            bound: attribute names of the parameters so far.
            last: the last number that was appended to each name; updated here.
        """
        free = name
        while free in bound or (free not in self._parameters and hasattr(self, free)):
            last[name] = last.get(name, 0) + 1
            free = f"{name}_{last[name] if last[name] > 1 else ''}"
        return free

    def _tensors(self) -> list[torch.Tensor | None]:
        """Return the synchronized tensors: parameters, then buffers, in the order of ``state_of``.

        If Python has replaced the memory of a tensor (``load_state_dict(assign=True)``, ``parameter.data = …``), the
        values are copied to Lua's memory first, and the tensor uses Lua's memory again.
        """
        tensors = [self._buffers.get(n) if kind else self._parameters.get(n) for kind, n in self._state]
        for own, shared in zip(tensors, self._shared, strict=True):
            if own is None or own.data_ptr() == shared.data_ptr():
                continue
            if own.shape != shared.shape:
                sizes = f"{list(own.shape)} in Python and {list(shared.shape)} in Lua"
                raise LuaBridgeError(f"a tensor of {self.class_name} has the sizes {sizes}: do not change its shape")
            shared.copy_(own.detach())
            own.data = shared
        return tensors

    @property
    @read_answers
    def obj(self) -> LuaObject:
        """The object as a :class:`LuaObject`: what ``torch.save`` would write now."""
        self.bridge.push(self.lua, self._tensors())
        return super().obj

    @property
    def _weights(self) -> list[torch.Tensor]:
        return [self._parameters[name] for name in self._names]  # type: ignore[misc]

    def forward(self, input: Any, mask: Callable[[torch.Tensor], torch.Tensor] | None = None) -> Any:
        """Run the forward pass in Lua; autograd later runs the backward pass.

        Args:
            input: the input.
            mask: function of the gradient of an output for updateGradInput; None: as for accGradParameters.
        """
        leaves: list[torch.Tensor] = []
        shape = flatten(input, leaves)
        count, step = len(leaves), self._next_step()
        call = _Call(mask)

        def run(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            call.input = self.bridge.copy_to_lua(restore(shape, list(tensors[:count])))
            call.outputs = self._run_forward(call)
            self._last = weakref.ref(call)
            return tuple(self.bridge.copy_from_lua(o) for o in call.outputs)

        def replay() -> bool:
            if self._replay(call):
                return True
            # an in-place layer has overwritten the first copy of the input
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
        """Run a forward pass; return Lua's own output tensors, which the next forward pass overwrites."""
        if (last := self._last()) is not None:
            last.keep()
        outputs: list[torch.Tensor] = []
        call.shape = flatten(self.bridge.forward(self.lua, self._methods[0], call.input, self._tensors()), outputs)
        self._follow()
        return outputs

    @read_answers
    def after_forward(self, input: Any) -> Any:
        """Run the forward pass and return the input as it leaves the input, for layers that write into it."""
        lua_input = self.bridge.copy_to_lua(input)
        self.bridge.forward(self.lua, self._methods[0], lua_input, self._tensors())
        self._follow()
        return self.bridge.to_python(lua_input)

    def _follow(self) -> None:
        """Let parameters and buffers share the memory of tensors that Lua has put in their place."""
        for i, value in self.bridge.followed(self.lua, self._fields, self._shared).items():
            self._shared[i] = value
            kind, attribute = self._state[i]
            if kind:
                if attribute in self._buffers:
                    self._buffers[attribute] = value
            elif (parameter := self._parameters.get(attribute)) is None:
                continue
            elif attribute in self.shared_names:  # the other layers keep the old tensor, as in Torch7
                self._parameters[attribute] = nn.Parameter(value, parameter.requires_grad)
                self.shared_names = self.shared_names - {attribute}
            else:
                parameter.data = value
                increment_version(parameter)

    def _replay(self, call: _Call) -> bool:
        """Run a forward pass again and restore the buffers; return whether the outputs are the same."""
        saved = {name: b.clone() for name, b in self._buffers.items() if b is not None}
        try:
            outputs = self._run_forward(call)
        finally:
            for name, value in saved.items():
                if (buffer := self._buffers[name]) is not None and buffer.shape == value.shape:
                    buffer.copy_(value)
        return len(outputs) == len(call.outputs) and all(map(same, outputs, call.outputs))

    @read_answers
    def _backward(self, call: _Call, gradients: list[Any]) -> tuple[Any, list[Any]]:
        """Return gradInput and the gradients of the parameters."""
        pairs = zip(gradients, call.outputs, strict=True)
        filled = [torch.zeros_like(o) if g is None else g for g, o in pairs]
        given = [filled] if call.mask is None else [filled, [call.mask(g) for g in filled]]
        values = [self.bridge.copy_to_lua(restore(call.shape, gradients)) for gradients in given]
        grad_input, own = self.bridge.backward(self.lua, self._methods[1], self._tensors(), call.input, *values)
        self._follow()
        if len(own) != len(self._names):
            found = f"has {len(own)} parameters after its backward pass, and had {len(self._names)} before"
            raise LuaBridgeError(f"{self.class_name} {found}: create all parameters in the constructor and keep them")
        return grad_input, own

    @read_answers
    def temporary_buffers(self) -> set[str]:
        """Return the names of buffers that may be temporary memory of nn's code, which PyTorch does not write."""
        return {_attribute(name) for name in self.bridge.temporary(self.lua)} & self._buffers.keys()

    def train(self, mode: bool = True) -> LuaModule:
        """Set training or evaluation mode, also in Lua with ``module:training()`` or ``module:evaluate()``."""
        nn.Module.train(self, mode)
        self._train_in_lua(mode)
        return self

    @read_answers
    def _train_in_lua(self, mode: bool) -> None:
        self.bridge.push(self.lua, self._tensors())
        self.bridge.method(self.lua, "training" if mode else "evaluate")
        self.bridge.pull(self.lua, self._tensors())
        self._follow()

    def forget_own(self) -> None:
        """Reset the state that rnn's modules keep between calls; a field called ``forget`` is no method."""
        if self.bridge.kind_of(self.lua["forget"]) == "function":
            self.bridge.method(self.lua, "forget")

    def _dtype(self) -> torch.dtype:
        floating = (t.dtype for t in self._shared if t.is_floating_point())  # a parameter may belong to another module
        return next(floating, None) or super()._dtype()

    @read_answers
    def _change_type(self, name: str) -> None:
        self.bridge.push(self.lua, self._tensors())
        super()._change_type(name)
        self._bind()

    def __deepcopy__(self, memo: dict[int, Any]) -> LuaModule:
        copied = super().__deepcopy__(memo)
        for name, theirs in zip(copied._names, self._weights, strict=True):
            # the memo is for modules that share the parameter, and for an optimizer that is copied with the module
            ours = memo.setdefault(id(theirs), copied._parameters[name])
            copied._parameters[name] = ours.requires_grad_(theirs.requires_grad and ours.is_floating_point())
        for name in self._buffers.keys() - copied._buffers.keys():  # Lua has an expanded tensor in its place now
            copied.register_buffer(name, copy.deepcopy(self._buffers[name], memo))
        for name in copied._buffers.keys() - self._buffers.keys():  # work memory that a forward pass has created
            del copied._buffers[name]
        for name in copied._buffers.keys() & self._buffers.keys():
            memo[id(self._buffers[name])] = copied._buffers[name]
        return copied


class LuaCriterion(LuaFunctionality, Placeholder):
    """A Lua criterion as a PyTorch module: ``criterion(input, target)`` returns a scalar loss.

    In ``.t7`` and ``.pt`` files it is saved as an object of its Lua class.

    Args:
        bridge: the bridge whose Lua state contains the object.
        obj: the Lua object.
        methods: the methods that run it: "forward" or "updateOutput", and "backward" or "updateGradInput".

    Lua:
        any class with updateOutput(input, target) and updateGradInput(input, target).

    Examples:
        >>> loss = LuaBridge(lua_path="nn").criterion("nn.MSECriterion")        # doctest: +SKIP
        >>> loss(prediction, target).backward()                                 # doctest: +SKIP
    """

    def __init__(self, bridge: ObjectBridge, obj: Any, methods: tuple[str, str] = OF_USER) -> None:
        nn.Module.__init__(self)
        self._start(bridge, obj)
        self._methods = methods

    def forward(self, input: Any, target: Any = None) -> torch.Tensor:
        """Run the forward pass in Lua; autograd later runs the backward pass."""
        leaves: list[torch.Tensor] = []
        shape = flatten(input, leaves)
        step = self._next_step()
        state: dict[str, Any] = {}
        lua_target = self.bridge.copy_to_lua(target)
        method = self.bridge.method

        def loss_of(input: Any) -> torch.Tensor:
            loss = method(self.lua, self._methods[0], input, lua_target)
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
            grad_input = method(self.lua, self._methods[1], state["input"], lua_target)
            own = self._input_gradients(shape, grad_input, leaves)
            if not any(g is not None for g in own):
                raise ValueError("no gradInput")
            scale = gradients[0]
            return own if scale is None else [None if g is None else g * scale for g in own]

        (loss,) = Forward.apply(run, back, *leaves)
        return loss
