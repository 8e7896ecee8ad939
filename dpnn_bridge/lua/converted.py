"""Provide the registry's classes in Lua: a forward pass runs the converted PyTorch module on the object's tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from dpnn_bridge.compare import nested
from dpnn_bridge.conversion import registry, to_lua, to_torch
from dpnn_bridge.conversion.fields import grad_field
from dpnn_bridge.conversion.torch_context import TorchConversion
from dpnn_bridge.errors import ConversionError, LuaBridgeError
from dpnn_bridge.lua import values
from dpnn_bridge.lua.runtime import Runtime
from dpnn_bridge.lua.tensor import Storage, Tensor
from dpnn_bridge.memory import Memory, Remembering
from dpnn_bridge.objects import LuaObject, LuaStorage, LuaTable, LuaTensor
from dpnn_bridge.torch7.draws import Draws


def registered(name: str) -> tuple[str | None, int]:
    """Return ``"module"``, ``"container"`` or ``"criterion"``, and the version, of a class that the registry knows."""
    if not registry.mappings_of(name):
        return None, 0
    mapping = registry.find(LuaObject(name))
    version = mapping.version if mapping is not None else 1
    if name.endswith("Criterion"):
        return "criterion", version
    return "container" if mapping is not None and mapping.container else "module", version


class ConvertedModules:
    """Converted modules for Lua, which calls these functions as ``py.converted_*``."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    def entries(self) -> dict[str, Any]:
        return {
            "registered": registered,
            "converted_forward": self._reporting(self.forward),
            "converted_backward": self._reporting(self.backward),
            "converted_gradient": self.gradient,
            "converted_accumulate": self.accumulate,
            "converted_parameters": self.parameters,
        }

    def _reporting(self, code: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function for Lua that returns nil and a message where ``code(state, object, …)`` raises."""

        def call(state: _State | None, obj: Any, *args: Any) -> Any:
            try:
                return code(state, obj, *args)
            except Exception as error:
                return None, f"{self.runtime.bridge['typename'](obj)}: {error}"

        return call

    def forward(self, before: _State | None, obj: Any, name: str, *inputs: Any) -> Any:
        """Return the state that a backward pass needs, and the output.

        Args:
            before: of an earlier forward pass that was not forgotten.
            obj: the object.
            name: the class whose method was called.
            *inputs: its input, and the target of a criterion.
        """
        module = self._module(obj, name)
        if before is not None and _keeps_state(module):
            raise LuaBridgeError(
                "continues from its last step, which needs its own Lua sources: add to lua_path checkouts of nn, dpnn "
                "and rnn, or call forget() before each sequence of one step"
            )
        state = self._run(module, [values.to_python(self.runtime, x) for x in inputs])
        self._forget_noise(obj)
        if state.has_moved():  # running statistics, norms that are kept
            self._put(obj, to_lua(state.module, gradients=False))
        if isinstance(state.output, torch.Tensor) and state.output.dim() == 0:
            return state, state.output.item()
        return state, values.to_lua(self.runtime, nested.map_tensors(torch.detach, state.output))

    def _run(self, module: nn.Module, inputs: list[Any]) -> _State:
        arguments = nested.map_tensors(lambda t: t.detach().clone().requires_grad_(t.is_floating_point()), inputs)
        state = _State(module, arguments)
        with torch.enable_grad(), Draws(self.runtime.generator):
            state.output = module(*arguments)
        return state

    def backward(self, state: _State | None, obj: Any, name: str, input: Any, other: Any = None) -> _State:
        """Return the gradients of the input and of the parameters, which the result keeps.

        Args:
            state: of the last forward pass. If it is None or of another input or other weights, the forward pass runs.
            obj: the object.
            name: the class whose method was called.
            input: its input.
            other: the gradient of the output, or the target of a criterion.
        """
        x, other = values.to_python(self.runtime, input), values.to_python(self.runtime, other)
        is_criterion = name.endswith("Criterion")
        module, inputs = self._module(obj, name), [x, other] if is_criterion and other is not None else [x]
        if state is None or not state.fits(module, inputs):
            state = self._run(module, inputs)
        state.backward(None if is_criterion else other)
        return state

    def gradient(self, state: _State) -> Any:
        """Return the gradient of the input."""
        return values.to_lua(self.runtime, nested.gradients(state.input))

    def parameters(self, obj: Any, name: str) -> Any:
        """Return an object's parameters and their gradients in Torch7's order; None where it cannot be converted."""
        live: list[tuple[LuaObject | LuaTable, Any]] = []
        ctx = TorchConversion()
        try:
            module = ctx.to_torch(self._inert_as(obj, name, live))
        except ConversionError:
            return None
        owners = {id(ctx.converted(inert)): value for inert, value in live if isinstance(inert, LuaObject)}
        weights, gradients = [], []
        for owner, field, spec in registry.parameters(module):
            if id(owner) in owners:
                weights.append(owners[id(owner)][field])
                gradients.append(owners[id(owner)][grad_field(field, spec)])
        table = self.runtime.lua.table_from
        return table([table(weights), table(gradients)])

    def _forget_noise(self, live: Any) -> None:
        """Clear what an earlier call of random layers drew: these layers do not keep their noise."""
        noise = self.runtime.bridge["handle"](live["noise"])
        if isinstance(noise, Tensor) and noise.numel:
            live["noise"] = values.to_lua(self.runtime, torch.empty(0, dtype=noise.t.dtype))

    def _put(self, live: Any, inert: LuaObject | LuaTable) -> None:
        """Write the numbers of a module into the tensors of the object that it was converted from."""
        for key, handle, value in self._pairs(live, inert, {}):
            if key not in ("output", "gradInput"):
                handle.t.copy_(value.torch().reshape(handle.size))

    def accumulate(self, state: _State, obj: Any, scale: float) -> None:
        """Add the kept gradients to gradWeight, gradBias … of the object and of what it contains."""
        added = set()
        for key, handle, value in self._pairs(obj, to_lua(state.module, gradients=True), {}):
            assert handle.storage is not None
            place = (handle.storage.pointer, handle.offset)
            if isinstance(key, str) and key.startswith("grad") and key != "gradInput" and place not in added:
                added.add(place)  # clones share their gradients, and this is that of all
                handle.t.add_(value.torch().reshape(handle.size), alpha=scale)

    def _pairs(
        self, live: Any, inert: LuaObject | LuaTable, seen: dict[int, Any]
    ) -> Iterator[tuple[Any, Tensor, LuaTensor]]:
        """Yield each tensor field of a live object with the tensor of the same size in an inert object."""
        if id(inert) in seen:
            return
        seen[id(inert)] = inert
        for key, value in inert.items():
            target = live[key]
            if isinstance(value, LuaTensor):
                handle = self.runtime.bridge["handle"](target)
                if isinstance(handle, Tensor) and handle.numel == value.size > 0:
                    yield key, handle, value
            elif isinstance(value, (LuaObject, LuaTable)) and target is not None:
                yield from self._pairs(target, value, seen)

    def _module(self, obj: Any, name: str) -> nn.Module:
        """Convert the object as it is now."""
        return to_torch(self._inert_as(obj, name, []))

    def _inert_as(self, obj: Any, name: str, live: list[Any]) -> LuaObject:
        """Return the object graph of a live object, as one of a class that its own class may only be derived from."""
        inert = self._inert(obj, {}, live)
        renamed = LuaObject(name, inert.fields, version=inert.version)
        live.append((renamed, obj))
        return renamed

    def _inert(self, value: Any, seen: dict[int, Any], live: list[Any]) -> Any:
        """Return the object graph of a live value on the same memory, and record each object in ``live``."""
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
        place = self.runtime.bridge["pointer"](value)
        if place in seen:
            return seen[place]
        name, table = self.runtime.bridge["typename"](value), LuaTable()
        made = table if name is None else LuaObject(name, table, version=self.runtime.bridge["version"](value))
        seen[place] = made
        live.append((made, value))
        for key, inner in value.items():
            if isinstance(key, (str, int, float, bool)) or self.runtime.lua_type(key) == "table":
                table[self._inert(key, seen, live)] = self._inert(inner, seen, live)
        return made

    def _storage(self, storage: Storage, seen: dict[int, Any]) -> LuaStorage:
        if storage.pointer not in seen:
            seen[storage.pointer] = LuaStorage(storage.class_name, storage.size, storage.flat.numpy())
        return seen[storage.pointer]


class _State:
    """One forward, and one backward of it.

    Attributes:
        module, inputs, output: of the forward; the inputs are copies.
    """

    def __init__(self, module: nn.Module, inputs: list[Any]) -> None:
        self.module, self.inputs, self.output = module, inputs, None
        self._versions = [t._version for t in _stored(module)]

    @property
    def input(self) -> Any:
        return self.inputs[0]

    def has_moved(self) -> bool:
        """Return whether the forward has changed parameters or buffers."""
        return self._versions != [t._version for t in _stored(self.module)]

    def fits(self, module: nn.Module, inputs: list[Any]) -> bool:
        """Return whether the forward was one of these weights and inputs."""
        return _same(_stored(self.module), _stored(module)) and _same(
            nested.tensors(self.inputs), nested.tensors(inputs)
        )

    def backward(self, grad_output: Any) -> None:
        """Put gradients into ``grad`` of the inputs and parameters, those of this backward alone."""
        outputs, leaves = nested.tensors(self.output), [*nested.tensors(self.input), *self.module.parameters()]
        given = [None] * len(outputs) if grad_output is None else nested.tensors(grad_output)
        leaves = [t for t in leaves if t.requires_grad]
        pairs = [
            (o, None if g is None else g.reshape(o.shape))
            for o, g in zip(outputs, given, strict=True)
            if o.requires_grad
        ]
        gradients: Any = [None] * len(leaves)
        if pairs and leaves:  # retained, since Torch7 allows several backward passes after one forward pass
            differentiable, given = zip(*pairs, strict=True)
            gradients = torch.autograd.grad(differentiable, leaves, given, allow_unused=True, retain_graph=True)
        for leaf, gradient in zip(leaves, gradients, strict=True):
            leaf.grad = torch.zeros_like(leaf) if gradient is None else gradient


def _keeps_state(module: nn.Module) -> bool:
    """Return whether a call of a module starts from what the last one left."""
    if isinstance(module, Remembering):
        return module.remembers
    return isinstance(module, Memory) or any(map(_keeps_state, module.children()))


def _stored(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]


def _same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    kinds = [[(t.shape, t.dtype) for t in tensors] for tensors in (first, second)]
    return kinds[0] == kinds[1] and all(map(torch.equal, first, second))
