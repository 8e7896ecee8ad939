"""Explain results that are almost equal by a small constant, such as an eps, that differs."""

from __future__ import annotations

from math import inf

from dpnn_bridge.porting.comparison import ContradictionError
from dpnn_bridge.porting.events import event_of
from dpnn_bridge.porting.explain import composite, deviation_at
from dpnn_bridge.porting.flow import ancestors, output_nodes
from dpnn_bridge.porting.report import Deviation
from dpnn_bridge.porting.search import Search
from dpnn_bridge.porting.source import Source
from dpnn_bridge.porting.tape import Node, Slot, Tape, leaves, replaced
from dpnn_bridge.porting.values import ALMOST, DOUBLE, difference
from dpnn_bridge.porting.wording import described, options_of

#: the largest constant that counts as small
_SMALL = 1e-3


def input_distance(contradiction: ContradictionError, search: Search) -> float:
    """Return the smallest difference between an event's input and the inputs of the source's layers of its form.

    Args:
        contradiction: the contradiction at the event, whose input is not an input of any layer.
        search: the search that ended with the contradiction.

    Returns:
        The relative difference; infinite if no layer has the form.
    """
    node = contradiction.node
    if node is None or contradiction.layer is not None or node.op not in ("addmm", "mm", "linear", "convolution"):
        return inf
    event = event_of(
        search.tape, node, replaced(node.args, lambda v: search.env[v.number] if isinstance(v, Slot) else v)
    )
    if event is None:
        return inf
    form = event.forms[0]
    layers = [layer for layer in search.source.layers if form in layer.forms]
    rows = event.rows_in(form)
    distances = (difference(rows, x) for layer in layers for x in layer.inputs(form))
    return min((d for d in distances if d > DOUBLE), default=inf)


def explain_constants(
    distance: float, end: Node | None, tape: Tape, source: Source, vague: bool = True
) -> Deviation | None:
    """Explain a value that is almost equal to a value of the source.

    Args:
        distance: difference from the source's value, relative to the largest element.
        end: the operation that reads the value; None for an output.
        tape: recording of the target.
        source: the source.
        vague: whether there is no better explanation, so that one that names only one constant, or none, is accepted.

    Returns:
        The deviation; None if the difference is too large, or the explanation is not accepted.
    """
    if distance > ALMOST:
        return None
    here, there = _with_constants(tape, end), _with_constants(source.tape, None)
    shown = [{described(n) for n in nodes} for nodes in (here, there)]
    mine = next((n for n in here if described(n) not in shown[1]), None)
    theirs = next((n for n in there if described(n) not in shown[0]), None)
    if not vague and (mine is None or theirs is None):
        return None
    what = f"{'an output' if end is None else 'its input'} differs by {distance:.1e} relative, more than rounding does"
    if mine is None and theirs is None:
        return deviation_at(end, "", what) if end is not None else Deviation("", "", "", what)
    words = [_named(n, t, where) for n, t, where in ((mine, tape, "here"), (theirs, source.tape, "in the source")) if n]
    path = source.names(theirs.owner) if theirs is not None else ""
    at, why = mine or end or next(reversed(output_nodes(tape)), None), f"{', '.join(words)}: {what}"
    return Deviation("", "", path, why) if at is None else deviation_at(at, path, why)


def _named(node: Node, tape: Tape, where: str) -> str:
    module = composite(tape, node)
    return f"{described(node)} {where}" + (f" (part of {module})" if module else "")


def _with_constants(tape: Tape, end: Node | None) -> list[Node]:
    """Return the operations with a small constant before a node, or before the outputs; the last one first."""
    ends = output_nodes(tape) if end is None else [end]
    nodes = {n.index: n for n in (*ends, *ancestors(*ends))}
    return [nodes[i] for i in sorted(nodes, reverse=True) if _has_constant(nodes[i])]


def _has_constant(node: Node) -> bool:
    constants = (v for v in leaves(list(options_of(node).values())) if isinstance(v, float))
    return not node.constant and node.event is None and any(0 < abs(v) <= _SMALL for v in constants)
