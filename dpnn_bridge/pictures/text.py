"""Write the graph of a model as text for Graphviz and Mermaid."""

from __future__ import annotations

from collections.abc import Iterator

from dpnn_bridge.base.boundary import wrap_errors
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.pictures.kinds import KINDS
from dpnn_bridge.pictures.nodes import ModelNode, label_lines

#: escapes for characters with a meaning in Graphviz and Mermaid: quotes, escapes, entities, tags; in Mermaid also
#: directives (``%%{init: …}%%`` has an effect anywhere) and Markdown
_DOT = str.maketrans({"\\": "\\\\", '"': '\\"', "&": "&amp;"})
_MERMAID = str.maketrans({c: f"#{ord(c)};" for c in '&"<>#%`*\\'})


@wrap_errors(ConversionError, "drawing")
def to_dot(root: ModelNode, depth: int | None = None) -> str:
    """Return Graphviz text, for ``dot -Tsvg``.

    Args:
        root: the graph of a model.
        depth: number of container levels to unfold; None unfolds all.
    """
    layout = _Layout(root, depth)
    lines = [
        "digraph model {",
        '  rankdir=TB; node [shape=box, style="rounded,filled", fillcolor=white, '
        'fontname="sans-serif", fontsize=11]; edge [color="#667085"];',
        '  graph [fontname="sans-serif", fontsize=11, labeljust=l, style=rounded, color="#98a2b3"];',
        *_dot_node(layout, root, "  "),
        *(f"  {a} -> {b};" for a, b in layout.arrows()),
        "}",
    ]
    return "\n".join(lines) + "\n"


@wrap_errors(ConversionError, "drawing")
def to_mermaid(root: ModelNode, depth: int | None = None) -> str:
    """Return Mermaid text, which GitHub and GitLab render. For the arguments see :func:`to_dot`."""
    layout = _Layout(root, depth)
    arrows = [f"  {a} --> {b}" for a, b in layout.arrows()]
    return "\n".join(["flowchart TB", *_mermaid_node(layout, root, "  "), *arrows]) + "\n"


class _Layout:
    """The unfolded containers, and the boxes at the ends of each arrow."""

    def __init__(self, root: ModelNode, depth: int | None) -> None:
        self.names: dict[int, str] = {}
        self.open: set[int] = set()
        self.nodes: list[ModelNode] = []
        self._ports: dict[int, list[str]] = {}
        self._ends: dict[tuple[int, str], str] = {}
        self._visit(root, 0, depth)

    def _visit(self, node: ModelNode, level: int, depth: int | None) -> None:
        self.names[id(node)] = f"n{len(self.names)}"
        self.nodes.append(node)
        if node.children and (depth is None or level < depth):
            self.open.add(id(node))
            for child in node.children:
                self._visit(child, level + 1, depth)

    def ports(self, node: ModelNode) -> list[str]:
        """Return the ports (``in``, ``out``) of an unfolded container that are drawn, which have several arrows."""
        if id(node) not in self.open:
            return []
        if id(node) not in self._ports:
            sides = (("in", 0), ("out", 1))
            self._ports[id(node)] = [s for s, end in sides if sum(edge[end] == s for edge in node.edges) != 1]
        return self._ports[id(node)]

    def ends(self, node: ModelNode, side: str) -> str:
        """Return the box at the end of an arrow into (``in``) or out of (``out``) a node."""
        if (id(node), side) not in self._ends:
            self._ends[id(node), side] = self._end(node, side)
        return self._ends[id(node), side]

    def _end(self, node: ModelNode, side: str) -> str:
        if id(node) not in self.open or side in self.ports(node):
            return self.names[id(node)] + ("" if id(node) not in self.open else side)
        end = 0 if side == "in" else 1
        (other,) = (edge[1 - end] for edge in node.edges if edge[end] == side)
        if isinstance(other, str):  # a container that returns its input
            return self.names[id(node)] + other
        return self.ends(node.children[other], side)

    def arrows(self) -> Iterator[tuple[str, str]]:
        for node in self.nodes:
            if id(node) not in self.open:
                continue
            ports = self.ports(node)
            for a, b in node.edges:
                if (isinstance(a, str) and a not in ports) or (isinstance(b, str) and b not in ports):
                    continue
                start = f"{self.names[id(node)]}in" if isinstance(a, str) else self.ends(node.children[a], "out")
                end = f"{self.names[id(node)]}out" if isinstance(b, str) else self.ends(node.children[b], "in")
                yield start, end


def _dot_node(layout: _Layout, node: ModelNode, indent: str) -> Iterator[str]:
    name = layout.names[id(node)]
    label = "\\n".join(line.translate(_DOT) for line in label_lines(node))
    if id(node) not in layout.open:
        peripheries = ", peripheries=2" if node.children else ""
        color = KINDS[node.kind]
        yield f'{indent}{name} [label="{label}", color="{color}", fillcolor="{color}28"{peripheries}];'
        return
    yield f"{indent}subgraph cluster_{name} {{"
    yield f'{indent}  label="{label}";'
    for side in layout.ports(node):
        yield f'{indent}  {name}{side} [label="", shape=circle, width=0.12, fillcolor="#667085"];'
    for child in node.children:
        yield from _dot_node(layout, child, indent + "  ")
    yield f"{indent}}}"


def _mermaid_node(layout: _Layout, node: ModelNode, indent: str) -> Iterator[str]:
    name = layout.names[id(node)]
    label = "<br>".join(line.translate(_MERMAID) for line in label_lines(node))
    if id(node) not in layout.open:
        left, right = ('[["', '"]]') if node.children else ('["', '"]')
        yield f"{indent}{name}{left}{label}{right}"
        return
    yield f'{indent}subgraph {name} ["{label}"]'
    for side in layout.ports(node):
        yield f'{indent}  {name}{side}((" "))'
    for child in node.children:
        yield from _mermaid_node(layout, child, indent + "  ")
    yield f"{indent}end"
