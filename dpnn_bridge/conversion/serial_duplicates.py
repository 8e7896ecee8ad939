"""Merge the duplicate modules in graphs that were saved by ``nn.Serial``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dpnn_bridge.conversion.lua_class import TRANSIENT
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor

if TYPE_CHECKING:
    from dpnn_bridge.conversion.contexts import TorchContext


def serial_duplicates(graph: LuaObject, ctx: TorchContext) -> dict[int, LuaObject]:
    """Map ``id`` of each module in a graph's nodes to its duplicate in ``modules``, and add a note to the report.

    dpnn's ``getSerialState`` copies the objects in ``modules``, but not the objects in nodes. So the file contains two
    objects for each module, with the same memory. Torch7 runs the objects in the nodes, but ``evaluate()`` changes the
    objects in ``modules``. The conversion uses the objects in ``modules`` for both.

    Returns:
        An empty dict if the nodes and ``modules`` have the same objects, or objects that are not duplicates.
    """
    runs = [m for m in (node["data"].get("module") for node in graph["forwardnodes"].as_list()) if m is not None]
    modules = graph["modules"].as_list()
    if len(runs) != len(modules) or {id(m) for m in runs} & {id(m) for m in modules}:
        return {}
    if not all(same_memory(a, b) for a, b in zip(runs, modules, strict=True)):
        return {}
    ctx.report.notes.append(
        f"{ctx.path or 'the graph'}: nn.Serial wrote each of the {len(modules)} modules of this graph twice, with the "
        "same memory; each pair was converted to one module. In Torch7 evaluate() does not change the modules that "
        "run, so dropout and batch normalization stay in training mode there: results that Torch7 stored differ from "
        "results after eval() in PyTorch."
    )
    return {id(a): b for a, b in zip(runs, modules, strict=True)}


def same_memory(a: Any, b: Any) -> bool:
    """Return whether two Lua values have the same structure and classes, and tensors that view the same elements."""
    if isinstance(a, LuaTensor):
        if not isinstance(b, LuaTensor):
            return False
        emptied = a.size == 0 or b.size == 0  # nn.Serial empties gradients in its light formats
        same_view = (a.shape, a.stride, a.offset) == (b.shape, b.stride, b.offset)
        return emptied or (a.storage is b.storage and same_view)
    if isinstance(a, LuaObject):
        if not isinstance(b, LuaObject) or a.class_name != b.class_name:
            return False
        if a is b:
            return True
        names = {"modules", *(k for k, v in a.items() if isinstance(v, LuaTensor))} - TRANSIENT
        return all(same_memory(a.get(name), b.get(name)) for name in names if name in a and name in b)
    if isinstance(a, LuaTable):
        if not isinstance(b, LuaTable) or len(a) != len(b):
            return False
        return a is b or all(k in b and same_memory(v, b[k]) for k, v in a.items())
    return type(a) is type(b)
