"""List the possible assignments of an event (one use of weights in the target), most likely first."""

from __future__ import annotations

from typing import Any

from dpnn_bridge.porting.assignment import Assignment, kept, neutral, unchanged, with_moved_biases
from dpnn_bridge.porting.divisions import Part, complete, divisions
from dpnn_bridge.porting.events import Event
from dpnn_bridge.porting.flow import parts_of, signature, sums_with, through_views
from dpnn_bridge.porting.joining import joined
from dpnn_bridge.porting.pieces import interleaved, of_pieces
from dpnn_bridge.porting.placement import Placement
from dpnn_bridge.porting.rearranging import outputs_exchanged, rearranged
from dpnn_bridge.porting.source import Source
from dpnn_bridge.porting.tape import Tape


def candidates(
    event: Event, tape: Tape, source: Source, placement: Placement, signatures: dict[int, Any]
) -> list[Assignment]:
    """Return the assignments that may fit an event, most likely first.

    Args:
        event: the event, one use of weights in the target.
        tape: recording of the target.
        source: the source.
        placement: the assignments so far.
        signatures: layer index -> signature of the source's layer, see :func:`~dpnn_bridge.porting.flow.signature`.
    """
    sizes = _parts(event, tape)
    count = len(sizes)
    found = list(unchanged(event, source))  # the weights of one layer, or a layer and its batch norm
    # a batch norm that the target has too is not folded into the weights
    if any(n.event is not None and n.event.kind == "batch norm" for n in through_views(event.node)):
        found = [a for a in found if a.fold is None]
    for plain in found:
        plain.part_count, plain.order = count, tuple(range(count))
    if event.kind == "linear" and count == 1:
        found += [other for plain in found[:1] for other in outputs_exchanged(event, plain, tape)]
    if event.kind == "embedding" and not found:
        found += rearranged(event, source, tape)
    if not found:
        found += joined(event, source)  # several layers, or some channels of one
    parts = complete(divisions(tape, event, sum(sizes)), sum(sizes)) if sizes else []
    all_used = all(a.uses() & placement.used.keys() for a in found)
    if sizes and (count > 1 or all_used):
        found += of_pieces(event, source, sizes)  # parts of linear layers, such as gates in another order
        found += interleaved(event, source, parts)
    elif parts and any(_divides_otherwise(a, source, parts) for a in found):
        found += interleaved(event, source, parts)
    if not found:
        found += rearranged(event, source, tape)
    found += with_moved_biases(event, source, placement.biases)  # biases of operations that have no bias in the target
    found = found or [*neutral(event), *kept(event, source)]  # weights that make the event the identity, or unchanged
    if count > 1:
        return _like_neighbours(found, event, placement)
    following = signature(event.node)

    def cost(a: Assignment) -> tuple[Any, ...]:
        used = any(u in placement.used for u in a.uses())
        end = a.fold or a.layer
        return used, a.unconfirmed, end is None or signatures[end.index] != following, a.fold is not None

    return sorted(found, key=cost)


def _divides_otherwise(assignment: Assignment, source: Source, parts: list[Part]) -> bool:
    """Return whether the source divides the outputs of an assigned layer into other parts than the target."""
    outputs = sum(map(len, parts))
    uses = assignment.layer.events if assignment.layer is not None else []
    found = [complete(divisions(source.tape, use, outputs), outputs) for use in uses]
    return any(found) and parts not in found


def _parts(event: Event, tape: Tape) -> tuple[int, ...]:
    """Return the sizes of the parts into which the target divides the outputs of a linear map or a convolution.

    Other events, and convolutions with groups, give an empty tuple.
    """
    if event.kind == "conv" and event.options["groups"] == 1:
        return parts_of(event.node, event.sizes[0], tape.shapes, 1)
    form = event.linear_form
    return parts_of(event.node, form[1], tape.shapes) if form else ()


def _like_neighbours(found: list[Assignment], event: Event, placement: Placement) -> list[Assignment]:
    """Sort assignments: unused layers first, then the order of parts of the last event whose result has several parts.

    If this event's result is added to that of such an event, only assignments with the same order of parts remain, if
    there are any.
    """
    gated = [p for p in reversed(placement.placed.values()) if p.assignment.part_count > 1]
    near = gated[0].assignment.order if gated else None
    added = [p.assignment.order for p in gated if sums_with(p.event.node, event.node)]
    same = [a for a in found if a.order is not None and a.order == added[0]] if added else []

    def cost(a: Assignment) -> tuple[bool, bool]:
        return any(u in placement.used for u in a.uses()), bool(gated) and a.order != near

    return sorted(same or found, key=cost)
