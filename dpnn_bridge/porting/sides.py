"""List the operations of both networks for the HTML page, and match operations with the same result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from dpnn_bridge.porting.events import event_key
from dpnn_bridge.porting.networks import short_line
from dpnn_bridge.porting.search import Search
from dpnn_bridge.porting.tape import VIEWS, Node, Tape
from dpnn_bridge.porting.values import Fingerprint
from dpnn_bridge.porting.wording import described


@dataclass
class Step:
    """An operation of a network.

    Attributes:
        name: name of the layer in the module, or Lua path.
        line: ``file:line`` of the code that calls the operation.
        text: the operation with its arguments.
        inputs: indices of the steps whose results the operation reads.
        match: index of the step of the other network with the same result, or None.
        layer: whether the operation has weights.
    """

    name: str
    line: str
    text: str
    inputs: list[int]
    match: int | None = None
    layer: bool = False


def sides_of(search: Search) -> tuple[list[Step], list[Step]]:
    """Return the steps of the source and of the target; steps with the same result are matched."""
    source, target = search.source.tape, search.tape
    there, source_step = _steps(source, search.source.names)
    here, target_step = _steps(target, lambda name: name)
    candidates: dict[Any, Iterator[int]] = {}  # an iterator is continued: a step that it left behind has a match
    for index, step in target_step.items():
        key, found = _candidates(search, target.nodes[index])
        others = (source_step[i] for i in candidates.setdefault(key, found))
        other = next((i for i in others if there[i].match is None), None)
        if other is not None:
            here[step].match, there[other].match = other, step
    return there, here


def _steps(tape: Tape, name: Callable[[str], str]) -> tuple[list[Step], dict[int, int]]:
    """Return the operations that are neither views nor constant, and node index -> index of the step."""
    steps: list[Step] = []
    indices: dict[int, int] = {}
    origins: dict[int, list[int]] = {}  # node index -> steps that computed its result; of a view, those of its input
    for node in tape.nodes:
        # the input of an in-place operation no longer has its value: only the in-place operation counts
        changed = {id(n) for m in node.inputs if m.mutates for n in m.inputs}
        inputs = list(dict.fromkeys(p for n in node.inputs if id(n) not in changed for p in origins.get(n.index, ())))
        if node.constant or node.op in VIEWS:
            origins[node.index] = inputs
            continue
        indices[node.index] = len(steps)
        origins[node.index] = [len(steps)]
        line = short_line(node.line)
        steps.append(Step(name(node.owner), line, described(node), inputs, layer=node.event is not None))
    return steps, indices


def _candidates(search: Search, node: Node) -> tuple[Any, Iterator[int]]:
    """Return the indices of the source's nodes with the same result as a node, nodes of the same operation first.

    Returns:
        A key, which is equal for nodes with the same indices, and the indices.
    """
    event = node.event
    if event is not None:
        placed = search.placement.placed.get(event_key(search.tape, event))
        layers = placed.assignment.layers if placed is not None else ()
        return tuple(layer.index for layer in layers), (use.node.index for layer in layers for use in layer.events)
    results = search.result_fingerprints.get(node.index, [])[:1]  # the indices of all poolings may be equal
    return (*results, node.op), _with_results(search, results, node.op)


def _with_results(search: Search, results: list[Fingerprint], op: str) -> Iterator[int]:
    values = (v for fingerprint in results for v in search.source.table.find(fingerprint))
    nodes = [v.node for v in values if v.node is not None and v.node.op not in VIEWS]
    yield from (n.index for n in sorted(nodes, key=lambda n: n.op != op))
