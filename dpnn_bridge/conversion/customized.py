"""Detect customizations of a module that no file can store: hooks, a replaced ``forward``, changed settings."""

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
    """Refuse a model whose modules compute something that their classes and settings do not determine.

    Hooks of PyTorch and of this package are accepted. Hooks that are defined in the source file of the module's class
    are accepted too, because the constructor adds them again.

    Args:
        root: the model.
        kind: type of the output for the message, such as ``"a .t7 file"``.
        complete: whether the output contains, for a layer that was created in PyTorch, the arguments of its
            constructor and no other attributes; then other attributes are refused too.

    Raises:
        ConversionError: the ``forward`` of a module was replaced, a module has a hook of another source, a PyTorch
            layer was changed after construction, or no file can store a tensor.
    """
    check_tensors(root, layers=True)
    for path, module in root.named_modules():
        if not _is_known(vars(module).get("forward", nn.Module.forward)):
            what = "its forward was replaced on the instance"
            advice = "make a subclass with that forward and register it with @lua_class, or delete the attribute"
        elif (found := next(_added_hooks(module), None)) is not None:
            what = f"it has a {found}"
            advice = "remove the hook (handle.remove()) and put its computation into a module"
        else:
            by_arguments = complete and record_of(module) is None and not weight_hooks(module)
            check_settings(module, path, complete=by_arguments)
            continue
        raise ConversionError(
            f"{what}, which {kind} cannot store; {advice}", path=path, class_name=type(module).__name__
        )


def _added_hooks(module: nn.Module) -> Iterator[str]:
    """Yield descriptions of the hooks on a module and on its parameters that the user added."""
    found = [(name, hook) for attribute, name in _HOOKS.items() for hook in vars(module)[attribute].values()]
    for parameter, tensor in module._parameters.items():
        for attribute, name in _PARAMETER_HOOKS.items():
            hooks = (getattr(tensor, attribute, None) or {}).values()
            found += [(f"{name} on its parameter {parameter}", hook) for hook in hooks]
    for name, hook in found:
        if not _is_known(hook) and getattr(hook, "__module__", None) != type(module).__module__:
            yield f"{name} ({getattr(hook, '__qualname__', None) or type(hook).__qualname__})"


def _is_known(function: object) -> bool:
    """Return whether a function is defined in PyTorch or in this package."""
    module = str(getattr(function, "__module__", None) or type(function).__module__)
    return module.partition(".")[0] in ("torch", "dpnn_bridge")


def overridden(module: nn.Module, types: tuple[type[nn.Module], ...]) -> type[nn.Module] | None:
    """Return the base class in ``types``, as which a module is written, if the module may compute other results.

    A subclass may compute other results if it overrides ``forward``, a method that ``forward`` calls, or makes an
    attribute that ``forward`` reads a property.

    Returns:
        The base class, or None if the module computes what the base class computes.
    """
    kind = parametrize.type_before_parametrizations(module)
    base = next((t for t in kind.__mro__ if t in types), None)
    if base is None or base is kind:
        return None
    methods, names = _used(base)
    changed = [name for name in methods | names if getattr(kind, name, None) is not getattr(base, name, None)]
    return base if any(name in methods or inspect.isdatadescriptor(getattr(kind, name)) for name in changed) else None


def _used(base: type[nn.Module]) -> tuple[set[str], set[str]]:
    """Return the methods of a class that run in a forward pass, and all names of methods and attributes they use."""
    methods, names, queue = {"__getattribute__"}, set[str](), ["forward", "__call__", "__iter__", "__getattr__"]
    while queue:
        name = queue.pop()
        method = inspect.unwrap(getattr(base, name, None))  # type: ignore[arg-type]
        if name not in names and isinstance(method, FunctionType):
            methods.add(name)
            queue += method.__code__.co_names
        names.add(name)
    return methods, names
