"""Run objects of ``torch.legacy.nn`` with a converted ``torch.nn`` module that shares their tensors.

A model is converted at its first run, and again after a change. Parameters and buffers of the converted module are
views of the tensors of the objects. Hooks record the input and output of every module. So each object has ``output``
and ``gradInput``, and the backward pass of a single module can run, as in Torch7.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dpnn_bridge.base.storage import storage_id
from dpnn_bridge.compare.nested import map_tensors, tensors
from dpnn_bridge.conversion import Options, registry
from dpnn_bridge.conversion.buffers import BUFFERS
from dpnn_bridge.conversion.fields import get_tensor, grad_field
from dpnn_bridge.conversion.lua_values import RESULTS
from dpnn_bridge.conversion.tensors import field_value, is_parameter
from dpnn_bridge.conversion.torch_context import TorchConversion
from dpnn_bridge.legacy.encoding import Encoder, is_user_module
from dpnn_bridge.legacy.fields import CHANGED
from dpnn_bridge.legacy.foreign import Foreign, accumulating
from dpnn_bridge.legacy.values import equal
from dpnn_bridge.legacy.viewed import Viewed
from dpnn_bridge.legacy.views import Views
from dpnn_bridge.training.lua_parameters import LuaParameter, all_parameters

__all__ = ["backward", "cleared", "converted", "forward", "gradient_of", "is_user_module", "parameters_of"]


class Call(NamedTuple):
    """One forward pass of one module.

    Attributes:
        given: copies of the arguments of the call.
        inputs, output: inputs and output of the module, with autograd history.
        module: the converted module.
        graph: the model that the module is part of.
    """

    given: tuple[Any, ...]
    inputs: tuple[Any, ...]
    output: Any
    module: nn.Module
    graph: Graph


class Graph:
    """A model of ``torch.legacy.nn`` and its converted module.

    Attributes:
        module: the converted module.
        pairs: each object of the model with its converted module.
        signature: see :func:`signature`, at the time of the conversion.
    """

    def __init__(self, root: Any) -> None:
        encoder = Encoder()
        obj = encoder.value(root)
        context = TorchConversion(Options(index_base=0, fallback=lambda o, _: _foreign(encoder, o)))
        context.sharing = self._views = Views()
        self.module = context.to_torch(obj)
        context.finish()
        device = next((p.device for p in self.module.parameters()), torch.device("cpu"))
        if device.type != "cpu":
            self.module.to(device)  # buffers that are not fields of the model
        found = [(part, context.converted(o)) for part, o in encoder.pairs]
        self.pairs = [(part, module) for part, module in found if module is not None]
        self.signature = signature(root, self._views.shared)
        for part, module in self.pairs:
            module.register_forward_pre_hook(partial(self._enter, part), prepend=True)
            module.register_forward_hook(partial(self._leave, part))

    def fits(self, root: Any) -> bool:
        """Return whether the model is unchanged since its conversion."""
        return signature(root, self._views.shared) == self.signature

    def _enter(self, part: Any, module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """Record the inputs of a call, as views, so that their gradients are those of this call only."""
        inputs = tuple(map_tensors(lambda t: t.view_as(t) if t.requires_grad else t, x) for x in arguments)
        part._call = Call(tuple(map_tensors(torch.detach, x) for x in inputs), inputs, None, module, self)
        return inputs

    def _leave(self, part: Any, module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        part._call = part._call._replace(output=output)
        if not is_user_module(part):
            part.output = plain(output)

    def write_back(self) -> None:
        """Copy changed tensors that are not views back to their fields."""
        for part, module in self.pairs:
            computed = CHANGED.get(part._kind, {})
            for name, spec in registry.mapping_of(module).fields_of(module).items():
                tensor, field = get_tensor(module, spec.attribute), part._fields.get(name)
                if name in computed or not isinstance(tensor, Tensor) or not isinstance(field, Tensor):
                    continue
                if field.numel() and storage_id(tensor) != storage_id(field):
                    field.copy_(field_value(module, name, spec).reshape(field.shape))


def plain(value: Any) -> Any:
    """Convert results for ``torch.legacy``: tensors without autograd history, and a loss as a number."""
    if isinstance(value, Tensor) and value.dim() == 0:
        return value.item()
    return map_tensors(lambda t: t.data, value)


def _foreign(encoder: Encoder, obj: Any) -> nn.Module | None:
    part = encoder.user_modules.get(id(obj))
    return None if part is None else part._own_module() or Foreign(part)


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
        elif isinstance(value, (dict, Viewed)):
            seen.add(id(value))
            found += [id(value), isinstance(value, Viewed) and is_user_module(value)]
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
    defaults = {"index_base": 0, "gradients": True, "fallback": lambda obj, _: _foreign(encoder, obj)}
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
    root._call = root._call._replace(given=tuple(map_tensors(lambda t: t.detach().clone(), x) for x in arguments))
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
    if call is None or not equal(call.given, tuple(arguments)):
        forward(root, arguments)
        call = root._call
    outputs, given = _differentiable(call.output, grad_output)
    inside = set(call.module.modules())
    parts = [(part, module) for part, module in call.graph.pairs if module in inside]
    sites = [] if scale is None else list(_sites(parts))
    calls = [(part, part._call) for part, _ in parts if getattr(part, "_call", None) is not None]
    calls = [(part, c) for part, c in calls if input_too and c.graph is call.graph]
    leaves = [t for _, c in calls for t in tensors(c.inputs[0]) if t.requires_grad]
    leaves += [entry.parameter for _, _, entry in sites]
    with accumulating(scale):
        gradients = _gradients(outputs, leaves, given)
    for part, c in calls:
        part.gradInput = map_tensors(
            lambda t: gradients[id(t)] if id(t) in gradients else torch.zeros_like(t.data), c.inputs[0]
        )
    for part, name, entry in sites:
        parameter = entry.parameter
        if id(parameter) in gradients:
            parameter.grad = gradients[id(parameter)]
            target = part._fields[name] if into_parameters else gradient_of(part, name, entry.field)
            target.add_(entry.read_gradient().reshape(target.shape), alpha=scale)
            parameter.grad = None
    return root.gradInput if input_too else None


def _differentiable(output: Any, given: Any) -> tuple[list[Tensor], list[Tensor] | None]:
    """Return the output tensors that depend on inputs or parameters, and their gradients."""
    outputs = tensors(output)
    gradients = tensors(given)
    if not gradients and len(outputs) == 1:  # a loss
        gradients = [torch.full_like(outputs[0], 1 if given is None else given)]
    pairs = [(o, g.detach().reshape(o.shape)) for o, g in zip(outputs, gradients, strict=True) if o.requires_grad]
    return [o for o, _ in pairs], [g for _, g in pairs]


def _gradients(outputs: list[Tensor], leaves: list[Tensor], given: list[Tensor] | None) -> dict[int, Tensor]:
    if not outputs or not leaves:
        return {}
    found = torch.autograd.grad(outputs, leaves, given, allow_unused=True, retain_graph=True)
    return {id(leaf): gradient for leaf, gradient in zip(leaves, found, strict=True) if gradient is not None}


def _sites(parts: list[tuple[Any, nn.Module]]) -> Any:
    """Yield object, name of the field, and entry of every parameter of converted modules."""
    for part, module in parts:
        for name, spec in registry.mapping_of(module).fields_of(module).items():
            if is_parameter(module, spec.attribute) and isinstance(part._fields.get(name), Tensor):
                entry = LuaParameter(module, name, spec)
                if entry.parameter.requires_grad:
                    yield part, name, entry


def parameters_of(root: Any) -> tuple[list[Tensor], list[Tensor]] | None:
    """Return ``(weights, gradients)`` of a module in the order of Torch7's ``parameters()``, or None."""
    graph = graph_of(root)
    parts = {id(module): part for part, module in graph.pairs}
    entries = [(parts.get(id(entry.module)), entry) for entry in all_parameters(graph.module)]
    entries = [(part, e) for part, e in entries if part is not None and isinstance(part._fields.get(e.name), Tensor)]
    if not entries:
        return None
    weights = [part._fields[entry.name] for part, entry in entries]
    return weights, [gradient_of(part, entry.name, entry.field) for part, entry in entries]


def gradient_of(part: Any, name: str, spec: Any = "") -> Tensor:
    """Return the gradient field of a parameter field; create it with zeros if the object has none."""
    field = grad_field(name, spec)
    gradient = part._fields.get(field)
    if not isinstance(gradient, Tensor) or gradient.numel() != part._fields[name].numel():
        gradient = part._fields[field] = torch.zeros_like(part._fields[name])
    return gradient


def cleared(part: Any) -> Any:
    """Empty the results and buffers of one object, and delete the record of its last forward pass."""
    mapping = registry.find(Encoder().value(part)) if not is_user_module(part) else None
    scratch = mapping.scratch if mapping else ()
    for name in {*RESULTS, *BUFFERS, *scratch} - {"_ones"}:  # Add does not create _ones again
        value = part._fields.get(name)
        if isinstance(value, Tensor):
            part._fields[name] = value.new_empty(0)
        elif isinstance(value, list):
            part._fields[name] = []
    part._call = part._graph = None
    return part
