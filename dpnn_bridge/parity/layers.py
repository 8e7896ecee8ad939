"""What every layer of a model computed, ours and Torch7's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.compare.nested import detached
from dpnn_bridge.conversion import registry
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor


@dataclass
class Node:
    """One module in the tree of a model.

    Attributes:
        path: its place as in Lua, such as ``modules[3].modules[1]``; empty for the model itself.
        depth: number of modules above it.
        module: the torch module.
    """

    path: str
    depth: int
    module: nn.Module


def tree(module: nn.Module, path: str = "", depth: int = 0, seen: set[int] | None = None) -> Iterator[Node]:
    """Every module that stands for a Lua object, in the order of the file; one that occurs twice only once."""
    seen = set() if seen is None else seen
    if id(module) in seen:
        return
    seen.add(id(module))
    yield Node(path, depth, module)
    spec = registry.spec_of(module)
    prefix = f"{path}." if path else ""
    for name, attribute in spec.members.items():
        if isinstance(member := getattr(module, attribute, None), nn.Module):
            yield from tree(member, f"{prefix}{name}", depth + 1, seen)
    for i, child in enumerate(spec.children(module), 1):
        yield from tree(child, f"{prefix}modules[{i}]", depth + 1, seen)


@dataclass
class Calls:
    """What one module returned and which gradient its input received, once for each call.

    Attributes:
        outputs: results, detached.
        grad_inputs: gradients of the input, nested like it; None where there was none.
        last: counts finished calls of all modules: when this one's last call ended.
    """

    outputs: list[Any] = field(default_factory=list)
    grad_inputs: list[Any] = field(default_factory=list)
    last: int = 0


@contextmanager
def recorded(model: nn.Module, *, gradients: bool = False) -> Iterator[dict[int, Calls]]:
    """While the block runs, records what each module of a model computes, by ``id(module)``.

    Args:
        model: the model.
        gradients: record the gradients of the inputs as well.
    """
    calls: dict[int, Calls] = {}
    finished = 0

    def forwarded(module: nn.Module, _: Any, output: Any) -> None:
        nonlocal finished
        finished += 1
        entry = calls.setdefault(id(module), Calls())
        entry.outputs.append(detached(output))
        entry.last = finished

    def entered(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        grads: list[Any] = [None]
        calls.setdefault(id(module), Calls()).grad_inputs.append(grads)
        return (_watched(args[0], grads, 0), *args[1:]) if args else args

    with ExitStack() as stack:
        for node in tree(model):
            stack.callback(node.module.register_forward_hook(forwarded).remove)
            if gradients:
                stack.callback(node.module.register_forward_pre_hook(entered).remove)
        yield calls
    for entry in calls.values():
        entry.grad_inputs = [grads[0] for grads in entry.grad_inputs]


def _watched(value: Any, into: Any, key: Any) -> Any:
    """``value`` as fresh nodes of the autograd graph whose gradients arrive in ``into[key]``."""
    if isinstance(value, Tensor):
        if not value.requires_grad:
            return value
        fresh = value.view_as(value)
        fresh.register_hook(lambda grad: into.__setitem__(key, grad.detach()))
        return fresh
    if isinstance(value, list):
        into[key] = [None] * len(value)
        return [_watched(v, into[key], i) for i, v in enumerate(value)]
    if isinstance(value, dict):
        into[key] = dict.fromkeys(value)
        return {k: _watched(v, into[key], k) for k, v in value.items()}
    return value


# ---------------------------------------------------------------------- Torch7's side
def is_filled(value: Any) -> bool:
    """Whether a result field of a Lua module holds something: a tensor with elements, a number, a table of them.

    The number 0 is what a criterion holds that has not run, or that does not keep its loss.
    """
    if isinstance(value, LuaTensor):
        return value.size > 0
    if isinstance(value, LuaTable):
        return len(value) > 0 and all(is_filled(v) for v in value.values())
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value != 0


def is_restored(obj: LuaObject) -> bool:
    """Whether backward undoes what forward wrote: some classes that compute in place restore their input."""
    return obj.class_name in ("nn.AddConstant", "nn.MulConstant") and bool(obj.get("inplace"))


def storages(value: Any) -> set[int]:
    """Identities of the storages that a Lua value's tensors are in."""
    if isinstance(value, LuaTensor):
        return {id(value.storage)} if value.storage is not None else set()
    if isinstance(value, LuaTable):
        return {s for v in value.values() for s in storages(v)}
    return set()


def object_of(nodes: list[Node], obj: LuaObject) -> dict[int, LuaObject]:
    """``id(module)`` -> its object in another Lua object of the same structure, such as a fixture's ``after``."""
    from dpnn_bridge.conversion.noise import paired

    return {id(module): found for module, found in paired(nodes[0].module, obj)}


def parameter_count(module: nn.Module) -> int:
    """Elements of a module's own parameters, without those of the modules in it."""
    inside = {id(p) for child in registry.spec_of(module).children(module) for p in child.parameters()}
    return sum(p.numel() for p in module.parameters() if id(p) not in inside)


def decades(errors: Tensor) -> dict[int, int]:
    """How many relative differences lie in ``[10**k, 10**(k+1))``, by ``k``; exact equality counts under -99."""
    flat = errors.flatten().double()
    exact = flat == 0
    exponents = torch.log10(flat[~exact]).floor().clamp(-20, 2).to(torch.int64)
    values, counts = exponents.unique(return_counts=True)
    found = dict(zip(values.tolist(), counts.tolist(), strict=True))
    return {-99: int(exact.sum()), **found} if exact.any() else found
