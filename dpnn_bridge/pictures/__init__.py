"""Draw models: the graph of layers as data, as Graphviz and Mermaid text, and as one HTML page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dpnn_bridge.base.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from dpnn_bridge.pictures.html import LayerVerdict, file_facts, graph_section, page
    from dpnn_bridge.pictures.nodes import ModelNode, model_graph
    from dpnn_bridge.pictures.text import to_dot, to_mermaid

__all__ = ["LayerVerdict", "ModelNode", "file_facts", "graph_section", "model_graph", "page", "to_dot", "to_mermaid"]

_MODULES = {
    "ModelNode": "pictures.nodes",
    "model_graph": "pictures.nodes",
    **dict.fromkeys(("LayerVerdict", "file_facts", "graph_section", "page"), "pictures.html"),
    "to_dot": "pictures.text",
    "to_mermaid": "pictures.text",
}
__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
