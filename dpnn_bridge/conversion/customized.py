"""Detect customizations of a module that no file can store: hooks, replaced methods, changed settings."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from dpnn_bridge.conversion import registry
from dpnn_bridge.conversion.distributed import FSDP
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.parametrized import weight_hooks
from dpnn_bridge.conversion.stale import check_settings
from dpnn_bridge.conversion.storable import check_tensors
from dpnn_bridge.conversion.ties import plain_type
from dpnn_bridge.errors import ConversionError

#: attribute with the hooks of a module that change its results -> name for messages
_HOOKS = {
    "_forward_pre_hooks": "forward pre-hook",
    "_forward_hooks": "forward hook",
    "_backward_pre_hooks": "backward pre-hook",
    "_backward_hooks": "backward hook",
    "_state_dict_pre_hooks": "state_dict pre-hook",
    "_state_dict_hooks": "state_dict hook",
}
#: the same for hooks that change what is loaded; a .t7 file has no state_dict that could be loaded
_LOADING_HOOKS = {
    "_load_state_dict_pre_hooks": "load_state_dict pre-hook",
    "_load_state_dict_post_hooks": "load_state_dict hook",
}
#: attribute with the hooks of a parameter that change its gradient -> name for messages
_PARAMETER_HOOKS = {
    "_backward_hooks": "hook",
    "_post_accumulate_grad_hooks": "post-accumulate-grad hook",
}


def check_customized(
    root: nn.Module, kind: str, *, complete: bool = False, with_classes: bool = False, torch7: bool = False
) -> None:
    """Refuse a model whose modules compute something that their classes and settings do not determine.

    Hooks of PyTorch and of this package are accepted. Hooks that the constructor of a class adds are accepted too if
    the file contains or names that class, or if they change only what ``load_state_dict`` of that class loads.

    Args:
        root: the model.
        kind: type of the output for the message, such as ``"a .t7 file"``.
        complete: whether the output contains, for a layer that was created in PyTorch, the arguments of its
            constructor and no other attributes; then other attributes are refused too.
        with_classes: whether the output contains the source code of all classes. Otherwise it names only registered
            classes, and a subclass of a PyTorch layer is written as the layer.
        torch7: whether the output is a .t7 file, whose writer gathers distributed parameters.

    Raises:
        ConversionError: a method of a module was replaced, a module has a hook of another source, a PyTorch layer was
            changed after construction, or no file can store a tensor.
    """
    check_tensors(root, layers=True, gathers=torch7)
    hooks = _HOOKS if torch7 else _HOOKS | _LOADING_HOOKS
    for path, module in root.named_modules():
        if name := next(_replaced_methods(module), None):
            what = f"its {name} was replaced on the instance"
            advice = f"make a subclass with that {name} and register it with @lua_class, or delete the attribute"
        elif (found := next(_added_hooks(module, hooks, with_classes), None)) is not None:
            what = f"it has a {found}"
            advice = "remove the hook (handle.remove()) and put its computation into a module"
        else:
            by_arguments = complete and record_of(module) is None and not weight_hooks(module)
            written = written_as(module, torch7=torch7)
            if not with_classes or written is parametrize.type_before_parametrizations(module):
                check_settings(module, written, path, complete=by_arguments, sized=not with_classes)
            continue
        raise ConversionError(
            f"{what}, which {kind} cannot store; {advice}", path=path, class_name=type(module).__name__
        )


def written_as(module: nn.Module, *, torch7: bool) -> type[nn.Module]:
    """Return the class as which a module is written: the first of its base classes that is exported, or its own.

    Args:
        module: the module.
        torch7: whether the output is a .t7 file, which also contains compositions.
    """
    kind = plain_type(parametrize.type_before_parametrizations(module))
    if kind.__module__.startswith("torch.nn."):
        return kind
    found = (t for t in kind.__mro__ if registry.is_registered(t) or (torch7 and registry.composition_of(t)))
    return next(found, kind)


def _replaced_methods(module: nn.Module) -> Iterator[str]:
    """Yield the methods of a module that an attribute of the instance replaces.

    ``module.forward = torch.compile(module.forward)`` computes the same and is not yielded, nor is the ``forward`` of
    a result of ``torch.compile(module)``.
    """
    if "_orig_mod" in module._modules:
        return
    for name, value in vars(module).items():
        method = inspect.getattr_static(type(module), name, None) if callable(value) else None
        if not isinstance(method, FunctionType) or name == "extra_repr":
            continue
        while _defined_in(value).startswith("torch._dynamo."):  # a wrapper of torch.compile
            value = getattr(value, "__wrapped__", None)
        if value != method.__get__(module):
            yield name


def _added_hooks(module: nn.Module, hooks: dict[str, str], with_classes: bool) -> Iterator[str]:
    """Yield descriptions of the hooks on a module and on its parameters that the user added."""
    found = [(name, hook) for attribute, name in hooks.items() for hook in vars(module).get(attribute, {}).values()]
    for parameter, tensor in module._parameters.items():
        for attribute, name in _PARAMETER_HOOKS.items():
            added = (getattr(tensor, attribute, None) or {}).values()
            found += [(f"{name} on its parameter {parameter}", hook) for hook in added]
    for name, hook in found:
        of_class = getattr(hook, "__module__", None) == type(module).__module__ and _adds_hooks(type(module))
        stored = with_classes or registry.is_registered(type(module)) or name in _LOADING_HOOKS.values()
        if not _is_known(hook) and not (of_class and stored):
            yield f"{name} ({getattr(hook, '__qualname__', None) or type(hook).__qualname__})"


def _adds_hooks(kind: type[nn.Module]) -> bool:
    """Return whether a method of a class, or of a base class outside PyTorch, registers hooks."""
    own = [c for c in kind.__mro__ if not c.__module__.startswith("torch.")]
    functions = [inspect.unwrap(f) for c in own for f in vars(c).values() if isinstance(f, FunctionType)]
    for function in functions:  # grows by the functions of the same file that it calls
        names = set(_names(function.__code__))
        if any(name.lstrip("_").startswith("register_") and name.endswith("hook") for name in names):
            return True
        called = (function.__globals__.get(name) for name in names)
        functions += [
            f for f in called if isinstance(f, FunctionType) and f.__module__ == kind.__module__ and f not in functions
        ]
    return False


def _names(code: CodeType) -> Iterator[str]:
    """Yield the global names and attributes in the code of a function and of the functions inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _is_known(function: Any) -> bool:
    """Return whether a function, and every function that it wraps, is defined in PyTorch or in this package."""
    while function is not None:
        if _defined_in(function).partition(".")[0] not in ("torch", "dpnn_bridge"):
            return False
        function = getattr(function, "__wrapped__", None)
    return True


def _defined_in(function: Any) -> str:
    """Return the module with the code of a function; ``functools.wraps`` changes its ``__module__``."""
    code = getattr(function, "__func__", function)
    defining = code.__globals__.get("__name__") if isinstance(code, FunctionType) else None
    return defining or getattr(code, "__module__", None) or type(code).__module__


def overridden(module: nn.Module, types: tuple[type[nn.Module], ...]) -> type[nn.Module] | None:
    """Return the base class in ``types``, as which a module is written, if the module may compute other results.

    A subclass may compute other results if it overrides ``forward``, a method that ``forward`` calls, or makes an
    attribute that ``forward`` reads a property.

    Returns:
        The base class, or None if the module computes what the base class computes.
    """
    kind = plain_type(parametrize.type_before_parametrizations(module))
    base = next((t for t in kind.__mro__ if t in types), None)
    if base is None or base is kind:
        return None
    methods, names = _used(base)
    found = ((name, getattr(kind, name, None)) for name in methods | names)
    changed = [n for n, own in found if own is not getattr(base, n, None) and not _defined_in(own).startswith(FSDP)]
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
