"""Write the graph of a model as one HTML page that loads no other files.

The browser computes the layout (``static/layout.js``), so that containers can be folded. dagre
(``static/DAGRE-LICENSE.txt``) computes the layout of graphs that are neither sequences nor parallel branches.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from dpnn_bridge.base.boundary import wrap_errors
from dpnn_bridge.base.checksum import sha256_of
from dpnn_bridge.base.display import shortened
from dpnn_bridge.base.json_text import finite
from dpnn_bridge.base.pages import rendered, static
from dpnn_bridge.base.version import package_version
from dpnn_bridge.compare import verdict
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.pictures.kinds import KINDS
from dpnn_bridge.pictures.nodes import ModelNode, label_lines

_PACKAGE = "dpnn_bridge.pictures"
#: maximum number of layers of a model that is initially shown without folded containers
_UNFOLDED = 40

#: verdict -> mark, in addition to the color
MARKS = {verdict.value: mark for verdict, mark in verdict.MARKS.items() if verdict is not None}


@dataclass(frozen=True)
class LayerVerdict:
    """The verdict of a comparison on one layer.

    Attributes:
        verdict: one word, such as ``equal`` or ``different``; determines the color of the layer.
        text: one line of detail.
    """

    verdict: str
    text: str = ""


def graph_section(root: ModelNode, verdicts: Mapping[str, LayerVerdict] | None = None) -> str:
    """Return the HTML of the graph, which can be moved, zoomed, searched and folded, for a page.

    Args:
        root: the graph, from :func:`~dpnn_bridge.pictures.nodes.model_graph`.
        verdicts: path of a layer -> verdict; adds colors and a filter.
    """
    by_path = dict(verdicts or {})
    return _section(_layers(root, by_path), list(dict.fromkeys(v.verdict for v in by_path.values() if v.verdict)))


def _section(layers: dict[str, Any], verdicts: Sequence[str] = ()) -> str:
    found = {row["kind"] for row in _rows(layers)}
    data = {"root": layers, "marks": MARKS, "open": 99 if sum(1 for _ in _rows(layers)) <= _UNFOLDED else 1}
    return rendered(
        _PACKAGE,
        "graph.html.j2",
        verdicts=verdicts,
        weights=any(tensor["histogram"] for row in _rows(layers) for tensor in row["tensors"]),
        marks=MARKS,
        data=Markup(_json(data)),
        style=static(_PACKAGE, "graph.css"),
        script=static(_PACKAGE, "graph.js"),
        layout=static(_PACKAGE, "layout.js"),
        dagre=static(_PACKAGE, "dagre.min.js"),
        colors=KINDS,
        kinds=[kind for kind in KINDS if kind in found],
    )


@wrap_errors(ConversionError, "drawing")
def page(root: ModelNode, title: str, *, source: Path | None = None, facts: Sequence[tuple[str, str]] = ()) -> str:
    """Return an HTML page with the graph and a table of all layers.

    Args:
        root: the graph, from :func:`~dpnn_bridge.pictures.nodes.model_graph`.
        title: heading, such as the name of the file.
        source: file of the model; the page shows its size and SHA-256.
        facts: further pairs of name and value for the head of the page.
    """
    layers = _layers(root, {})
    numbers = [("layers", f"{sum(1 for _ in root.walk()):,}"), ("parameters", f"{root.parameters:,}")]
    return rendered(
        _PACKAGE,
        "page.html.j2",
        title=title,
        about=[*facts, *numbers, *file_facts(source)],
        rows=list(_rows(layers)),
        graph=Markup(_section(layers)),
        style=static(_PACKAGE, "page.css"),
    )


def file_facts(source: Path | None) -> list[tuple[str, str]]:
    """Return pairs of name and value: name, size and checksum of the file, the present time, and the version."""
    facts = [("written", datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"))]
    facts.append(("dpnn_bridge", package_version()))
    if source is None or not source.is_file():
        return facts
    return [("file", f"{source.name}, {source.stat().st_size:,} bytes"), ("SHA-256", sha256_of(source)), *facts]


def _layers(node: ModelNode, verdicts: dict[str, LayerVerdict]) -> dict[str, Any]:
    """Convert a node to plain data for the script and the table of the page."""
    found = verdicts.get(node.path)
    tensors = [
        {
            "name": shortened(t.name),
            "shape": "×".join(map(str, t.shape)) or "number",
            "range": "" if t.low is None or t.high is None else f"{t.low:.4g} to {t.high:.4g}, mean {t.mean:.4g}",
            "histogram": t.histogram,
        }
        for t in node.tensors
    ]
    return {
        "path": node.path or "the model",
        "label": label_lines(node),
        "kind": node.kind,
        "lua": shortened(node.lua_class),
        "torch": shortened(node.torch_class),
        "name": shortened(node.name),
        "parameters": node.parameters,
        "settings": shortened(node.settings, 500),
        "fields": {shortened(k): _displayed(v) for k, v in node.fields.items()},
        "input": node.input,
        "output": node.output,
        "tensors": tensors,
        "verdict": found.verdict if found else "",
        "text": found.text if found else "",
        "edges": node.edges,
        "children": [_layers(child, verdicts) for child in node.children],
    }


def _displayed(value: float | str) -> float | str:
    if isinstance(value, str):
        return shortened(value)
    return value if isinstance(value, int) else float(f"{value:.6g}")


def _rows(layer: dict[str, Any], depth: int = 0) -> Any:
    yield {**layer, "depth": depth}
    for child in layer["children"]:
        yield from _rows(child, depth + 1)


def _json(data: Any) -> str:
    """Return JSON in which strings cannot end a script element."""
    text = json.dumps(finite(data), separators=(",", ":"), allow_nan=False)  # in ASCII
    return re.sub(r"[<>&]", lambda m: f"\\u{ord(m[0]):04x}", text)
