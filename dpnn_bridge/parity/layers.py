"""Collect the results of every layer, in PyTorch and in Torch7."""

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
from dpnn_bridge.objects import LuaObject


@dataclass
class Node:
    """One module in the tree of a model.

    Attributes:
        path: its path as in Lua, such as ``modules[3].modules[1]``; empty for the model itself.
        depth: number of modules above it.
        module: the torch module.
    """

    path: str
    depth: int
    module: nn.Module


def tree(module: nn.Module, path: str = "", depth: int = 0, seen: set[int] | None = None) -> Iterator[Node]:
    """Yield every module that represents a Lua object, in the order of the file; one that occurs twice only once."""
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


@dataclass
class Calls:
    """The outputs of one module and the gradients of its input, one for each call.

    Attributes:
        outputs: results, detached.
        grad_inputs: gradients of the input, nested like it; None if there was none.
        last: counts finished calls of all modules: when this one's last call ended.
    """

    outputs: list[Any] = field(default_factory=list)
    grad_inputs: list[Any] = field(default_factory=list)
    last: int = 0


@dataclass
class Given:
    """Torch7's own results of a module, which take the place of ours for the modules behind and before it.

    Attributes:
        output: in place of what forward returns.
        grad_input: in place of the gradient that backward passes on.
    """

    output: Any = None
    grad_input: Any = None


@contextmanager
def recorded(
    model: nn.Module, *, gradients: bool = False, given: Mapping[int, Given] | None = None
) -> Iterator[dict[int, Calls]]:
    """Record the results of each module by ``id(module)``, inside the ``with`` block.

    Args:
        model: the model.
        gradients: record the gradients of the inputs as well.
        given: ``id(module)`` -> results that replace the recorded ones: each module then runs on Torch7's
            values, and an error in one of them does not reach the others.
    """
    calls: dict[int, Calls] = {}
    given = given or {}
    finished = 0

    def forwarded(module: nn.Module, _: Any, output: Any) -> Any:
        nonlocal finished
        finished += 1
        entry = calls.setdefault(id(module), Calls())
        entry.outputs.append(detached(output))
        entry.last = finished
        return replaced(output, given[id(module)].output) if id(module) in given else None

    def entered(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        grads: list[Any] = [None]
        calls.setdefault(id(module), Calls()).grad_inputs.append(grads)
        theirs = given[id(module)].grad_input if id(module) in given else None
        return (_watched(args[0], grads, 0, theirs), *args[1:]) if args else args

    with ExitStack() as stack:
        for node in tree(model):
            stack.callback(node.module.register_forward_hook(forwarded).remove)
            if gradients:
                stack.callback(node.module.register_forward_pre_hook(entered).remove)
        yield calls
    for entry in calls.values():
        entry.grad_inputs = [grads[0] for grads in entry.grad_inputs]


def _watched(value: Any, into: Any, key: Any, given: Any) -> Any:
    """Return ``value`` as new autograd nodes that store their gradients in ``into[key]`` and pass on ``given``."""
    if isinstance(value, Tensor):
        if not value.requires_grad:
            return value
        fresh = value.view_as(value)

        def arrived(grad: Tensor) -> Tensor | None:
            into[key] = grad.detach()
            return like(grad, given)

        fresh.register_hook(arrived)
        return fresh
    if isinstance(value, list):
        into[key] = [None] * len(value)
        parts = given if isinstance(given, list) and len(given) == len(value) else [None] * len(value)
        return [_watched(v, into[key], i, parts[i]) for i, v in enumerate(value)]
    if isinstance(value, dict):
        into[key] = dict.fromkeys(value)
        parts = given if isinstance(given, dict) else {}
        return {k: _watched(v, into[key], k, parts.get(k)) for k, v in value.items()}
    return value


@contextmanager
def ordered(model: nn.Module) -> Iterator[dict[int, int]]:
    """Record the order of calls: ``id(module)`` -> the number of its last call."""
    order: dict[int, int] = {}
    numbers = count(1)

    def forwarded(module: nn.Module, *_: Any) -> None:
        order[id(module)] = next(numbers)

    with ExitStack() as stack:
        for node in tree(model):
            stack.callback(node.module.register_forward_hook(forwarded).remove)
        yield order


# ---------------------------------------------------------------------- Torch7's side
def object_of(nodes: list[Node], obj: LuaObject) -> dict[int, LuaObject]:
    """Map ``id(module)`` to the object that holds its last results, in a Lua object such as ``after``."""
    from dpnn_bridge.conversion.noise import paired

    return {id(module): found for module, found in paired(nodes[0].module, obj, last_ran=True)}


def parameter_count(module: nn.Module) -> int:
    """Return the elements of a module's own parameters, without those of the modules in it."""
    inside = {id(p) for child in registry.mapping_of(module).children(module) for p in child.parameters()}
    return sum(p.numel() for p in module.parameters() if id(p) not in inside)


def decades(errors: Tensor) -> dict[int, int]:
    """Count relative differences in ``[10**k, 10**(k+1))``, by ``k``; exact equality is -99."""
    flat = errors.flatten().double()
    exact = flat == 0
    exponents = torch.log10(flat[~exact]).floor().clamp(-20, 2).to(torch.int64)
    values, counts = exponents.unique(return_counts=True)
    found = dict(zip(values.tolist(), counts.tolist(), strict=True))
    return {-99: int(exact.sum()), **found} if exact.any() else found
