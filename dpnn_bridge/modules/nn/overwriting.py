"""Find in-place layers that, in Torch7, overwrite a tensor that other layers also read.

An example is an in-place ReLU in one of two branches. By default, converted modules do not work in place, so their
results differ from Torch7's in this case.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Protocol

from dpnn_bridge.conversion import registry
from dpnn_bridge.conversion.contexts import TorchContext
from dpnn_bridge.conversion.lua_values import is_true
from dpnn_bridge.modules.nn.activation import Inplace
from dpnn_bridge.modules.nn.dropout import DropoutClass
from dpnn_bridge.objects import LuaObject, LuaTable

#: layers whose output shares memory with their input
_VIEWS = ("Identity", "View", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Contiguous", "Narrow", "Select")
_PARTS = ("NarrowTable", "SelectTable", "SplitTable", "FlattenTable")
_ALIASES = {f"nn.{name}" for name in (*_VIEWS, *_PARTS)}

#: in-place layers that return the gradient as it is
_SAME_GRADIENT = ("nn.AddConstant", "nn.CAddTable")

#: maximum number of layers named in one note
_MAX_NAMES = 5
#: maximum number of consecutive layers that are examined
_MAX_CHAIN = 64


class Step(Protocol):
    """A node of a graph."""

    @property
    def inputs(self) -> Sequence[int]:
        """The positions of the nodes whose values are the node's inputs."""
        ...


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


def _overwriter(obj: Any) -> LuaObject | None:
    """Return the layer inside a module that overwrites the module's input, or None."""
    for part in _parts(obj):
        if not isinstance(part, LuaObject):
            return None
        if part.get("inplace") and part.class_name != "nn.CReLU":  # nn.CReLU overwrites only its own buffer
            if not _is_idle(part):
                return part
        elif part.class_name not in _ALIASES:
            return None
    return None


def _is_idle(obj: LuaObject) -> bool:
    """Return whether an in-place dropout returns its input in evaluation mode. The first version of nn scales it."""
    scales = obj.class_name == "nn.Dropout" and not is_true(obj.get("v2"))
    evaluation = obj.class_name.endswith("Dropout") and obj.get("train") is False
    return evaluation and not scales and not is_true(obj.get("stochastic_inference"))


def _note(ctx: TorchContext, layers: list[tuple[str, LuaObject]]) -> None:
    """Add a note about the layers that overwrite inputs of other layers, with their paths below the container."""
    if ctx.options.inplace:
        layers = [(path, layer) for path, layer in layers if not _follows_option(layer)]
    if not layers:
        return
    names = [f"{path} ({layer.class_name})" for path, layer in layers[:_MAX_NAMES]]
    ctx.note(
        "in Torch7, these in-place layers overwrite values that other layers also read: "
        f"{', '.join(names + ['…'] * (len(layers) > _MAX_NAMES))}. Outputs and gradients may differ from Torch7's"
        + ("; with inplace=True the outputs are equal" if all(_follows_option(layer) for _, layer in layers) else "")
    )


def _follows_option(layer: LuaObject) -> bool:
    """Return whether the converted layer works in place with the option ``inplace``."""
    mapping = registry.find(layer)
    if mapping is DropoutClass:
        return DropoutClass.becomes_stock(layer)
    return mapping is not None and issubclass(mapping, Inplace)


def note_branches(obj: LuaObject, ctx: TorchContext) -> None:
    """Add a note about branches of a container that overwrite the input of all branches."""
    branches = obj["modules"].as_list() if _has_modules(obj) else []
    found = [(f"modules[{number}]", _overwriter(branch)) for number, branch in enumerate(branches, 1)]
    if len(branches) > 1:
        _note(ctx, [(path, layer) for path, layer in found if layer is not None])


def note_shortcuts(obj: LuaObject, ctx: TorchContext) -> None:
    """Add notes about in-place sums of branches.

    They overwrite the input of all branches if the first branch returns the input as it is. Backward, they give all
    branches one tensor, which an in-place layer at the end of a branch overwrites before the next branches read it.
    """
    modules = obj["modules"].as_list() if _has_modules(obj) else []
    found, last = [], []
    for number, (table, layer) in enumerate(pairwise(modules), 2):
        overwriter = _overwriter(layer)
        if overwriter is None or not isinstance(table, LuaObject) or table.class_name != "nn.ConcatTable":
            continue
        if _returns_input_first(table):
            found.append((f"modules[{number}]", overwriter))
        if overwriter.class_name == "nn.CAddTable" and _has_modules(table):
            ends = [
                (f"modules[{number - 1}].modules[{i}]", _last(b)) for i, b in enumerate(table["modules"].as_list(), 1)
            ]
            last += [f"{path} ({end.class_name})" for path, end in ends[:-1] if end is not None]
    _note(ctx, found)
    if last:
        ctx.note(
            "in Torch7, the in-place layers at the end of these branches overwrite the gradient of the next branches: "
            f"{', '.join(last[:_MAX_NAMES] + ['…'] * (len(last) > _MAX_NAMES))}. Gradients may differ from Torch7's"
        )


def _last(obj: Any) -> LuaObject | None:
    """Return the last layer inside a branch if it overwrites its gradient in place, else None."""
    parts = [part for part in _parts(obj) if not isinstance(part, LuaObject) or part.class_name not in _ALIASES]
    layer = _overwriter(parts[-1]) if parts else None
    return None if layer is None or layer.class_name in _SAME_GRADIENT else layer


def _returns_input_first(obj: Any) -> bool:
    """Return whether a module has several branches, of which the first returns the input as it is."""
    if not isinstance(obj, LuaObject) or obj.class_name != "nn.ConcatTable" or not _has_modules(obj):
        return False
    branches = obj["modules"]
    return 2 in branches and all(isinstance(p, LuaObject) and p.class_name in _ALIASES for p in _parts(branches.get(1)))


def note_nodes(nodes: Sequence[Step], modules: Sequence[LuaObject | None], ctx: TorchContext) -> None:
    """Add a note about nodes of a graph that overwrite a value that other nodes also read.

    Args:
        nodes: the nodes in execution order.
        modules: the Lua module of each node; None for a node that returns its input.
        ctx: context of the conversion.
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
        while len(chain) < _MAX_CHAIN and nodes[chain[-1]].inputs and _is_alias(modules[chain[-1]]):
            chain.append(nodes[chain[-1]].inputs[0])
        if any(reader not in chain for source in chain[1:] for reader in readers[source]):
            found.append((f"forwardnodes[{position + 1}]", layer))
    _note(ctx, found)


def _is_alias(module: LuaObject | None) -> bool:
    """Return whether the output of a node shares memory with its input."""
    return module is None or module.class_name in _ALIASES
