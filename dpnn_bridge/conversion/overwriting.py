"""Note the in-place layers that, in Torch7, overwrite a value that other layers also read.

An example is an in-place ReLU in one of two branches. By default, converted modules do not work in place, so their
results differ from Torch7's in this case.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, takewhile

from torch import nn

from dpnn_bridge.base.display import shortened
from dpnn_bridge.base.graph import format_path
from dpnn_bridge.conversion.contexts import TorchContext
from dpnn_bridge.conversion.memory import Path, TooManyStepsError, Trace
from dpnn_bridge.objects import LuaObject

#: maximum number of layers named in one note
_MAX_NAMES = 5


def note_overwriting(model: LuaObject, ctx: TorchContext, converted: Callable[[LuaObject], nn.Module | None]) -> None:
    """Add a note for each container in which a layer overwrites a value that another layer of the container reads.

    Args:
        model: a Lua module.
        ctx: context of the conversion, after the conversion of the module.
        converted: function that returns the module to which a Lua module was converted, or None.
    """
    found: dict[Path, dict[Path, nn.Module | None]] = {}
    names: dict[Path, str] = {}
    trace = Trace()
    try:
        trace.run_model(model)
        for access, other in trace.conflicts():
            layer = None if access.layer is None else converted(access.layer)
            if access.layer is not None and layer is not None:
                found.setdefault(_common(access.path, other.path), {})[access.path] = layer
                names[access.path] = access.layer.class_name
    except TooManyStepsError:
        pass
    for container, layers in found.items():
        follow = {path: hasattr(layer, "inplace") for path, layer in layers.items()}  # the option
        paths = [path for path in layers if not (ctx.options.inplace and follow[path])]
        texts = [f"{_text(path[len(container) :])} ({names[path]})" for path in paths]
        if texts:
            ctx.report.note(
                f"{_text(container, ctx.path) or 'root'}: in Torch7, these in-place layers overwrite values that other "
                f"layers also read: {', '.join(texts[:_MAX_NAMES] + ['…'] * (len(texts) > _MAX_NAMES))}. Outputs and "
                "gradients may differ from Torch7's"
                + ("; with inplace=True they overwrite them in PyTorch, too" if all(map(follow.get, paths)) else "")
            )


def _common(first: Path, second: Path) -> Path:
    """Return the path of the innermost module that contains two modules, and is not the first of them."""
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(first[:-1], second, strict=False))
    return tuple(step for step, _ in pairs)


def _text(path: Path, root: str = "") -> str:
    return format_path([shortened(k) if isinstance(k, str) else k for k in chain.from_iterable(path)], root)
