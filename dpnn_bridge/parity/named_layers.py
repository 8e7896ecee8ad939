"""Find the layers of a verification by the modules of a model."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from dpnn_bridge.compare import nested
from dpnn_bridge.compare.differences import Difference
from dpnn_bridge.outputs.written import Results
from dpnn_bridge.parity.layers import Node, tree
from dpnn_bridge.parity.verification import Layer, Verification


class NamedLayers:
    """The layers of a verification by the names of their modules in PyTorch.

    Args:
        result: the verification; its layers are in the order of the tree.
        module: the model.
        nodes: the tree of the model before a run that changed it; default: the current tree.
    """

    def __init__(self, result: Verification, module: nn.Module, nodes: Sequence[Node] | None = None) -> None:
        pairs = zip(tree(module) if nodes is None else nodes, result.layers, strict=True)
        self.by_id: dict[int, Layer] = {id(node.module): layer for node, layer in pairs}
        self.result, self.names = result, {id(m): name for name, m in module.named_modules()}
        self.by_name: dict[str, Layer] = {n: self.by_id[i] for i, n in self.names.items() if i in self.by_id}

    def on(self, result: Verification) -> NamedLayers:
        """Return the same names for the layers of another verification of the module."""
        other, of_other = copy.copy(self), dict(zip(map(id, self.result.layers), result.layers, strict=True))
        other.result = result
        other.by_id = {key: of_other[id(layer)] for key, layer in self.by_id.items()}
        other.by_name = {name: of_other[id(layer)] for name, layer in self.by_name.items()}
        return other

    def of(self, name: str) -> Layer:
        """Return the layer of the module with this name; for a submodule that is not a layer, the layer around it."""
        while name not in self.by_name:
            name = name.rpartition(".")[0]
        return self.by_name[name]

    def of_module(self, module: nn.Module) -> Layer:
        """Return the layer of a module, or of the module around it."""
        return self.by_id.get(id(module)) or self.of(self.names.get(id(module), ""))

    def set_order(self, ran: Results) -> None:
        """Set the order of the layers to the order of the keys of ``ran``, in which their calls ended."""
        names = [*(name for name in ran if name in self.by_name and name), ""]
        for i, name in enumerate(names, 1):
            self.by_name[name].order = self.by_name[name].order or i


def failed(name: str, message: str) -> Difference:
    """Return a failed comparison without numbers."""
    return Difference(name, math.inf, 0.0, message)


def other_dtypes(name: str, found: Any, expected: Any) -> Difference | None:
    """Return a failed comparison if tensors have other dtypes than expected, else None."""
    dtypes = [[t.dtype for t in nested.tensors(value)] for value in (found, expected)]
    if dtypes[0] == dtypes[1]:
        return None
    names = (", ".join(str(t).removeprefix("torch.") for t in dict.fromkeys(each)) for each in dtypes)
    return failed(name, " instead of ".join(names))
