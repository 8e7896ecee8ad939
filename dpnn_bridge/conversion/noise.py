"""Make random modules use the random numbers that Torch7 stored in its modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from dpnn_bridge.conversion import registry
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor


@contextmanager
def replayed(module: nn.Module, after: Any) -> Iterator[None]:
    """Make random modules use the random numbers in ``after`` inside the ``with`` block.

    Args:
        module: the converted module.
        after: the Lua object of the module after its forward pass, or None.
    """
    with ExitStack() as stack:
        if isinstance(after, LuaObject):
            for child, forward in _replays(module, after):
                stack.enter_context(forward_replaced(child, forward))
        yield


def has_noise(module: nn.Module, after: Any) -> bool:
    """Return whether ``after`` contains the random numbers of at least one module."""
    return isinstance(after, LuaObject) and any(True for _ in _replays(module, after))


def noisy_modules(module: nn.Module, after: Any) -> set[int]:
    """Return the ``id`` of each module whose random numbers ``after`` contains."""
    return {id(child) for child, _ in _replays(module, after)} if isinstance(after, LuaObject) else set()


def _replays(module: nn.Module, after: LuaObject) -> Iterator[tuple[nn.Module, Callable[..., Any]]]:
    """Yield each module with its forward function that uses the random numbers in ``after``."""
    incomplete: set[int] = set()
    for child, obj in paired(module, after):
        forward = registry.mapping_of(child).replay(child, obj) if id(child) not in incomplete else None
        if forward is NotImplemented:  # the modules inside ran several times, and store the numbers of one call
            incomplete |= {id(m) for m in child.modules()}
        elif forward is not None:
            yield child, forward


def paired(module: nn.Module, obj: LuaObject, *, last_ran: bool = False) -> Iterator[tuple[nn.Module, LuaObject]]:
    """Yield a module and all its submodules, each with its object in a Lua object of the same structure.

    Args:
        module: the module.
        obj: the Lua object of the module.
        last_ran: whether to use, of the clones for each time step, the clone that ran last, with the last results.
    """
    yield module, obj
    mapping = registry.mapping_of(module)
    if last_ran and (ran := mapping.last_ran(module, obj)) is not None:
        for child, child_obj in ran:
            yield from paired(child, child_obj, last_ran=True)
        return
    table = obj.get("modules")
    if not isinstance(table, LuaTable):
        for name, attribute in mapping.members.items():
            if isinstance(member := obj.get(name), LuaObject):
                yield from paired(getattr(module, attribute), member, last_ran=last_ran)
        return
    children = mapping.children(module)
    objects = [o for o in table.as_list() if isinstance(o, LuaObject)]
    if len(children) == len(objects):
        for child, child_obj in zip(children, objects, strict=True):
            yield from paired(child, child_obj, last_ran=last_ran)


@contextmanager
def forward_replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Replace the forward function of a module inside the ``with`` block."""
    before = module.__dict__.get("forward")  # already replaced while a recurrent module replays a time step
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before


def noise_of(obj: LuaObject, name: str, like: Tensor) -> Tensor:
    """Return the random tensor in a field, with the device and dtype of ``like``."""
    value = obj.get(name)
    if not isinstance(value, LuaTensor):
        found = type(value).__name__
        raise ConversionError(f"expected a tensor in field {name!r}, found {found}", class_name=obj.class_name)
    return value.torch().to(like.device, like.dtype)
