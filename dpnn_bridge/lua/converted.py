"""Provide classes with a mapping in Lua: a forward pass converts the Lua object and runs the PyTorch module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from dpnn_bridge.base.graph import is_criterion
from dpnn_bridge.base.storage import own_copy, storage_elements, storage_id
from dpnn_bridge.compare import nested
from dpnn_bridge.compare.bits import same_bits
from dpnn_bridge.conversion import registry
from dpnn_bridge.conversion.convert import to_lua, to_lua_with_gradients, to_torch
from dpnn_bridge.conversion.fields import grad_field
from dpnn_bridge.conversion.torch_context import TorchConversion
from dpnn_bridge.errors import ConversionError, LuaBridgeError, UnsupportedClassError
from dpnn_bridge.lua import values
from dpnn_bridge.lua.runtime import Runtime
from dpnn_bridge.lua.tensor import Storage, Tensor
from dpnn_bridge.lua.text import for_lua
from dpnn_bridge.memory import Memory, Remembering
from dpnn_bridge.objects import LuaObject, LuaStorage, LuaTable, LuaTensor
from dpnn_bridge.torch7.draws import Draws

#: classes whose backward pass uses results of the last forward pass instead of the input, which may have changed since:
#: the output of a module that is used twice
FROM_OUTPUT = frozenset(
    f"nn.{name}"
    for name in (
        *("Dropout", "ELU", "Exp", "LogSigmoid", "LogSoftMax", "Sigmoid", "SoftMax", "SoftMin", "SoftPlus"),
        *("SpatialDropout", "SpatialLogSoftMax", "SpatialSoftMax", "Sqrt", "Tanh", "VolumetricDropout"),
    )
)
#: classes of these whose PyTorch module uses the input: derivative as a function of the module and the output
_BY_OUTPUT: dict[str, Callable[[Any, torch.Tensor], torch.Tensor]] = {
    "nn.ELU": lambda m, y: torch.where(y <= 0, y + m.alpha, 1),
    "nn.SoftPlus": lambda m, y: torch.where(y * m.beta > m.threshold, 1, -torch.expm1(-y * m.beta)),
    "nn.Sqrt": lambda m, y: torch.where(y == 0, 0, 0.5 / y),
}
#: classes whose backward pass uses the output and the input, also in PyTorch
_FROM_BOTH = frozenset(("nn.PairwiseDistance",))
#: classes whose backward pass uses the output only in Torch7
_NEEDS_OUTPUT = frozenset(
    f"nn.{name}"
    for name in (
        *("Cosine", "Euclidean", "FeatureLPPooling", "SpatialCrossMapLRN", "WeightedEuclidean"),
        *("ReinforceBernoulli", "ReinforceCategorical", "ReinforceGamma", "ReinforceNormal"),
    )
)


def registered(name: str) -> tuple[str | None, int]:
    """Return ``"module"``, ``"container"`` or ``"criterion"``, and the class version; None and 0 without a mapping."""
    if not registry.mappings_of(name):
        return None, 0
    mapping = registry.find(LuaObject(name))
    version = mapping.version if mapping is not None else 1
    if is_criterion(name):
        return "criterion", version
    return "container" if mapping is not None and mapping.container else "module", version


class ConvertedModules:
    """Functions that run converted modules; Lua calls them as ``py.converted_*``.

    ``obj`` and ``live`` are objects in Lua; ``inert`` is the LuaObject or LuaTable with the same content.
    """

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
            "converted_maxima": self.store_maxima,
        }

    def _reporting(self, code: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap ``code(state, object, …)`` for Lua: return nil and a message instead of raising an exception."""

        def call(state: _State | None, obj: Any, *args: Any) -> Any:
            try:
                return code(state, obj, *args)
            except Exception as error:
                return None, for_lua(f"{self.runtime.bridge['typename'](obj)}: {error}")

        return call

    def forward(self, previous: _State | None, obj: Any, name: str, *inputs: Any) -> Any:
        """Return the state that a backward pass needs, and the output.

        Args:
            previous: state of the last forward pass, unless ``forget()`` was called since.
            obj: the object.
            name: the class whose method was called.
            *inputs: the input, and the target of a criterion.
        """
        module = self._module(obj, name)
        if previous is not None and _keeps_state(module):
            raise LuaBridgeError(
                "this module continues from its last step, which requires its Lua sources: add checkouts of nn, dpnn "
                "and rnn to lua_path, or call forget() before each sequence of one step"
            )
        state = self._run(module, [values.to_python(self.runtime, x) for x in inputs])
        self._forget_noise(obj)
        if state.has_changed_tensors():  # such as running statistics, or weights with a maximum norm
            self._write_back(obj, to_lua(state.module, gradients=False))
        if isinstance(state.output, torch.Tensor) and state.output.dim() == 0:
            return state, state.output.item()
        # Lua may change its output, which autograd may have stored; Torch7 uses the output in some classes only
        own = torch.Tensor.detach if name in FROM_OUTPUT | _FROM_BOTH else lambda t: own_copy(t.detach())
        return state, values.to_lua(self.runtime, nested.map_tensors(own, state.output))

    def _run(self, module: nn.Module, inputs: list[Any]) -> _State:
        arguments = nested.map_tensors(lambda t: t.detach().clone(), inputs)
        nested.map_tensors(lambda t: t.requires_grad_(t.is_floating_point()), arguments[:1])
        state = _State(module, arguments)
        with torch.enable_grad(), Draws(self.runtime.generator):
            state.output = module(*arguments)
        return state

    def backward(self, state: _State | None, obj: Any, name: str, input: Any, other: Any = None) -> _State:
        """Run a backward pass; return the state, which contains the gradients of the input and the parameters.

        Args:
            state: of the last forward pass. If it is None or belongs to other inputs or weights, the forward pass runs
                again.
            obj: the object.
            name: the class whose method was called.
            input: the input.
            other: the gradient of the output, or the target of a criterion.
        """
        x, other = values.to_python(self.runtime, input), values.to_python(self.runtime, other)
        has_target = is_criterion(name)
        module, inputs = self._module(obj, name), [x, other] if has_target and other is not None else [x]
        # with random slopes, Torch7 uses those of the last forward pass
        from_forward = name in FROM_OUTPUT or (name == "nn.RReLU" and module.training)
        if state is None or not ((from_forward and state.has_size(inputs)) or state.fits(module, inputs)):
            state = self._run(module, inputs)
        elif name in _NEEDS_OUTPUT and self._changed_output(state, obj) is not None:
            raise LuaBridgeError(
                "the layer has changed its field output, from which Torch7 computes the gradient; this requires the "
                "Lua source of the class: add a checkout of its package to lua_path"
            )
        if name in FROM_OUTPUT | _FROM_BOTH and (changed := self._changed_output(state, obj)) is not None:
            state.output.data.copy_(changed)  # type: ignore[union-attr]
        state.backward(None if has_target else other)
        y, derivative = state.output, _BY_OUTPUT.get(name)
        if derivative is not None and isinstance(y, torch.Tensor) and isinstance(other, torch.Tensor):
            state.input.grad = derivative(state.module, y.detach()) * other.reshape(y.shape)
        return state

    def _changed_output(self, state: _State, obj: Any) -> torch.Tensor | None:
        """Return the object's output if it is another one than that of a forward pass, else None."""
        handle, own = self.runtime.bridge["handle"](obj["output"]), state.output
        if not isinstance(handle, Tensor) or not isinstance(own, torch.Tensor) or own.dtype != handle.t.dtype:
            return None
        return None if handle.t.shape != own.shape or same_bits(handle.t, own) else handle.t

    def gradient(self, state: _State) -> Any:
        """Return the gradient of the input."""
        return values.to_lua(self.runtime, nested.gradients(state.input))

    def parameters(self, obj: Any, name: str) -> Any:
        """Return an object's parameters and their gradients in Torch7's order; None if it cannot be converted."""
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

    def store_maxima(self, state: _State | None, unpooling: Any, name: str) -> None:
        """Store the maxima of the pooling's last forward pass, which is ``state``, in the pooling of an unpooling."""
        if state is not None:
            module = self._module(unpooling, name)
            module.get_submodule("pooling")(*state.inputs)
            for key, value in to_lua(module)["pooling"].items():
                if key == "indices":
                    unpooling["pooling"][key] = values.to_lua(self.runtime, value.torch())
                elif key in ("itime", "iheight", "iwidth"):
                    unpooling["pooling"][key] = value

    def _forget_noise(self, live: Any) -> None:
        """Clear the noise of an earlier call of a random layer, so that it draws again."""
        noise = self.runtime.bridge["handle"](live["noise"])
        if isinstance(noise, Tensor) and noise.numel:
            live["noise"] = values.to_lua(self.runtime, torch.empty(0, dtype=noise.t.dtype))

    def _write_back(self, live: Any, inert: LuaObject | LuaTable) -> None:
        """Copy the tensors of a converted module into the Lua object."""
        for owner, key, value in self._tensors(live, inert):
            handle = self._handle(owner, key, value)
            if handle is not None and key not in ("output", "gradInput"):
                handle.t.copy_(value.torch().reshape(handle.size))
            elif handle is None and key == "randomSamples":  # the first forward pass draws them
                owner[key] = values.to_lua(self.runtime, value.torch())

    def accumulate(self, state: _State, obj: Any, scale: float) -> None:
        """Add the gradients of the backward pass to gradWeight, gradBias … of the object and the modules in it."""
        added = set()  # clones share one gradient tensor, and PyTorch's gradient is the sum over all clones
        inert, computed = to_lua_with_gradients(state.module)
        for owner, key, value in self._tensors(obj, inert):
            handle = self._handle(owner, key, value) if id(value) in computed else None
            if handle is None or handle.storage is None:
                continue
            location = (handle.storage.pointer, handle.offset)
            if location not in added:
                added.add(location)
                handle.t.add_(value.torch().reshape(handle.size), alpha=scale)

    def _handle(self, live: Any, key: Any, value: LuaTensor) -> Tensor | None:
        """Return the tensor ``live[key]`` in Lua; None unless it has as many elements as ``value``, and some."""
        handle = self.runtime.bridge["handle"](live[key])
        return handle if isinstance(handle, Tensor) and handle.numel == value.size > 0 else None

    def _tensors(self, live: Any, inert: LuaObject | LuaTable) -> Iterator[tuple[Any, Any, LuaTensor]]:
        """Yield the Lua object, the key and the value of each tensor field of ``inert``.

        Where ``live`` has a tensor and ``inert`` a table, as in ``gradInput`` of SeqLSTM, no tensors correspond.
        """
        pending, seen = [(live, inert)], set[int]()
        while pending:
            live, inert = pending.pop()
            if id(inert) in seen:
                continue
            seen.add(id(inert))
            for key, value in inert.items():
                if isinstance(value, LuaTensor):
                    yield live, key, value
                elif isinstance(value, (LuaObject, LuaTable)):
                    target = live[key]
                    if target is not None and self.runtime.bridge["handle"](target) is None:
                        pending.append((target, value))

    def _module(self, obj: Any, name: str) -> nn.Module:
        """Convert the object in its current state."""
        try:
            return to_torch(self._inert_as(obj, name, []))
        except UnsupportedClassError as error:
            find = self.runtime.torch["getmetatable"]
            inner = next((c for c in error.classes if not c.reason and find(c.class_name) is not None), None)
            if inner is None:
                raise
            raise LuaBridgeError(
                f"{inner.paths[0]} ({inner.class_name}) runs in Lua and {name} in PyTorch; to run both in Lua, add a "
                "checkout of the latter's package to lua_path"
            ) from error

    def _inert_as(self, obj: Any, name: str, live: list[Any]) -> LuaObject:
        """Return the LuaObject of ``obj`` with the class ``name``, which is its class or a base class of its class."""
        inert = self._inert(obj, live)
        renamed = LuaObject(name, inert.fields, version=inert.version)
        live.append((renamed, obj))
        return renamed

    def _inert(self, root: Any, live: list[Any]) -> Any:
        """Return the object graph of a Lua value on the same memory; append (inert, Lua object) pairs to ``live``."""
        seen: dict[int, Any] = {}
        pending: list[tuple[LuaTable, Any]] = []
        inert = self._start(root, seen, live, pending)
        while pending:
            table, value = pending.pop()
            for key, inner in value.items():
                if isinstance(key, (str, int, float, bool)) or self.runtime.lua_type(key) == "table":
                    entry = self._start(inner, seen, live, pending)
                    table[self._start(key, seen, live, pending)] = entry
        return inert

    def _start(self, value: Any, seen: dict[int, Any], live: list[Any], pending: list[tuple[LuaTable, Any]]) -> Any:
        """Convert a value; a new table is empty, and is appended to ``pending`` with its Lua table."""
        lua_type = self.runtime.lua_type(value)
        if lua_type is None:
            return value
        handle = self.runtime.bridge["handle"](value)
        if isinstance(handle, Tensor):
            if handle.storage is None:
                return LuaTensor.empty(handle.class_name)
            storage = self._storage(handle.storage, seen)
            return LuaTensor(handle.class_name, handle.size, handle.stride, handle.offset, storage)
        if isinstance(handle, Storage):
            return self._storage(handle, seen)
        if lua_type != "table":
            return None
        pointer = self.runtime.bridge["pointer"](value)
        if pointer in seen:
            return seen[pointer]
        name, table = self.runtime.bridge["typename"](value), LuaTable()
        inert = table if name is None else LuaObject(name, table, version=self.runtime.bridge["version"](value))
        seen[pointer] = inert
        live.append((inert, value))
        pending.append((table, value))
        return inert

    def _storage(self, storage: Storage, seen: dict[int, Any]) -> LuaStorage:
        if storage.pointer not in seen:
            seen[storage.pointer] = LuaStorage(storage.class_name, storage.size, storage.flat.numpy())
        return seen[storage.pointer]


class _State:
    """A forward pass, and later its backward pass.

    Attributes:
        module: the converted module.
        inputs: copies of the inputs.
        output: output of the module.
    """

    def __init__(self, module: nn.Module, inputs: list[Any]) -> None:
        self.module, self.inputs, self.output = module, inputs, None
        self._versions = [t._version for t in _stored(module)]

    @property
    def input(self) -> Any:
        return self.inputs[0]

    def has_changed_tensors(self) -> bool:
        """Return whether the forward pass changed parameters or buffers."""
        return self._versions != [t._version for t in _stored(self.module)]

    def has_size(self, inputs: list[Any]) -> bool:
        """Return whether the forward pass had inputs of these shapes and types."""
        return _specs(nested.tensors(self.inputs)) == _specs(nested.tensors(inputs))

    def fits(self, module: nn.Module, inputs: list[Any]) -> bool:
        """Return whether the forward pass had these weights and inputs."""
        return _same(_stored(self.module), _stored(module)) and _same(
            nested.tensors(self.inputs), nested.tensors(inputs)
        )

    def backward(self, grad_output: Any) -> None:
        """Set ``grad`` of the inputs and parameters to the gradients of this backward pass alone."""
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
        for leaf, gradient in zip(leaves, _separate(gradients, grad_output), strict=True):
            leaf.grad = torch.zeros_like(leaf) if gradient is None else gradient


def _separate(gradients: Sequence[torch.Tensor | None], grad_output: Any) -> Iterator[torch.Tensor | None]:
    """Yield gradients with memory of their own, into which Lua may write; autograd passes ``grad_output`` on.

    As in Torch7, where only layers that return their input return the gradient of the output.
    """
    used = {storage_id(t) for t in nested.tensors(grad_output)}
    for gradient in gradients:
        if gradient is not None:
            if storage_id(gradient) in used or storage_elements(gradient) < gradient.numel():
                gradient = gradient.clone(memory_format=torch.contiguous_format)
            used.add(storage_id(gradient))
        yield gradient


def _keeps_state(module: nn.Module) -> bool:
    """Return whether a call of the module continues from the state of the previous call."""
    if isinstance(module, Remembering):
        return module.remembers
    return isinstance(module, Memory) or any(map(_keeps_state, module.children()))


def _stored(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]


def _same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return _specs(first) == _specs(second) and all(map(torch.equal, first, second))


def _specs(tensors: list[torch.Tensor]) -> list[tuple[torch.Size, torch.dtype]]:
    return [(t.shape, t.dtype) for t in tensors]
