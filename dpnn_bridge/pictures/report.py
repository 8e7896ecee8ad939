"""Write a verification as one HTML page with the graph of the model, in which the verdicts are colors."""

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
    """Return the page of :func:`~dpnn_bridge.parity.html.page` with the graph, and with properties of the file.

    Args:
        result: result of :func:`~dpnn_bridge.parity.verify.verify`.
        source: file of the model.
    """
    graph = ""
    if result.module is not None:
        verdicts = {layer.path: _verdict(layer) for layer in result.layers if layer.verdict is not None}
        graph = graph_section(model_graph(result.module, histograms=True), verdicts)
    return page(result, graph, file_facts(source))


def _verdict(layer: Layer) -> LayerVerdict:
    worst = layer.worst
    return LayerVerdict(layer.verdict.value if layer.verdict else "", worst.message if worst else "")
