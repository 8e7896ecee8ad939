"""Compare one event of the target with the source's layer."""

from __future__ import annotations

from dataclasses import dataclass
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
        node: the place, or None for the output.
        why: the reason, if it is known.
        layer: the layer of the source that the event's weights come from.
        matched: the event has an input of that layer.
        exhausted: every assignment of the event led to a contradiction after it.
        soft: the node may be another way to compute the same.
        conflicts: bit set of the events that the contradiction depends on besides those before its node.
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
        offset: how far the result is from the source's because biases moved, per output.
        exercised: the result depends on the weights for the input of the event.
    """

    event: Event
    assignment: Assignment
    offset: Tensor | None
    exercised: bool = False


def compare_event(event: Event, placed: Placed, out: Any, source: Source) -> float:
    """Compare the result of an event with what the source's layer gives for its input.

    Args:
        event: the event, on an input of the source's last run.
        placed: the assignment of its weights.
        out: its result.
        source: the source.

    Returns:
        The difference relative to the largest element.

    Raises:
        ContradictionError: the results differ, or the layer never took the input.
    """
    node, assignment, layer = event.node, placed.assignment, placed.assignment.layer
    if not assignment.layers:
        known = source.knows(Fingerprint.of(event.input)) and not assignment.moved
        if known and not source.knows(Fingerprint.of(next(leaves(out)))):
            why = "no layer of the source takes its input, and with neutral weights it gives no value of the source"
            raise ContradictionError(node, why)
        return 0.0
    want = assignment.expect(event)
    if want is None:
        raise ContradictionError(
            node, "is used again, on a value that the source's layer never takes", layer, matched=False
        )
    if layer is not None and layer.kind == event.kind and assignment.fold is None:
        eps = differences({"eps": event.options.get("eps")}, {"eps": layer.options.get("eps")})
        if eps:
            raise ContradictionError(node, eps, layer)
    got = event.out_rows(out, assignment.form)
    if got.shape != want.shape:
        theirs = layer.events[0].output if layer else None
        shapes = shape_text(next(leaves(out))), shape_text(want if theirs is None else theirs)
        raise ContradictionError(node, "gives {}, the source's layer {}".format(*shapes), layer)
    if placed.offset is not None:
        want = (want.reshape(len(want), len(placed.offset), -1) + placed.offset[:, None]).reshape(want.shape)
    distance = difference(got, want)
    single = node.single or (layer is not None and layer.single)
    if distance > (SINGLE if single else DOUBLE):
        raise ContradictionError(
            node, f"takes the same input and gives another result ({distance:.1e} relative)", layer
        )
    return distance


def shape_text(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))
