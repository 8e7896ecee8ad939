"""Detect two differences between recurrent layers that no weights can fix."""

from __future__ import annotations

from collections.abc import Iterator

from dpnn_bridge.porting.flow import through_views
from dpnn_bridge.porting.search import Search
from dpnn_bridge.porting.tape import VIEWS, Node, Tape

RESET = (
    "the reset gate is applied after the matrix product here, n = tanh(W x + r * (U h + b)), and before it in the"
    " source, n = tanh(W x + U (r * h)); no weights make both equal: write a cell that multiplies r * h first"
)
PEEPHOLE = (
    "the source has peepholes: it adds the cell times a learned weight inside the sigmoids of the gates. The module has"
    " no peepholes, and no weights make both equal: write a cell with peepholes"
)


def unfixable(search: Search) -> tuple[Node, Node, str] | None:
    """Return a difference between recurrent layers that no weights can fix.

    Returns:
        The operation of the target, the operation of the source, and the reason; None if there is no such difference.
    """
    target, source = search.tape, search.source.tape
    before, after = next(_reset_before(source), None), next(_reset_after(target), None)
    if before is not None and after is not None and next(_reset_before(target), None) is None:
        return after, before, RESET
    peephole = next(_peepholes(source), None)
    gate = next((n for n in target.nodes if n.op == "sigmoid" and not n.constant), None)
    if peephole is not None and gate is not None and next(_peepholes(target), None) is None:
        return gate, peephole, PEEPHOLE
    return None


def _reset_before(tape: Tape) -> Iterator[Node]:
    """Yield the products of a gate and a state that are multiplied by a matrix whose result is the input of a tanh."""
    for node in _products(tape):
        producers = {n.op for n in _producers(node)}
        if "sigmoid" in producers and "tanh" not in producers:  # the output gate of an LSTM multiplies a tanh
            for user in (n for m in through_views(node) for n in ((m,) if m.op != "cat" else tuple(through_views(m)))):
                if user.event is not None and user.event.kind == "linear" and _reaches_tanh(user):
                    yield node


def _reset_after(tape: Tape) -> Iterator[Node]:
    """Yield the products of a gate and a matrix product that are, directly or in a sum, the input of a tanh."""
    for node in _products(tape):
        producers = list(_producers(node))
        gated = any(n.op == "sigmoid" for n in producers)
        if gated and any(n.event is not None and n.event.kind == "linear" for n in producers) and _reaches_tanh(node):
            yield node


def _products(tape: Tape) -> Iterator[Node]:
    return (n for n in tape.nodes if n.op == "mul" and n.event is None and not n.constant)


def _reaches_tanh(node: Node) -> bool:
    """Return whether a value, or a sum that includes it, is the input of a tanh."""
    return any(
        n.op == "tanh" or (n.op == "add" and any(m.op == "tanh" for m in through_views(n))) for n in through_views(node)
    )


def _peepholes(tape: Tape) -> Iterator[Node]:
    """Yield the products of a value and learned weights that are added in the input of a sigmoid."""
    for node in tape.nodes:
        if node.event is not None and node.event.kind == "mul":
            for added in through_views(node):
                if added.op == "add" and any(_is_sigmoid(n) for n in through_views(added)):
                    yield node


def _is_sigmoid(node: Node) -> bool:
    return node.op == "sigmoid" or (node.op == "add" and any(n.op == "sigmoid" for n in through_views(node)))


def _producers(node: Node) -> Iterator[Node]:
    """Yield the operations that computed a node's inputs; views are skipped."""
    stack = list(node.inputs)
    while stack:
        at = stack.pop()
        if at.event is None and at.op in VIEWS:
            stack += at.inputs
        else:
            yield at
