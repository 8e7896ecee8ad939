"""Write a verification as one HTML page with the model's graph, each layer in the colour of its verdict."""

from __future__ import annotations

from pathlib import Path

from dpnn_bridge.base.boundary import wrap_errors
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.parity.html import page
from dpnn_bridge.parity.verification import Layer, Verification
from dpnn_bridge.pictures.html import LayerVerdict, file_facts, graph_section
from dpnn_bridge.pictures.nodes import model_graph


@wrap_errors(ConversionError, "drawing")
def report(result: Verification, source: Path | None = None) -> str:
    """Return the page of :func:`~dpnn_bridge.parity.html.page` with the graph, and what file it was.

    Args:
        result: of :func:`~dpnn_bridge.parity.verify.verify`.
        source: the model's file.
    """
    graph = ""
    if result.module is not None:
        found = {layer.path: _verdict(layer) for layer in result.layers if layer.verdict is not None}
        graph = graph_section(model_graph(result.module, histograms=True), found)
    return page(result, graph, file_facts(source))


def _verdict(layer: Layer) -> LayerVerdict:
    worst = layer.worst
    return LayerVerdict(layer.verdict.value if layer.verdict else "", worst.message if worst else "")
