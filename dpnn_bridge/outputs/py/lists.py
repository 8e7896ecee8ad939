"""Find the modules of a model whose input may be a list."""

from __future__ import annotations

import inspect

from torch import nn

from dpnn_bridge.conversion.fields import submodules
from dpnn_bridge.modules.nn.nngraph import GModule


def taking_lists(root: nn.Module) -> set[int]:
    """Return ``id`` of the modules whose input may be a list instead of a tensor."""
    found: set[int] = set()

    def visit(module: nn.Module, listed: bool) -> None:
        if listed:
            found.add(id(module))
        if isinstance(module, GModule):
            for node in module.nodes:
                if node.module is not None:
                    visit(module.get_submodule(node.module), len(node.inputs) > 1)
        else:
            for child in module.children():
                visit(child, listed)
                listed = _returns_list(child) if type(module) is nn.Sequential else listed

    visit(root, True)
    return found


def _returns_list(module: nn.Module) -> bool:
    if isinstance(module, GModule):
        return len(module.nodes[module.output_node].inputs) > 1
    if type(module) is nn.Sequential:
        return bool(layers := submodules(module)) and _returns_list(layers[-1])
    return "list" in str(inspect.signature(module.forward).return_annotation)
