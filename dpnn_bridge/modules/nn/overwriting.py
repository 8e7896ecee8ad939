"""Find layers that overwrite in Torch7 what other layers read too, as an in-place ReLU in one of two branches does.

Converted modules overwrite nothing unless the caller asks for it, so that their results differ from Torch7's there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from dpnn_bridge.conversion.contexts import TorchContext
from dpnn_bridge.objects import LuaObject, LuaTable

#: layers whose output is the memory of their input, or of a part of it
_VIEWS = ("Identity", "View", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Contiguous", "Narrow", "Select")
_PARTS = ("NarrowTable", "SelectTable", "SplitTable", "FlattenTable")
_ALIASES = {f"nn.{name}" for name in (*_VIEWS, *_PARTS)}


#: so many layers are named in one note, and so many layers in a row are followed
_NAMED, _DEEPEST = 5, 64


class Step(Protocol):
    """A node of a graph."""

    @property
    def inputs(self) -> Sequence[int]:
        """The positions of the nodes whose values it takes."""
        ...


def _overwriter(obj: Any) -> LuaObject | None:
    """Return the layer inside a module that overwrites the module's input, None if none does."""
    queue = [obj]
    for _ in range(_DEEPEST):
        obj = queue.pop()
        if not isinstance(obj, LuaObject):
            return None
        if obj.get("inplace") is True and obj.class_name != "nn.CReLU":  # whose ReLU overwrites its own memory
            idle = obj.class_name.endswith("Dropout") and obj.get("train") is False
            return None if idle else obj
        if obj.class_name == "nn.Sequential" and isinstance(obj.get("modules"), LuaTable):
            queue += [obj["modules"].get(n) for n in range(_DEEPEST, 0, -1) if n in obj["modules"]]
        elif obj.class_name not in _ALIASES:
            return None
        if not queue:
            return None
    return None


def _note(ctx: TorchContext, layers: list[tuple[str, LuaObject]]) -> None:
    """Note the layers that overwrite what others read, with their paths below the container."""
    if not layers or ctx.options.inplace:
        return
    named = [f"{path} ({layer.class_name})" for path, layer in layers[:_NAMED]] + ["…"] * (len(layers) > _NAMED)
    ctx.note(
        "in-place layers overwrite in Torch7 values that other layers read too: "
        f"{', '.join(named)}. Outputs and gradients may differ from Torch7's: "
        "load with inplace=True to compute the same"
    )


def note_branches(obj: LuaObject, ctx: TorchContext) -> None:
    """Note the branches that overwrite the input that all branches of a container take."""
    branches = obj["modules"].as_list() if isinstance(obj.get("modules"), LuaTable) else []
    found = [(f"modules[{number}]", _overwriter(branch)) for number, branch in enumerate(branches, 1)]
    if len(branches) > 1:
        _note(ctx, [(path, layer) for path, layer in found if layer is not None])


def note_nodes(nodes: Sequence[Step], modules: Sequence[LuaObject | None], ctx: TorchContext) -> None:
    """Note the nodes of a graph that overwrite a value that other nodes take.

    Args:
        nodes: the nodes in the order in which they run.
        modules: the Lua module of each, None for a node that passes its input on.
        ctx: the conversion.
    """
    readers: dict[int, set[int]] = {}
    for position, node in enumerate(nodes):
        for source in node.inputs:
            readers.setdefault(source, set()).add(position)
    found = []
    for position, (node, module) in enumerate(zip(nodes, modules, strict=True)):
        layer = _overwriter(module)
        if layer is None or not node.inputs:
            continue
        chain = [position, node.inputs[0]]
        while len(chain) < _DEEPEST and nodes[chain[-1]].inputs and _passes_on(modules[chain[-1]]):
            chain.append(nodes[chain[-1]].inputs[0])
        if any(reader not in chain for source in chain[1:] for reader in readers[source]):
            found.append((f"forwardnodes[{position + 1}]", layer))
    _note(ctx, found)


def _passes_on(module: LuaObject | None) -> bool:
    return module is None or module.class_name in _ALIASES
