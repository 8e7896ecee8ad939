"""Run objects of ``torch.legacy.nn`` with a converted ``torch.nn`` module that shares their tensors.

A model is converted at its first run, and again after a change. Parameters and buffers of the converted module are
views of the tensors of the objects. Hooks record the input and output of every module. So each object has ``output``
and ``gradInput``, and the backward pass of a single module can run, as in Torch7.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple
from weakref import proxy, ref

import torch
from torch import Tensor, nn

from dpnn_bridge.base.storage import storage_id
from dpnn_bridge.compare.nested import map_tensors, tensors
from dpnn_bridge.conversion import registry
from dpnn_bridge.conversion.buffers import BUFFERS
from dpnn_bridge.conversion.fields import get_tensor, grad_field
from dpnn_bridge.conversion.lua_values import RESULTS
from dpnn_bridge.conversion.options import Options
from dpnn_bridge.conversion.tensors import field_value, is_parameter
from dpnn_bridge.conversion.torch_context import TorchConversion
from dpnn_bridge.legacy.encoding import Encoder
from dpnn_bridge.legacy.fields import CHANGED
from dpnn_bridge.legacy.legacy_object import LegacyObject
from dpnn_bridge.legacy.user_modules import UserModule, accumulating, is_user_module
from dpnn_bridge.legacy.values import equal
from dpnn_bridge.legacy.views import Views
from dpnn_bridge.training.lua_parameters import LuaParameter, all_parameters


class Call(NamedTuple):
    """One forward pass of one module.

    Attributes:
        arguments: copies of the arguments of the call.
        inputs, output: inputs and output of the module, with autograd history.
        module: the converted module.
        graph: the model that the module is part of.
    """

    arguments: tuple[Any, ...]
    inputs: tuple[Any, ...]
    output: Any
    module: nn.Module
    graph: Graph


class Graph:
    """A model of ``torch.legacy.nn`` and its converted module.

    The graph and its module refer to the objects of the model only weakly, because the objects refer to the graph.
    Otherwise a deleted model would occupy memory until the next garbage collection.

    Args:
        root: the model. If it is a module of the user, its converted module computes as the class in
            ``torch.legacy.nn`` from which it inherits, because the methods that it inherits run the graph.

    Attributes:
        module: the converted module.
        signature: see :func:`signature`, at the time of the conversion.
    """

    def __init__(self, root: Any) -> None:
        encoder = Encoder(inherited=root)
        obj = encoder.value(root)
        context = TorchConversion(Options(index_base=0, fallback=lambda o, _: _in_python(encoder, o)))
        context.sharing = self._views = Views()
        self.module = context.to_torch(obj)
        context.finish()
        device = next((p.device for p in self.module.parameters()), torch.device("cpu"))
        if device.type != "cpu":
            self.module.to(device)  # buffers that are not fields of the model
        found = [(legacy, context.converted(o)) for legacy, o in encoder.pairs]
        self._pairs = [(ref(legacy), module) for legacy, module in found if module is not None]
        self.signature = signature(root, self._views.shared)
        for legacy, module in self.pairs:
            if isinstance(module, UserModule):
                module.part, module.anchor = proxy(legacy), torch.zeros((), requires_grad=True)
            module.register_forward_pre_hook(partial(_enter, ref(self), ref(legacy)), prepend=True)
            module.register_forward_hook(partial(_leave, ref(self), ref(legacy)))

    @property
    def pairs(self) -> list[tuple[Any, nn.Module]]:
        """Each object of the model with its converted module, without objects that were deleted."""
        found = [(reference(), module) for reference, module in self._pairs]
        return [(legacy, module) for legacy, module in found if legacy is not None]

    def fits(self, root: Any) -> bool:
        """Return whether the model is unchanged since its conversion."""
        return signature(root, self._views.shared) == self.signature

    def write_back(self) -> None:
        """Copy changed tensors that are not views back to their fields."""
        for legacy, module in self.pairs:
            computed = CHANGED.get(legacy._legacy_class, {})
            for name, spec in registry.mapping_of(module).fields_of(module).items():
                tensor, field = get_tensor(module, spec.attribute), legacy._fields.get(name)
                if name in computed or not isinstance(tensor, Tensor) or not isinstance(field, Tensor):
                    continue
                if field.numel() and storage_id(tensor) != storage_id(field):
                    field.copy_(field_value(module, name, spec).reshape(field.shape))


def _enter(graph: ref[Graph], reference: ref[Any], module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Record the inputs of a call, as views, whose gradients do not include other calls."""
    inputs = tuple(map_tensors(lambda t: t.view_as(t) if t.requires_grad else t, x) for x in arguments)
    if (legacy := reference()) is not None and (owner := graph()) is not None:
        legacy._call = Call(tuple(map_tensors(torch.detach, x) for x in inputs), inputs, None, module, owner)
    return inputs


def _leave(graph: ref[Graph], reference: ref[Any], module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
    if (legacy := reference()) is None:
        return
    if legacy._call.graph is graph():  # otherwise an inherited method of a module of the user has run another graph
        legacy._call = legacy._call._replace(output=output)
    if not isinstance(module, UserModule):
        legacy.output = plain(output)


def plain(value: Any) -> Any:
    """Convert results for ``torch.legacy``: tensors without autograd history, and a loss as a number."""
    if isinstance(value, Tensor) and value.dim() == 0:
        return value.item()
    return map_tensors(lambda t: t.data, value)


def _in_python(encoder: Encoder, obj: Any) -> nn.Module | None:
    """Return the module that computes an object in Python; None for an object whose Lua class computes."""
    legacy = encoder.user_modules.get(id(obj))
    return None if legacy is None else legacy._own_module() or UserModule(legacy)


def signature(root: Any, shared: set[int]) -> list[Any]:
    """Return all properties that a conversion depends on: structure, settings, and memory of tensors.

    Args:
        root: a module or criterion.
        shared: :func:`storage_id` of the storages that the converted module shares. For tensors in other storages, the
            signature includes the version counter, which changes with the elements.
    """
    found: list[Any] = []
    stack, seen = [root], set()
    while stack:
        value = stack.pop()
        if isinstance(value, Tensor):
            key = storage_id(value)
            found.append((key, value.shape, value.stride(), value.storage_offset(), value.dtype))
            found.append(None if key in shared else value._version)
        elif id(value) in seen:
            found.append(id(value))
        elif isinstance(value, (list, tuple)):
            seen.add(id(value))
            found.append(len(value))
            stack.extend(value)
        elif isinstance(value, (dict, LegacyObject)):
            seen.add(id(value))
            found += [id(value), isinstance(value, LegacyObject) and is_user_module(value)]
            for key, entry in (value if isinstance(value, dict) else value._fields).items():
                if key not in RESULTS and key not in BUFFERS and not (isinstance(key, str) and key.startswith("grad")):
                    found.append(key)
                    stack.append(entry)
        else:
            found.append(value if isinstance(value, (bool, int, float, str, type(None))) else id(value))
    return found


def graph_of(root: Any) -> Graph:
    """Return the converted model of an object; convert it again after a change."""
    graph = getattr(root, "_graph", None)
    if graph is None or not graph.fits(root):
        graph = root._graph = Graph(root)
    return graph


def converted(root: Any, **options: Any) -> nn.Module:
    """Convert an object to a ``torch.nn`` module that does not share its tensors."""
    encoder = Encoder()
    defaults = {"index_base": 0, "gradients": True, "fallback": lambda obj, _: _in_python(encoder, obj)}
    context = TorchConversion(Options(**{**defaults, **options}))
    module = context.to_torch(encoder.value(root))
    context.finish()
    return module


def forward(root: Any, arguments: tuple[Any, ...]) -> Any:
    """Run the forward pass of an object, and record it in the object and all objects inside."""
    graph = graph_of(root)
    leaves = [map_tensors(_leaf, x) for x in arguments[:1]] + [map_tensors(torch.detach, x) for x in arguments[1:]]
    with torch.enable_grad():
        output = graph.module(*leaves)
    root._call = root._call._replace(arguments=tuple(map_tensors(lambda t: t.detach().clone(), x) for x in arguments))
    graph.write_back()
    root.output = plain(output)
    return root.output


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_(tensor.is_floating_point())


def backward(
    root: Any,
    arguments: tuple[Any, ...],
    grad_output: Any,
    *,
    scale: float | None = None,
    input_too: bool = True,
    into_parameters: bool = False,
) -> Any:
    """Compute gradients of the last forward pass, or of a new forward pass if the arguments have changed.

    Args:
        root: a module or criterion.
        arguments: the input, and for a criterion the target.
        grad_output: gradient of the output; None for a loss.
        scale: factor of the parameter gradients; None computes no parameter gradients.
        input_too: set ``gradInput`` of all modules that ran.
        into_parameters: add the scaled gradients to the parameters instead of to the gradient fields.

    Returns:
        The gradient of the input.
    """
    call = getattr(root, "_call", None)
    if call is None or not equal(call.arguments, tuple(arguments)):
        forward(root, arguments)
        call = root._call
    outputs, grad_outputs = _differentiable(call.output, grad_output)
    inside = set(call.module.modules())
    pairs = [(legacy, module) for legacy, module in call.graph.pairs if module in inside]
    sites = [] if scale is None else list(_sites(pairs))
    calls = [(legacy, legacy._call) for legacy, _ in pairs if getattr(legacy, "_call", None) is not None]
    calls = [(legacy, c) for legacy, c in calls if input_too and c.graph is call.graph]
    leaves = [t for _, c in calls for t in tensors(c.inputs[0]) if t.requires_grad]
    leaves += [entry.parameter for _, _, entry in sites]
    if scale is not None:
        leaves += [module.anchor for _, module in pairs if isinstance(module, UserModule) and module.anchor is not None]
    with accumulating(None if scale is None else partial(_accumulate, scale, into_parameters)):
        gradients = _gradients(outputs, leaves, grad_outputs)
    for legacy, c in calls:
        legacy.gradInput = map_tensors(
            lambda t: gradients[id(t)] if id(t) in gradients else torch.zeros_like(t.data), c.inputs[0]
        )
    for legacy, name, entry in sites:
        parameter = entry.parameter
        if id(parameter) in gradients:
            parameter.grad = gradients[id(parameter)]
            target = legacy._fields[name] if into_parameters else gradient_of(legacy, name, entry.field)
            target.add_(entry.read_gradient().reshape(target.shape), alpha=scale)
            parameter.grad = None
    return root.gradInput if input_too else None


def _accumulate(scale: float, into_parameters: bool, part: Any, input: Any, grad_output: Any) -> None:
    """Compute the parameter gradients of a module of the user, see :func:`backward`."""
    if into_parameters:
        part.accUpdateGradParameters(input, grad_output, -scale)
    else:
        part.accGradParameters(input, grad_output, scale)


def _differentiable(output: Any, grad_output: Any) -> tuple[list[Tensor], list[Tensor] | None]:
    """Return the output tensors that depend on inputs or parameters, and their gradients."""
    outputs = tensors(output)
    gradients = tensors(grad_output)
    if not gradients and len(outputs) == 1:  # a loss
        gradients = [torch.full_like(outputs[0], 1 if grad_output is None else grad_output)]
    pairs = [(o, g.detach().reshape(o.shape)) for o, g in zip(outputs, gradients, strict=True) if o.requires_grad]
    return [o for o, _ in pairs], [g for _, g in pairs]


def _gradients(outputs: list[Tensor], leaves: list[Tensor], grad_outputs: list[Tensor] | None) -> dict[int, Tensor]:
    if not outputs or not leaves:
        return {}
    found = torch.autograd.grad(outputs, leaves, grad_outputs, allow_unused=True, retain_graph=True)
    return {id(leaf): gradient for leaf, gradient in zip(leaves, found, strict=True) if gradient is not None}


def _sites(pairs: list[tuple[Any, nn.Module]]) -> Any:
    """Yield object, name of the field, and entry of every parameter of converted modules."""
    for legacy, module in pairs:
        for name, spec in registry.mapping_of(module).fields_of(module).items():
            if is_parameter(module, spec.attribute) and isinstance(legacy._fields.get(name), Tensor):
                entry = LuaParameter(module, name, spec)
                if entry.parameter.requires_grad:
                    yield legacy, name, entry


def parameters_of(root: Any) -> tuple[list[Tensor], list[Tensor]] | None:
    """Return ``(weights, gradients)`` of a module in the order of Torch7's ``parameters()``, or None."""
    graph = graph_of(root)
    legacy_of = {id(module): legacy for legacy, module in graph.pairs}
    entries = [(legacy_of.get(id(entry.module)), entry) for entry in all_parameters(graph.module)]
    entries = [
        (legacy, e) for legacy, e in entries if legacy is not None and isinstance(legacy._fields.get(e.name), Tensor)
    ]
    if not entries:
        return None
    weights = [legacy._fields[entry.name] for legacy, entry in entries]
    return weights, [gradient_of(legacy, entry.name, entry.field) for legacy, entry in entries]


def gradient_of(legacy: Any, name: str, spec: Any = "") -> Tensor:
    """Return the gradient field of a parameter field; create it with zeros if the object has none."""
    field = grad_field(name, spec)
    gradient = legacy._fields.get(field)
    if not isinstance(gradient, Tensor) or gradient.numel() != legacy._fields[name].numel():
        gradient = legacy._fields[field] = torch.zeros_like(legacy._fields[name])
    return gradient


def cleared(legacy: Any) -> Any:
    """Empty the results and buffers of one object, and delete the record of its last forward pass."""
    mapping = registry.find(Encoder().value(legacy)) if not is_user_module(legacy) else None
    scratch = mapping.scratch if mapping else ()
    for name in {*RESULTS, *BUFFERS, *scratch} - {"_ones"}:  # Add does not create _ones again
        value = legacy._fields.get(name)
        if isinstance(value, Tensor):
            legacy._fields[name] = value.new_empty(0)
        elif isinstance(value, list):
            legacy._fields[name] = []
    legacy._call = legacy._graph = None
    return legacy
