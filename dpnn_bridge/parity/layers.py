"""Traverse the layers of a model and record their results, in PyTorch and in Torch7."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.compare.nested import detached, like, replaced
from dpnn_bridge.conversion import registry
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.objects import LuaObject

#: layers that return their input or a view of it in PyTorch, and a copy in Torch7; others return the same in both
_COPIES = frozenset(
    f"nn.{name}"
    for name in (
        *("Balance", "CAddTable", "CMaxTable", "CMinTable", "CMulTable", "ChannelDropout", "Dropout"),
        *("InstanceNormalization", "Narrow", "PCAColorTransform", "Repeater", "Select", "SimpleColorTransform"),
        *("SpatialRegionDropout", "SpatialUniformCrop", "TotalDropout", "Transpose", "WhiteNoise"),
    )
) | {"fbnn.NestedDropout", "onmt.VariationalDropout", "w2nn.ShakeShakeTable"}


@dataclass
class Node:
    """One module in the tree of a model.

    Attributes:
        path: path of the module in Lua, such as ``modules[3].modules[1]``; empty for the model itself.
        depth: number of modules around the module.
        module: the PyTorch module.
    """

    path: str
    depth: int
    module: nn.Module


def tree(module: nn.Module, path: str = "", depth: int = 0, seen: set[int] | None = None) -> Iterator[Node]:
    """Yield every module that represents a Lua object, in the order of the file.

    A module that occurs twice is yielded once.

    Args:
        module: the model.
        path, depth: path and depth of ``module``.
        seen: ids of the modules that were yielded.
    """
    seen = set() if seen is None else seen
    if id(module) in seen:
        return
    seen.add(id(module))
    yield Node(path, depth, module)
    mapping = registry.mapping_of(module)
    prefix = f"{path}." if path else ""
    for name, attribute in mapping.members.items():
        if isinstance(member := getattr(module, attribute, None), nn.Module):
            yield from tree(member, f"{prefix}{name}", depth + 1, seen)
    for i, child in enumerate(mapping.children(module), 1):
        yield from tree(child, f"{prefix}modules[{i}]", depth + 1, seen)


#: containers that pass the gradients of their layers on as they are
_PLAIN = frozenset(("nn.Sequential", "nn.ConcatTable", "nn.ParallelTable", "nn.Concat", "nn.DepthConcat", "nn.gModule"))


def in_plain_containers(nodes: list[Node]) -> set[int]:
    """Return the numbers of the layers for which all modules around them pass gradients on as they are."""
    found, around = set(), []
    for i, node in enumerate(nodes):
        del around[node.depth :]
        if all(around):
            found.add(i)
        around.append(lua_name(node.module) in _PLAIN)
    return found


#: criterions that compute their gradient in Torch7 from the input and the target alone
_KEEP_NOTHING = frozenset(
    f"nn.{name}Criterion"
    for name in (
        *("Abs", "BCE", "DistKLDiv", "HingeEmbedding", "L1HingeEmbedding", "Margin", "MarginRanking", "MSE"),
        *("MultiMargin", "SmoothL1", "SoftMargin", "WeightedMSE"),
    )
)


def repeated_modules(model: nn.Module) -> list[nn.Module]:
    """Return the modules that represent one Lua object in several places of a model, where later uses matter.

    They do not matter for criterions whose container reads each gradient at once: those that compute it from the input
    and the target alone, and those in one ``nn.MultiCriterion``, where all uses have the same input and target.
    """
    children: dict[int, nn.Module] = {}
    containers: dict[int, list[nn.Module]] = {}
    for node in tree(model):
        for child in registry.mapping_of(node.module).children(node.module):
            children[id(child)] = child
            containers.setdefault(id(child), []).append(node.module)
    several = [(child, containers[number]) for number, child in children.items() if containers[number][1:]]
    return [child for child, places in several if not (_is_criterion_of_one(places) or _keeps_nothing(child))]


def _is_criterion_of_one(containers: list[nn.Module]) -> bool:
    return len(set(map(id, containers))) == 1 and lua_name(containers[0]) == "nn.MultiCriterion"


def _keeps_nothing(module: nn.Module) -> bool:
    """Return whether a criterion computes its gradient in Torch7 from its input and target alone."""
    name = lua_name(module)
    if name in ("nn.MultiCriterion", "nn.ParallelCriterion"):
        return all(map(_keeps_nothing, registry.mapping_of(module).children(module)))
    return name in _KEEP_NOTHING


def lua_name(module: nn.Module) -> str:
    """Return the Lua class of a module; empty if the module represents no Lua object."""
    record, mapping = record_of(module), registry.mapping_of(module)
    if record is not None:
        return record.class_name
    return mapping.name_of(module) if mapping.names else ""


def is_inplace(module: nn.Module) -> bool:
    """Return whether a module computes in place in Torch7."""
    record = record_of(module)
    return bool(getattr(module, "inplace", False) or (record is not None and record.fields.get("inplace")))


def copies_input(module: nn.Module) -> bool:
    """Return whether a layer copies in Torch7 where it returns its input or a view of it in PyTorch."""
    name = lua_name(module)
    if name == "nn.Convert":  # it flattens with a view, and permutes and selects with layers that copy
        source, target = str(module.input_shape), str(module.output_shape)
        return source != target and not (source.startswith("b") and target in ("bf", "bt"))
    if name == "nn.Copy":
        return not module._shares
    if name == "nn.DontCast":
        return bool(module.castout)
    return name in _COPIES or (name == "nn.Sequencer" and not module.training)


@dataclass
class Calls:
    """The results of all calls of a module.

    Attributes:
        outputs: outputs, detached.
        grad_inputs: gradients of the inputs, nested like the inputs; None without a gradient.
        last: position of the last call in the order in which calls of all modules ended.
    """

    outputs: list[Any] = field(default_factory=list)
    grad_inputs: list[Any] = field(default_factory=list)
    last: int = 0


@dataclass
class Given:
    """Torch7's results of a module, which replace the module's results for the other modules.

    Attributes:
        output: value that replaces the output; None to keep the output.
        grad_input: value that replaces the gradient of the input; None to keep the gradient.
    """

    output: Any = None
    grad_input: Any = None


@contextmanager
def recorded(
    model: nn.Module, *, gradients: bool = False, given: Mapping[int, Given] | None = None
) -> Iterator[dict[int, Calls]]:
    """Record the results of each module inside the ``with`` block: ``id(module)`` -> :class:`Calls`.

    Args:
        model: the model.
        gradients: whether to record the gradients of the inputs too.
        given: ``id(module)`` -> results that replace the module's results after they are recorded. So each module runs
            on Torch7's values, and an error of one module does not affect the others.
    """
    calls: dict[int, Calls] = {}
    given = given or {}
    finished = 0

    def after_forward(module: nn.Module, _: Any, output: Any) -> Any:
        nonlocal finished
        finished += 1
        entry = calls.setdefault(id(module), Calls())
        entry.outputs.append(detached(output))
        entry.last = finished
        return replaced(output, given[id(module)].output) if id(module) in given else None

    def before_forward(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        grads: list[Any] = [None]
        calls.setdefault(id(module), Calls()).grad_inputs.append(grads)
        replacement = given[id(module)].grad_input if id(module) in given else None
        return (_recording_gradients(args[0], grads, 0, replacement), *args[1:]) if args else args

    with ExitStack() as stack:
        for node in tree(model):
            stack.callback(node.module.register_forward_hook(after_forward).remove)
            if gradients:
                stack.callback(node.module.register_forward_pre_hook(before_forward).remove)
        yield calls
    for entry in calls.values():
        entry.grad_inputs = [grads[0] for grads in entry.grad_inputs]


def _recording_gradients(value: Any, grads: Any, key: Any, given: Any) -> Any:
    """Return a nested value whose tensors are views with hooks on their gradients.

    Args:
        value: the nested value.
        grads, key: the hooks store the gradients in ``grads[key]``, nested like ``value``.
        given: gradients that the hooks return instead; None to keep the gradients.
    """
    if isinstance(value, Tensor):
        if not value.requires_grad:
            return value
        view = value.view_as(value)

        def hook(grad: Tensor | None) -> Tensor | None:
            if grad is None:  # of a layer in Lua without updateGradInput
                return None
            grads[key] = grad.detach()
            return like(grad, given)

        view.register_hook(hook)
        return view
    if isinstance(value, list):
        grads[key] = [None] * len(value)
        parts = given if isinstance(given, list) and len(given) == len(value) else [None] * len(value)
        return [_recording_gradients(v, grads[key], i, parts[i]) for i, v in enumerate(value)]
    if isinstance(value, dict):
        grads[key] = dict.fromkeys(value)
        parts = given if isinstance(given, dict) else {}
        return {k: _recording_gradients(v, grads[key], k, parts.get(k)) for k, v in value.items()}
    return value


@contextmanager
def ordered(model: nn.Module) -> Iterator[dict[int, int]]:
    """Record the order in which calls end: ``id(module)`` -> position of its last call."""
    order: dict[int, int] = {}
    positions = count(1)

    def after_forward(module: nn.Module, *_: Any) -> None:
        order[id(module)] = next(positions)

    with ExitStack() as stack:
        for node in tree(model):
            stack.callback(node.module.register_forward_hook(after_forward).remove)
        yield order


# ---------------------------------------------------------------------- Torch7
def object_of(nodes: list[Node], obj: LuaObject) -> dict[int, LuaObject]:
    """Return ``id(module)`` -> Lua object that contains the last results of the module.

    Args:
        nodes: the tree of the model.
        obj: the Lua object of the model after its run.
    """
    from dpnn_bridge.conversion.noise import paired

    return {id(module): found for module, found in paired(nodes[0].module, obj, last_ran=True)}


def parameter_count(module: nn.Module) -> int:
    """Return the number of elements of a module's parameters, without the parameters of its submodules."""
    inside = {id(p) for child in registry.mapping_of(module).children(module) for p in child.parameters()}
    return sum(p.numel() for p in module.parameters() if id(p) not in inside)


#: key of the elements without a difference in the result of :func:`decades`
EQUAL = -99


def decades(errors: Tensor) -> dict[int, int]:
    """Count the relative differences in ``[10**k, 10**(k+1))`` for each ``k``; differences of 0 under :data:`EQUAL`."""
    flat = errors.flatten().double()
    exact = flat == 0
    exponents = torch.log10(flat[~exact]).floor().clamp(-20, 2).to(torch.int64)
    values, counts = exponents.unique(return_counts=True)
    found = dict(zip(values.tolist(), counts.tolist(), strict=True))
    return {EQUAL: int(exact.sum()), **found} if exact.any() else found
