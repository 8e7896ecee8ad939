"""Classes of the registry inside Lua: each forward runs the converted PyTorch module on the object's own tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from dpnn_bridge.conversion import registry, to_lua, to_torch
from dpnn_bridge.lua import values
from dpnn_bridge.lua.runtime import Runtime
from dpnn_bridge.lua.tensor import Storage, Tensor
from dpnn_bridge.objects import LuaObject, LuaStorage, LuaTable, LuaTensor
from dpnn_bridge.torch7.draws import Draws


def registered(name: str) -> tuple[str | None, int]:
    """ "module", "container" or "criterion" and the version of a class that the registry knows."""
    if not registry.blocks_of(name):
        return None, 0
    spec = registry.find(LuaObject(name))
    version = spec.version if spec is not None else 1
    if name.endswith("Criterion"):
        return "criterion", version
    return "container" if spec is not None and spec.container else "module", version


class Converted:
    """What Lua calls as ``py.converted_*``."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    def entries(self) -> dict[str, Any]:
        return {
            "registered": registered,
            "converted_forward": self.forward,
            "converted_backward": self.backward,
            "converted_parameters": self.parameters,
        }

    def forward(self, obj: Any, *inputs: Any) -> Any:
        """The state that a backward needs, and the output; None and a message when it cannot run."""
        try:
            module = self._module(obj)
            arguments = [self._leaves(values.to_python(self.runtime, x)) for x in inputs]
            versions = [t._version for t in _stored(module)]
            with torch.enable_grad(), Draws(self.runtime.generator):
                output = module(*arguments)
            self._forget_noise(obj)
            if versions != [t._version for t in _stored(module)]:  # running statistics, norms that are kept
                self._put(obj, to_lua(module, gradients=False))
            state = _State(module, arguments[0], output)
            if isinstance(output, torch.Tensor) and output.dim() == 0:
                return state, output.item()
            return state, values.to_lua(self.runtime, _detached(output))
        except Exception as error:
            return None, f"{self.runtime.bridge['typename'](obj)}: {error}"

    def backward(self, state: _State, _output: Any = None, grad_output: Any = None) -> Any:
        """gradInput; gradients of parameters are kept for :meth:`parameters`."""
        outputs, inputs, weights = _tensors(state.output), _tensors(state.input), list(state.module.parameters())
        given = None if grad_output is None else _tensors(values.to_python(self.runtime, grad_output))
        leaves = [t for t in (*inputs, *weights) if t.requires_grad]
        gradients = torch.autograd.grad(
            outputs,
            leaves,
            None if given is None else [g.reshape(o.shape) for g, o in zip(given, outputs, strict=True)],
            allow_unused=True,
            retain_graph=True,  # Torch7 allows several backwards after one forward
        )
        for leaf, gradient in zip(leaves, gradients, strict=True):
            leaf.grad = torch.zeros_like(leaf) if gradient is None else gradient
        return values.to_lua(
            self.runtime, _mapped(state.input, lambda t: t.grad if t.grad is not None else torch.zeros_like(t))
        )

    def _forget_noise(self, live: Any) -> None:
        """Clear what an earlier call of random layers drew: these layers do not keep their noise."""
        noise = self.runtime.bridge["handle"](live["noise"])
        if isinstance(noise, Tensor) and noise.numel:
            live["noise"] = values.to_lua(self.runtime, torch.empty(0, dtype=noise.t.dtype))

    def _put(self, live: Any, inert: LuaObject | LuaTable) -> None:
        """Write the numbers of a module into the tensors of the object that it was converted from."""
        for key, value in inert.items():
            target = live[key]
            if isinstance(value, LuaTensor) and key not in ("output", "gradInput"):
                handle = self.runtime.bridge["handle"](target)
                if isinstance(handle, Tensor) and handle.numel == value.size > 0:
                    handle.t.copy_(value.torch().reshape(handle.size))
            elif isinstance(value, (LuaObject, LuaTable)) and target is not None:
                self._put(target, value)

    def parameters(self, state: _State, obj: Any, scale: float) -> None:
        """Add the kept gradients to gradWeight, gradBias … of the object and of what it contains."""
        self._add(obj, to_lua(state.module, gradients=True), scale)

    def _add(self, live: Any, inert: LuaObject | LuaTable, scale: float) -> None:
        for key, value in inert.items():
            target = live[key]
            if isinstance(value, LuaTensor) and isinstance(key, str) and key.startswith("grad") and key != "gradInput":
                handle = self.runtime.bridge["handle"](target)
                if isinstance(handle, Tensor) and handle.numel == value.size > 0:
                    handle.t.add_(value.torch().reshape(handle.size), alpha=scale)
            elif isinstance(value, (LuaObject, LuaTable)) and target is not None:
                self._add(target, value, scale)

    def _module(self, obj: Any) -> nn.Module:
        """Convert the object as it is now."""
        inert = self._inert(obj, {})
        return to_torch(inert)

    def _inert(self, value: Any, seen: dict[int, Any]) -> Any:
        """The object graph of a live value; tensors on the same memory."""
        kind = self.runtime.lua_type(value)
        if kind is None:
            return value
        handle = self.runtime.bridge["handle"](value)
        if isinstance(handle, Tensor):
            if handle.storage is None:
                return LuaTensor.empty(handle.class_name)
            storage = self._storage(handle.storage, seen)
            return LuaTensor(handle.class_name, handle.size, handle.stride, handle.offset, storage)
        if isinstance(handle, Storage):
            return self._storage(handle, seen)
        if kind != "table":
            return None
        name = self.runtime.bridge["typename"](value)
        table = LuaTable((k, self._inert(v, seen)) for k, v in value.items() if isinstance(k, (str, int, float, bool)))
        return table if name is None else LuaObject(name, table, version=self.runtime.bridge["version"](value))

    def _storage(self, storage: Storage, seen: dict[int, Any]) -> LuaStorage:
        if storage.pointer not in seen:
            seen[storage.pointer] = LuaStorage(storage.class_name, storage.size, storage.flat.numpy())
        return seen[storage.pointer]

    def _leaves(self, value: Any) -> Any:
        return _mapped(value, lambda t: t.detach().clone().requires_grad_(t.is_floating_point()))


def _stored(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]


class _State:
    """One forward."""

    def __init__(self, module: nn.Module, input: Any, output: Any) -> None:
        self.module, self.input, self.output = module, input, output


def _mapped(value: Any, f: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return f(value)
    if isinstance(value, (list, tuple)):
        return [_mapped(v, f) for v in value]
    return value


def _detached(value: Any) -> Any:
    return _mapped(value, lambda t: t.detach())


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [t for v in value for t in _tensors(v)] if isinstance(value, (list, tuple)) else []
