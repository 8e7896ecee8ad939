"""Find the layer in which a model failed, from the traceback of the error. Stock modules need no hooks for that."""

from __future__ import annotations

import inspect
from contextlib import suppress
from typing import Any

from torch import Tensor, nn

from dpnn_bridge.base.display import shortened
from dpnn_bridge.compare.nested import sizes_text
from dpnn_bridge.conversion.places import lua_paths


def failure_reason(error: BaseException) -> str:
    """Return the layer that raised an error, the sizes of its input, and the first line of the error.

    Returns:
        Text such as ``modules[1], Conv2d(3, 24, kernel_size=(3, 3)), got 1x4x32x32: Given groups=1, weight of size …``;
        the first line alone if no layer inside the model raised the error. If the layer takes a list and got a tensor,
        the text says so instead.
    """
    message = shortened(str(error).strip().split("\n", 1)[0], 500) or type(error).__name__
    calls = _calls(error)
    if not calls:
        return message
    (model, _), (layer, args) = calls[0], calls[-1]
    if takes_list(layer) and args and isinstance(args[0], Tensor):
        message = "it takes a list of inputs; repeat --input, or give a file that contains a list"
    elif len(calls) < 2:
        return message
    own = shortened(" ".join(repr(layer).split()), 120)
    sizes = shortened(sizes_text(list(args)), 120)
    where = ", ".join(filter(None, (_path(layer, model), own)))
    return f"{where}, got {sizes or 'no tensor'}: {message}"


def takes_list(module: nn.Module) -> bool:
    """Return whether the first argument of a module's ``forward`` is annotated as a list."""
    parameters = [*inspect.signature(module.forward).parameters.values()]
    return bool(parameters) and str(parameters[0].annotation).startswith("list")


def _calls(error: BaseException) -> list[tuple[nn.Module, tuple[Any, ...]]]:
    """Return the calls of modules in the traceback, the call of the model first, each as the module and its inputs."""
    found: list[tuple[nn.Module, tuple[Any, ...]]] = []
    inside: set[int] = set()
    traceback = error.__traceback__
    while traceback is not None:
        values = traceback.tb_frame.f_locals
        module = values.get("self") if traceback.tb_frame.f_code.co_name == "_call_impl" else None
        if isinstance(module, nn.Module):
            inside = inside or {id(m) for m in module.modules()}
            found += [(module, values.get("args", ()))] if id(module) in inside else []
        traceback = traceback.tb_next
    return found


def _path(layer: nn.Module, model: nn.Module) -> str:
    """Return the path of a layer in Lua, or in PyTorch if the model has no Lua class; empty for the model itself."""
    with suppress(Exception):
        return next(path for path, module in lua_paths(model) if module is layer)
    return next(name for name, module in model.named_modules() if module is layer)
