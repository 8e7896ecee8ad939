"""List the operations of both networks for the page, and join those with one result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dpnn_bridge.porting.events import event_key
from dpnn_bridge.porting.networks import short_line
from dpnn_bridge.porting.search import Search
from dpnn_bridge.porting.tape import VIEWS, Node, Tape
from dpnn_bridge.porting.wording import described


@dataclass
class Step:
    """An operation of a network.

    Attributes:
        name: the layer, by its name or Lua path.
        line: ``file:line`` of the code that calls it.
        text: the operation with its arguments.
        inputs: places of the steps whose results it takes.
        match: place of the step of the other network with the same result, or None.
        layer: it has weights.
    """

    name: str
    line: str
    text: str
    inputs: list[int]
    match: int | None = None
    layer: bool = False


def sides_of(search: Search) -> tuple[list[Step], list[Step]]:
    """Return the steps of the source and of the target, joined where they compute the same."""
    source, target = search.source.tape, search.tape
    there, at = _steps(source, search.source.names)
    here, mine = _steps(target, lambda name: name)
    for index, place in mine.items():
        found = next((at[i] for i in _candidates(search, target.nodes[index]) if there[at[i]].match is None), None)
        if found is not None:
            here[place].match, there[found].match = found, place
    return there, here


def _steps(tape: Tape, name: Callable[[str], str]) -> tuple[list[Step], dict[int, int]]:
    """Return the operations that compute something, and node index -> place."""
    steps: list[Step] = []
    places: dict[int, int] = {}
    before: dict[int, list[int]] = {}  # what a view hands on
    for node in tape.nodes:
        changed = {id(n) for m in node.inputs if m.mutates for n in m.inputs}  # in place: the later one gave the value
        inputs = list(dict.fromkeys(p for n in node.inputs if id(n) not in changed for p in before.get(n.index, ())))
        if node.constant or node.op in VIEWS:
            before[node.index] = inputs
            continue
        places[node.index] = len(steps)
        before[node.index] = [len(steps)]
        line = short_line(node.line)
        steps.append(Step(name(node.owner), line, described(node), inputs, layer=node.event is not None))
    return steps, places


def _candidates(search: Search, node: Node) -> Iterator[int]:
    """Yield the indices of nodes of the source with the result of a node, those of the same kind first."""
    event = node.event
    if event is not None:
        placed = search.placement.placed.get(event_key(search.tape, event))
        layers = placed.assignment.layers if placed is not None else ()
        yield from (use.node.index for layer in layers for use in layer.events)
        return
    results = search.result_fingerprints.get(node.index, [])[:1]  # the indices of all poolings may be equal
    values = (v for fingerprint in results for v in search.source.table.find(fingerprint))
    nodes = [v.node for v in values if v.node is not None and v.node.op not in VIEWS]
    yield from (n.index for n in sorted(nodes, key=lambda n: n.op != node.op))
