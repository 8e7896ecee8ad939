"""Run Lua objects in the autograd of PyTorch: what modules and criterions have in common."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from dpnn_bridge.base.boundary import wrap_errors
from dpnn_bridge.base.display import printable
from dpnn_bridge.errors import LuaBridgeError
from dpnn_bridge.objects import LuaObject

Tensors = Sequence[torch.Tensor | None]


class ObjectBridge(Protocol):
    """What a module asks of the :class:`~dpnn_bridge.lua.LuaBridge` in which its object lives."""

    @property
    def runtime(self) -> str: ...
    def type_of(self, value: Any) -> str: ...
    def to_lua(self, value: Any) -> Any: ...
    def copy_to_lua(self, value: Any) -> Any: ...
    def copy_from_lua(self, tensor: torch.Tensor) -> torch.Tensor: ...
    def to_object(self, value: Any) -> LuaObject: ...
    def definition(self, name: str) -> str: ...
    def method(self, obj: Any, name: str, *args: Any) -> Any: ...
    def state_of(self, obj: Any) -> tuple[list[str], list[torch.Tensor], list[torch.Tensor], list[tuple[str, Any]]]: ...
    def push(self, obj: Any, tensors: Tensors) -> None: ...
    def forward(self, obj: Any, input: Any, tensors: Tensors) -> Any: ...
    def backward(self, obj: Any, input: Any, grad_output: Any, tensors: Tensors) -> tuple[Any, list[torch.Tensor]]: ...


#: the types in which a Lua object may compute
_TYPE_NAMES = {torch.float32: "torch.FloatTensor", torch.float64: "torch.DoubleTensor"}
#: attributes that a copy does not take over: its own object, and what follows from that
_OWN = {"bridge", "lua", "_step", "_forwards", "_parameters", "_buffers", "_names", "_state", "_shared", "_last"}
#: what a Lua class, or a sandbox that its code took over, answers may be anything
read_answers = wrap_errors(LuaBridgeError, "reading what Lua answered")


def flatten(value: Any, tensors: list[torch.Tensor]) -> Any:
    """Move the tensors of nested lists and dicts to ``tensors``; return the rest, which tells where they were."""
    if isinstance(value, torch.Tensor):
        tensors.append(value)
        return len(tensors) - 1
    if isinstance(value, (list, tuple)):
        return [flatten(v, tensors) for v in value]
    if isinstance(value, dict):
        return {k: flatten(v, tensors) for k, v in value.items()}
    return (value,)


def restore(shape: Any, tensors: list[Any]) -> Any:
    """Undo :func:`flatten`."""
    if isinstance(shape, int):
        return tensors[shape]
    if isinstance(shape, list):
        return [restore(s, tensors) for s in shape]
    if isinstance(shape, dict):
        return {k: restore(s, tensors) for k, s in shape.items()}
    return shape[0]


def _entry(table: Any, key: Any) -> Any:
    """Return the value at a key of a Lua table, which is a list or a dict here; None if there is none."""
    if isinstance(table, list):
        return table[key - 1] if type(key) is int and 0 < key <= len(table) else None
    return table.get(key) if isinstance(table, dict) else None


def same(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Return whether two results are equal; NaN equals NaN."""
    kind = first.shape, first.dtype
    return kind == (second.shape, second.dtype) and torch.allclose(first, second, rtol=0, atol=0, equal_nan=True)


class Forward(torch.autograd.Function):
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


class LuaFunctionality:
    """The base of modules and criterions: the Lua object, and the state of its last forward pass."""

    bridge: ObjectBridge
    lua: Any
    _step: int  # the forward pass whose state the object has; 0 for none of those that a backward pass may belong to
    _forwards: int  # so many have run

    def _start(self, bridge: ObjectBridge, obj: Any) -> None:
        object.__setattr__(self, "bridge", bridge)
        object.__setattr__(self, "lua", obj)
        self._step = self._forwards = 0

    @property
    def class_name(self) -> str:
        """Its Lua class, such as ``nn.Linear``."""
        return self.bridge.type_of(self.lua)

    def _next_step(self) -> int:
        self._forwards += 1
        self._step = self._forwards
        return self._step

    def _return_to(self, step: int, replay: Callable[[], bool]) -> None:
        """Restore the state of an earlier forward pass, to which a backward pass belongs, by running it again.

        Raises:
            LuaBridgeError: the outputs are not the same (random numbers, changed parameters).
        """
        if step == self._step:
            return
        self._step = 0
        if not replay():
            raise LuaBridgeError(
                f"{self.class_name} ran forward again before this backward, and running the first forward pass "
                "again gives other outputs (random numbers, or changed parameters): a Lua module keeps the "
                "state of its last forward pass only. Call backward after each forward pass, or wrap a clone for the "
                "second one"
            )
        self._step = step

    def _input_gradients(self, shape: Any, value: Any, inputs: list[torch.Tensor]) -> list[torch.Tensor | None]:
        """Return the gradient of each input tensor; None where Lua has none.

        Args:
            shape: where the tensors are in the input, from :func:`flatten`.
            value: gradInput.
            inputs: these tensors.

        Raises:
            LuaBridgeError: gradInput is arranged otherwise than the input, or has another number of elements.
        """
        found: list[torch.Tensor | None] = [None] * len(inputs)
        self._visit_gradients(shape, value, inputs, found)
        return found

    def _visit_gradients(
        self, shape: Any, value: Any, inputs: list[torch.Tensor], found: list[torch.Tensor | None]
    ) -> None:
        """Set ``found`` to the gradient of each input tensor.

        It is no closure: one that calls itself is freed by Python's collector only, and the gradients with it.
        """
        if isinstance(shape, tuple) or value is None:
            return
        if isinstance(shape, int):
            found[shape] = self._gradient_of("an input", inputs[shape], value)
            return
        if not isinstance(value, (list, dict)):
            raise LuaBridgeError(f"{self.class_name} gave no table as the gradient of a table")
        for key, inner in enumerate(shape, 1) if isinstance(shape, list) else shape.items():
            self._visit_gradients(inner, _entry(value, key), inputs, found)

    def _gradient_of(self, name: str, x: torch.Tensor, gradient: Any) -> torch.Tensor | None:
        """Return a copy of the gradient of a tensor; None if it needs none or Lua computed none."""
        if not x.requires_grad:
            return None
        if not isinstance(gradient, torch.Tensor):
            raise LuaBridgeError(f"{self.class_name} gave a {type(gradient).__name__} as the gradient of {name}")
        if not gradient.numel():
            return None
        if gradient.numel() != x.numel():
            sizes = f"{list(gradient.shape)} to {name} of sizes {list(x.shape)}"
            raise LuaBridgeError(f"{self.class_name} gave a gradient of sizes {sizes}")
        return self.bridge.copy_from_lua(gradient).reshape(x.shape)

    @property
    def obj(self) -> LuaObject:
        """The inert object, as ``torch.save`` would write it now."""
        return self.bridge.to_object(self.lua)

    def _dtype(self) -> torch.dtype:
        """Return the type in which the object computes."""
        name = self.lua["_type"]
        return next((dtype for dtype, lua in _TYPE_NAMES.items() if lua == name), torch.float64)

    def _change_type(self, name: str) -> None:
        self.bridge.method(self.lua, "type", name)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        """Apply ``.float()`` or ``.double()``, which change the type in Lua as well; other devices are out of reach."""
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
        """Return a copy in the same Lua state, of the object as ``torch.save`` would write it now."""
        copied: Any = type(self)(self.bridge, self.bridge.to_lua(self.obj))  # type: ignore[call-arg]
        memo[id(self)] = copied
        for name, value in self.__dict__.items():
            if name not in _OWN:
                copied.__dict__[name] = copy.deepcopy(value, memo)
        return copied

    def extra_repr(self) -> str:
        return f"{printable(self.class_name)}, in {self.bridge.runtime}"

    def __reduce__(self) -> Any:
        raise LuaBridgeError(
            f"{self.class_name} is in a Lua state and cannot be pickled: save its state_dict, or write it with "
            "dpnn_bridge.save (.pt, .t7)"
        )
