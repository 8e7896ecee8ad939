"""Say why the target deviates (a first version)."""

from __future__ import annotations

from dpnn_bridge.porting.comparison import ContradictionError
from dpnn_bridge.porting.networks import short_line
from dpnn_bridge.porting.report import Deviation
from dpnn_bridge.porting.search import Search


def explain(found: ContradictionError, search: Search) -> Deviation:
    node = found.node or (search.tape.nodes[-1] if search.tape.nodes else None)
    layer = found.layer.name if found.layer else ""
    return Deviation(node.owner if node else "", short_line(node.line) if node else "", layer, found.why)
