"""Note in-place layers that, in Torch7, overwrite the gradient of other branches of a sum.

:mod:`dpnn_bridge.conversion.overwriting` finds those that overwrite values of the forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from dpnn_bridge.conversion.contexts import TorchContext
from dpnn_bridge.conversion.memory import Memory, TooManyStepsError, Trace, modules_of
from dpnn_bridge.objects import LuaObject, LuaTable

#: in-place layers that return the gradient as it is
_SAME_GRADIENT = ("nn.AddConstant", "nn.CAddTable")

#: maximum number of layers named in one note
_MAX_NAMES = 5
#: maximum number of consecutive layers that are examined
_MAX_CHAIN = 64


def _parts(obj: Any) -> Iterator[Any]:
    """Yield a module, or the modules in its nested sequences in their order; None after too many."""
    queue = [obj]
    for _ in range(_MAX_CHAIN):
        if not queue:
            return
        part = queue.pop()
        if isinstance(part, LuaObject) and part.class_name == "nn.Sequential" and _has_modules(part):
            queue += [part["modules"].get(n) for n in range(_MAX_CHAIN, 0, -1) if n in part["modules"]]
        else:
            yield part
    yield None


def _has_modules(obj: LuaObject) -> bool:
    return isinstance(obj.get("modules"), LuaTable)


def note_shortcuts(obj: LuaObject, ctx: TorchContext) -> None:
    """Add a note about in-place sums of branches.

    Backward, they give all branches one tensor, which an in-place layer at the end of a branch overwrites before the
    next branches read it.
    """
    last = []
    for (number, table), (_, layer) in pairwise(modules_of(obj)):
        total = next(_parts(layer), None)
        if not isinstance(total, LuaObject) or total.class_name != "nn.CAddTable" or not total.get("inplace"):
            continue
        if isinstance(table, LuaObject) and table.class_name == "nn.ConcatTable":
            ends = [(f"modules[{number}].modules[{i}]", _last(branch)) for i, branch in modules_of(table)]
            last += [f"{path} ({end.class_name})" for path, end in ends[:-1] if end is not None]
    if last:
        ctx.note(
            "in Torch7, the in-place layers at the end of these branches overwrite the gradient of the next branches: "
            f"{', '.join(last[:_MAX_NAMES] + ['…'] * (len(last) > _MAX_NAMES))}. Gradients may differ from Torch7's"
        )


def _last(branch: Any) -> LuaObject | None:
    """Return the last layer inside a branch if it overwrites its gradient in place, else None."""
    for part in reversed([*_parts(branch)]):
        trace = Trace(_MAX_CHAIN)
        given = trace.new()
        try:
            output = trace.run(part, given)
        except TooManyStepsError:
            return None
        if not isinstance(output, Memory) or output.origin != given.origin:
            return None
        if output.version is not None:
            layer = trace.overwritten[-1].layer
            return None if layer is None or layer.class_name in _SAME_GRADIENT else layer
    return None
