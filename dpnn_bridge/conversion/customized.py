"""Detect what no file can store of a module: hooks, a replaced ``forward``, and stale settings."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import FunctionType

from torch import nn
from torch.nn.utils import parametrize

from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.parametrized import weight_hooks
from dpnn_bridge.conversion.stale import check_settings
from dpnn_bridge.conversion.storable import check_tensors
from dpnn_bridge.errors import ConversionError

#: attribute with the hooks of a module that change its results -> name for messages
_HOOKS = {
    "_forward_pre_hooks": "forward pre-hook",
    "_forward_hooks": "forward hook",
    "_backward_pre_hooks": "backward pre-hook",
    "_backward_hooks": "backward hook",
}
#: attribute with the hooks of a parameter that change its gradient -> name for messages
_PARAMETER_HOOKS = {
    "_backward_hooks": "hook",
    "_post_accumulate_grad_hooks": "post-accumulate-grad hook",
}


def check_customized(root: nn.Module, kind: str, *, complete: bool = False) -> None:
    """Refuse a model whose modules compute more than their classes and settings say.

    Args:
        root: The model.
        kind: What is written, for the message, such as ``"a .t7 file"``.
        complete: It has the constructor's arguments of a layer that was created in PyTorch, and no other attributes.

    Raises:
        ConversionError: A module has a ``forward`` of its own, or a hook that is neither PyTorch's nor this package's
            nor from the file of the module's class, whose constructor adds it again; a layer of PyTorch was changed
            after construction, so that its settings do not describe it; or no file can store its tensors.
    """
    check_tensors(root, layers=True)
    for path, module in root.named_modules():
        if not _ours(vars(module).get("forward", nn.Module.forward)):
            what = "its forward was replaced on the instance"
            advice = "make a subclass with that forward and register it with @lua_class, or delete the attribute"
        elif (found := next(_foreign(module), None)) is not None:
            what = f"it has a {found}"
            advice = "remove it (handle.remove()) and let a module compute what it adds"
        else:
            by_arguments = complete and record_of(module) is None and not weight_hooks(module)
            check_settings(module, path, complete=by_arguments)
            continue
        raise ConversionError(
            f"{what}, which {kind} cannot hold; {advice}", path=path, class_name=type(module).__name__
        )


def _foreign(module: nn.Module) -> Iterator[str]:
    """Yield the names of the hooks of a module and of its parameters that no class registers."""
    found = [(name, hook) for kept, name in _HOOKS.items() for hook in vars(module)[kept].values()]
    for parameter, tensor in module._parameters.items():
        for kept, name in _PARAMETER_HOOKS.items():
            found += [(f"{name} on its {parameter}", hook) for hook in (getattr(tensor, kept, None) or {}).values()]
    for name, hook in found:
        if not _ours(hook) and getattr(hook, "__module__", None) != type(module).__module__:
            yield f"{name} ({getattr(hook, '__qualname__', None) or type(hook).__qualname__})"


def _ours(function: object) -> bool:
    """Return whether a function is PyTorch's or this package's."""
    place = str(getattr(function, "__module__", None) or type(function).__module__)
    return place.partition(".")[0] in ("torch", "dpnn_bridge")


def overridden(module: nn.Module, types: tuple[type[nn.Module], ...]) -> type[nn.Module] | None:
    """Return the class in ``types`` that a module is written as, where the module's own class computes something else.

    That is: it replaces ``forward``, a method that the forward of the class calls, or an attribute that it reads.
    """
    kind = parametrize.type_before_parametrizations(module)
    base = next((t for t in kind.__mro__ if t in types), None)
    if base is None or base is kind:
        return None
    methods, names = _used(base)
    changed = [name for name in methods | names if getattr(kind, name, None) is not getattr(base, name, None)]
    return base if any(name in methods or inspect.isdatadescriptor(getattr(kind, name)) for name in changed) else None


def _used(base: type[nn.Module]) -> tuple[set[str], set[str]]:
    """Return the methods of a class that run in a forward pass, and all names that they use, among them attributes."""
    methods, names, queue = {"__getattribute__"}, set[str](), ["forward", "__call__", "__iter__", "__getattr__"]
    while queue:
        name = queue.pop()
        method = inspect.unwrap(getattr(base, name, None))  # type: ignore[arg-type]
        if name not in names and isinstance(method, FunctionType):
            methods.add(name)
            queue += method.__code__.co_names
        names.add(name)
    return methods, names
