"""Compare the result of one event of the target with the source's layer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from dpnn_bridge.porting.assignment import Assignment
from dpnn_bridge.porting.events import Event
from dpnn_bridge.porting.source import Layer, Source
from dpnn_bridge.porting.tape import Node, leaves
from dpnn_bridge.porting.values import DOUBLE, SINGLE, Fingerprint, difference
from dpnn_bridge.porting.wording import differences


class ContradictionError(Exception):
    """The result of the target at a node contradicts the weights that were assigned before the node.

    Attributes:
        node: the node with the other result, or None for the output.
        why: the reason.
        layer: the layer of the source that the event's weights come from.
        matched: whether the event's input is an input of that layer.
        exhausted: whether every assignment of the event led to a later contradiction.
        soft: whether the search may accept the result: the node may be part of an equal computation in other steps.
        conflicts: bit set of the events that the contradiction depends on, besides the events before its node.
    """

    def __init__(
        self, node: Node | None, why: str, layer: Layer | None = None, soft: bool = False, matched: bool = True
    ) -> None:
        super().__init__(why)
        self.node, self.why, self.layer, self.soft, self.conflicts = node, why, layer, soft, 0
        self.matched, self.exhausted = matched, False


@dataclass
class Placed:
    """An event with its assignment.

    Attributes:
        event: the event.
        assignment: the assignment of its weights.
        offset: difference from the source's result because biases moved, one number for each output.
        moved_to: the earlier event that got the bias of this event, and the bias; None if there is none.
        exercised: whether an input of the event was not zero, so that its result tested the weights.
        nodes: the uses of the weights so far.
    """

    event: Event
    assignment: Assignment
    offset: Tensor | None
    moved_to: tuple[Placed, Tensor] | None = None
    exercised: bool = False
    nodes: list[Node] = field(default_factory=list)


def compare_event(event: Event, placed: Placed, out: Any, source: Source) -> float:
    """Compare the result of an event with the output of the source's layer for the same input.

    Args:
        event: the event, on an input of the source's last run.
        placed: the event with the assignment of its weights.
        out: the event's result.
        source: the source.

    Returns:
        The difference relative to the largest element.

    Raises:
        ContradictionError: the results differ, or the layer never had the input.
    """
    node, assignment, layer = event.node, placed.assignment, placed.assignment.layer
    if not assignment.layers:
        known = source.knows(Fingerprint.of(event.input)) and not assignment.moved
        if known and not assignment.keeps and not source.knows(Fingerprint.of(next(leaves(out)))):
            why = "no layer of the source takes its input, and with neutral weights its result is not in the source"
            raise ContradictionError(node, why)
        return 0.0
    expected = assignment.expect(event)
    if expected is None:
        raise ContradictionError(
            node, "is used again, on a value that the source's layer never gets", layer, matched=False
        )
    if layer is not None and layer.kind == event.kind and assignment.fold is None:
        eps = differences({"eps": event.options.get("eps")}, {"eps": layer.options.get("eps")})
        if eps:
            raise ContradictionError(node, eps, layer)
    actual = event.out_rows(out, assignment.form)
    if actual.shape != expected.shape:
        theirs = layer.events[0].output if layer else None
        shapes = shape_text(next(leaves(out))), shape_text(expected if theirs is None else theirs)
        raise ContradictionError(node, "gives {}, the source's layer {}".format(*shapes), layer)
    if placed.offset is not None:
        by_output = expected.reshape(len(expected), len(placed.offset), -1)
        expected = (by_output + placed.offset[:, None]).reshape(expected.shape)
    distance = difference(actual, expected)
    single = node.single or (layer is not None and layer.single)
    if distance > (SINGLE if single else DOUBLE):
        raise ContradictionError(node, f"gets the same input and gives another result ({distance:.1e} relative)", layer)
    return distance


def shape_text(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))
