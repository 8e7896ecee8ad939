"""Merge the duplicate modules of graphs that ``nn.Serial`` wrote, which share memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dpnn_bridge.conversion.lua_class import TRANSIENT
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor

if TYPE_CHECKING:
    from dpnn_bridge.conversion.contexts import TorchContext


def serial_twins(graph: LuaObject, ctx: TorchContext) -> dict[int, LuaObject]:
    """Map ``id`` of the modules of a graph's nodes to their duplicates in ``modules``.

    dpnn's ``getSerialState`` copies the tables of modules and leaves nodes as they are. Its output contains two objects
    for each module, of which Torch7 runs the one in the node and its ``evaluate()`` reaches the other. Here both are
    the one in ``modules``; the report says so.

    Returns:
        Nothing where the nodes run the objects in ``modules``, or others than their twins.
    """
    runs = [m for m in (node["data"].get("module") for node in graph["forwardnodes"].as_list()) if m is not None]
    modules = graph["modules"].as_list()
    if len(runs) != len(modules) or {id(m) for m in runs} & {id(m) for m in modules}:
        return {}
    if not all(same_memory(a, b) for a, b in zip(runs, modules, strict=True)):
        return {}
    ctx.report.notes.append(
        f"{ctx.path or 'the graph'}: nn.Serial wrote each of the {len(modules)} modules of this graph twice, on the "
        "same memory; here each is one module. In Torch7 evaluate() did not reach those that ran, so that dropout and "
        "batch normalization were in training mode there: results stored after it differ from those of eval()."
    )
    return {id(a): b for a, b in zip(runs, modules, strict=True)}


def same_memory(a: Any, b: Any) -> bool:
    """Return whether two Lua values are equal: same classes, and tensors that are the same views."""
    if isinstance(a, LuaTensor):
        if not isinstance(b, LuaTensor):
            return False
        emptied = a.size == 0 or b.size == 0  # gradients in the light form
        place = (a.shape, a.stride, a.offset) == (b.shape, b.stride, b.offset)
        return emptied or (a.storage is b.storage and place)
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
