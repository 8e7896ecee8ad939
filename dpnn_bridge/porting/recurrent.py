"""Two differences between recurrent layers that no weights can mend."""

from __future__ import annotations

from dpnn_bridge.porting.flow import through_sums, through_views
from dpnn_bridge.porting.search import Search
from dpnn_bridge.porting.tape import Node


def reset_gate(node: Node, search: Search, there: list[Node]) -> str | None:
    """A GRU that resets after the matrix product, where the source does so before it."""
    if not any(n.op == "tanh" for n in search.source.tape.nodes) or peephole(node, there):
        return None
    multiplies = [n for n in there if n.op == "mul" and n.event is None]
    products = [n for m in multiplies for n in through_views(m) if n.event is not None or n.op in ("cat", "copy")]
    if not products:
        return None
    hidden = [n for n in (node, *node.inputs) if n.event is not None and n.event.kind == "linear"]
    after = [m for n in hidden for m in through_sums(n) for m in (m, *m.consumers) if m.op == "mul"]
    after += [m for n in hidden for m in through_views(n) if m.op == "mul"]
    if not after and not (node.op == "mul" and any(n.event is not None for n in _behind(node))):
        return None
    return (
        "the reset gate is applied after the matrix product here, n = tanh(W x + r * (U h + b)), and before it in the"
        " source, n = tanh(W x + U (r * h)); no weights make them equal: use a cell that multiplies r * h first"
    )


def _behind(node: Node) -> list[Node]:
    """The operations that made what a node takes, views skipped."""
    found, front = [], list(node.inputs)
    while front:
        at = front.pop()
        if at.event is None and at.op in ("view", "unsafe_split", "split", "chunk", "slice", "select", "unbind"):
            front += at.inputs
        else:
            found.append(at)
    return found


def peephole(node: Node, there: list[Node]) -> str | None:
    """A gate without a peephole, where the source adds the cell times a learned weight."""
    if node.op not in ("sigmoid", "tanh"):
        return None
    for other in there:
        if other.op == "add" and any(n.event is not None and n.event.kind == "mul" for n in _behind(other)):
            return (
                "the source adds a peephole, the cell times a learned weight, before this gate; nn.LSTM has none and no"
                " weights make them equal: write the cell out with the peephole"
            )
    return None
