"""Connect Lua objects to PyTorch's autograd: the common base of modules and criterions."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from dpnn_bridge.base.boundary import wrap_errors
from dpnn_bridge.base.display import printable
from dpnn_bridge.errors import LuaBridgeError
from dpnn_bridge.lua.calls import OF_USER, methods_called
from dpnn_bridge.objects import LuaObject

Tensors = Sequence[torch.Tensor | None]


class ObjectBridge(Protocol):
    """The methods of :class:`~dpnn_bridge.lua.LuaBridge` that a wrapped Lua object uses."""

    @property
    def runtime(self) -> str: ...
    def type_of(self, value: Any) -> str: ...
    def kind_of(self, value: Any) -> str: ...
    def to_lua(self, value: Any) -> Any: ...
    def copy_to_lua(self, value: Any) -> Any: ...
    def copy_from_lua(self, tensor: torch.Tensor) -> torch.Tensor: ...
    def to_python(self, value: Any) -> Any: ...
    def to_object(self, value: Any) -> LuaObject: ...
    def definition(self, name: str, method: str | None = None) -> str: ...
    def method(self, obj: Any, name: str, *args: Any) -> Any: ...
    def state_of(self, obj: Any) -> tuple[list[str], list[torch.Tensor], list[int], list[tuple[str, Any]]]: ...
    def followed(self, obj: Any, fields: Sequence[str], tensors: Sequence[torch.Tensor]) -> dict[int, torch.Tensor]: ...
    def temporary(self, obj: Any) -> list[str]: ...
    def push(self, obj: Any, tensors: Tensors) -> None: ...
    def pull(self, obj: Any, tensors: Tensors) -> None: ...
    def forward(self, obj: Any, method: str, input: Any, tensors: Tensors) -> Any: ...
    def backward(self, obj: Any, method: str, tensors: Tensors, *values: Any) -> tuple[Any, list[torch.Tensor]]: ...


#: dtype -> Lua type; a Lua object computes in one of these types
_TYPE_NAMES = {torch.float32: "torch.FloatTensor", torch.float64: "torch.DoubleTensor"}
#: attributes that a deep copy does not copy, because they depend on the Lua object
_NOT_COPIED = {
    "bridge",
    "lua",
    "_step",
    "_forwards",
    "_parameters",
    "_buffers",
    "_names",
    "_state",
    "_shared",
    "_fields",
    "_last",
    "_lua_fields",
}
#: decorator for code that reads results of Lua: a Lua class, or a compromised sandbox, may return any value
read_answers = wrap_errors(LuaBridgeError, "reading a result of Lua")


def flatten(value: Any, tensors: list[torch.Tensor]) -> Any:
    """Move the tensors of nested lists and dicts to ``tensors``.

    Returns:
        The structure: the index of each tensor in ``tensors``, and other values in a tuple of one element.
    """
    if isinstance(value, torch.Tensor):
        tensors.append(value)
        return len(tensors) - 1
    if isinstance(value, (list, tuple)):
        return [flatten(v, tensors) for v in value]
    if isinstance(value, dict):
        return {k: flatten(v, tensors) for k, v in value.items()}
    return (value,)


def restore(shape: Any, tensors: list[Any]) -> Any:
    """Return the nested value of a structure from :func:`flatten` and its tensors."""
    if isinstance(shape, int):
        return tensors[shape]
    if isinstance(shape, list):
        return [restore(s, tensors) for s in shape]
    if isinstance(shape, dict):
        return {k: restore(s, tensors) for k, s in shape.items()}
    return shape[0]


def _entry(table: Any, key: Any) -> Any:
    """Return the value at a key of a Lua table, given as a list or dict; None if the key is missing."""
    if isinstance(table, list):
        return table[key - 1] if type(key) is int and 0 < key <= len(table) else None
    return table.get(key) if isinstance(table, dict) else None


def same(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Return whether two results have the same shape, dtype and values; NaN equals NaN."""
    if (first.shape, first.dtype) != (second.shape, second.dtype):
        return False
    return torch.allclose(first, second, rtol=0, atol=0, equal_nan=True)


class Forward(torch.autograd.Function):
    """A forward pass in Lua; its backward pass runs updateGradInput and accGradParameters."""

    @staticmethod
    def forward(ctx: Any, run: Callable[..., Any], back: Callable[..., Any], *tensors: torch.Tensor) -> Any:
        ctx.back, ctx.adds_gradient = back, True  # what a gradient in Lua is of a gradient of zeros is not known
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


class LuaFunctionality:
    """Base of modules and criterions: the Lua object, and which forward pass its state belongs to."""

    bridge: ObjectBridge
    lua: Any
    _step: int  # number of the forward pass whose state the object has; 0 while that is unknown
    _forwards: int  # number of forward passes so far

    def _start(self, bridge: ObjectBridge, obj: Any) -> None:
        object.__setattr__(self, "bridge", bridge)
        object.__setattr__(self, "lua", obj)
        self._step = self._forwards = 0
        self._path, self._lua_fields, self._gradients = "", {}, {}

    @property
    def class_name(self) -> str:
        """Lua class of the object, such as ``nn.Linear``."""
        return self.bridge.type_of(self.lua)

    @property
    def mapped_by(self) -> str:
        """Name of the user's Lua file that defines the class; empty if only packages define it."""
        return self.bridge.definition(self.class_name)

    def check_calls(self, first: Sequence[str], other: Sequence[str]) -> None:
        for name, *called in zip(OF_USER, methods_called(first), methods_called(other), strict=True):
            if called[0] != called[1] and self.bridge.definition(self.class_name, name):
                raise LuaBridgeError(
                    f"{self.class_name} is in two places of the model, and Torch7 calls {called[0]} in one of them and "
                    f"{called[1]} in the other, which differ, since the class has its own {name}. Let the places have "
                    "two objects in Torch7: layer:clone('weight', 'bias', 'gradWeight', 'gradBias') shares parameters"
                )

    def _next_step(self) -> int:
        self._forwards += 1
        self._step = self._forwards
        return self._step

    def _return_to(self, step: int, replay: Callable[[], bool]) -> None:
        """Restore the state of an earlier forward pass, which its backward pass needs.

        Args:
            step: number of the forward pass.
            replay: runs the forward pass again; returns whether its outputs are the same.

        Raises:
            LuaBridgeError: the outputs differ, because of random numbers or changed parameters.
        """
        if step == self._step:
            return
        self._step = 0
        if not replay():
            raise LuaBridgeError(
                f"{self.class_name} ran forward again before this backward pass. A Lua module keeps the state of its "
                "last forward pass only, and repeating the earlier forward pass gave different outputs (random "
                "numbers, or changed parameters). Call backward after each forward pass, or use a copy.deepcopy of "
                "the module for the second forward pass"
            )
        self._step = step

    def _input_gradients(self, shape: Any, value: Any, inputs: list[torch.Tensor]) -> list[torch.Tensor | None]:
        """Return the gradient of each input tensor; None if Lua computed no gradient for it.

        Args:
            shape: structure of the input, from :func:`flatten`.
            value: gradInput.
            inputs: the tensors of the input.

        Raises:
            LuaBridgeError: gradInput has another structure than the input, or another number of elements.
        """
        gradients: list[torch.Tensor | None] = [None] * len(inputs)
        self._visit_gradients(shape, value, inputs, gradients)
        return gradients

    def _visit_gradients(
        self, shape: Any, value: Any, inputs: list[torch.Tensor], gradients: list[torch.Tensor | None]
    ) -> None:
        """Set the elements of ``gradients`` to the gradient of each input tensor.

        A recursive closure instead of this method would keep the gradients alive until Python's garbage collection.
        """
        if isinstance(shape, tuple) or value is None:
            return
        if isinstance(shape, int):
            gradients[shape] = self._gradient_of("an input", inputs[shape], value)
            return
        if not isinstance(value, (list, dict)):
            name = type(value).__name__
            raise LuaBridgeError(f"{self.class_name} returned a {name} as gradInput; the input is a table")
        for key, inner in enumerate(shape, 1) if isinstance(shape, list) else shape.items():
            self._visit_gradients(inner, _entry(value, key), inputs, gradients)

    def _gradient_of(self, name: str, x: torch.Tensor, gradient: Any) -> torch.Tensor | None:
        """Return a copy of the gradient of ``x``; None if ``x`` requires no gradient or Lua computed none."""
        if not x.requires_grad:
            return None
        if not isinstance(gradient, torch.Tensor):
            raise LuaBridgeError(f"{self.class_name} returned a {type(gradient).__name__} as the gradient of {name}")
        if not gradient.numel():
            return None
        if gradient.numel() != x.numel():
            sizes = f"{list(gradient.shape)} for {name} of sizes {list(x.shape)}"
            raise LuaBridgeError(f"{self.class_name} returned a gradient of sizes {sizes}")
        return self.bridge.copy_from_lua(gradient).reshape(x.shape)

    @property
    def obj(self) -> LuaObject:
        """The object as a :class:`~dpnn_bridge.objects.LuaObject`: what ``torch.save`` would write now."""
        return self.bridge.to_object(self.lua)

    def _dtype(self) -> torch.dtype:
        """Return the type in which the object computes."""
        name = self.lua["_type"]
        return next((dtype for dtype, lua in _TYPE_NAMES.items() if lua == name), torch.float64)

    def _change_type(self, name: str) -> None:
        self.bridge.method(self.lua, "type", name)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        """Apply ``.float()`` or ``.double()``, also to the object in Lua; other devices and dtypes are errors."""
        before = self._dtype()
        probe = fn(torch.empty(0, dtype=before))
        if probe.device.type != "cpu":
            raise LuaBridgeError(f"{self.class_name} runs in Lua on the CPU and cannot move to {probe.device}")
        if probe.dtype not in _TYPE_NAMES:
            raise LuaBridgeError(f"{self.class_name} computes in float or double, not in {probe.dtype}")
        if probe.dtype != before:
            self._change_type(_TYPE_NAMES[probe.dtype])
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Copy the object, as ``torch.save`` would write it now, within its Lua state."""
        copied: Any = type(self)(self.bridge, self.bridge.to_lua(self.obj))  # type: ignore[call-arg]
        memo[id(self)] = copied
        for name, value in self.__dict__.items():
            if name not in _NOT_COPIED:
                copied.__dict__[name] = copy.deepcopy(value, memo)
        return copied

    def extra_repr(self) -> str:
        return f"{printable(self.class_name)}, in {self.bridge.runtime}"

    def __reduce__(self) -> Any:
        raise LuaBridgeError(
            f"{self.class_name} belongs to a Lua state and cannot be pickled: save its state_dict, or write it with "
            "dpnn_bridge.save (.pt, .t7)"
        )
