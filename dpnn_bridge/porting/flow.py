"""Where the result of an operation goes: the graph of a tape around one event."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from dpnn_bridge.porting.events import Event
from dpnn_bridge.porting.tape import PARTS, VIEWS, Node, Slot, Tape, replaced

_REACH = 12
#: what a recurrent layer may do to all gates at once
_POINTWISE = frozenset(("sigmoid", "tanh", "hardsigmoid", "relu"))


def signature(node: Node) -> tuple[tuple[str, str], ...]:
    """Return the operations between an event and the next events: they distinguish branches with the same input."""
    seen, found, front = {id(node)}, [], [(node, 0)]
    while front:
        at, depth = front.pop()
        for consumer in at.consumers:
            if id(consumer) in seen or depth > _REACH:
                continue
            seen.add(id(consumer))
            event = consumer.event
            if event is not None:
                found.append((event.kind, str(event.sizes)))
            else:
                if consumer.op not in VIEWS:
                    found.append((consumer.op, ""))
                front.append((consumer, depth + 1))
    return tuple(sorted(found))


def through_views(node: Node) -> Iterator[Node]:
    """Yield the consumers of a value, views of it skipped."""
    front, seen = [node], {id(node)}
    while front:
        for consumer in front.pop().consumers:
            if id(consumer) not in seen:
                seen.add(id(consumer))
                if consumer.op in VIEWS:
                    front.append(consumer)
                else:
                    yield consumer


def through_sums(node: Node, others: frozenset[str] = frozenset()) -> Iterator[Node]:
    """Yield the nodes that a value reaches through views, additions and other operations, including these."""
    front, seen = [node], {id(node)}
    while front:
        for consumer in front.pop().consumers:
            if id(consumer) not in seen and (consumer.op in VIEWS or adds(consumer) or consumer.op in others):
                seen.add(id(consumer))
                front.append(consumer)
                yield consumer


def adds(node: Node) -> bool:
    """Return whether a node adds activations."""
    return node.op == "add" or (node.event is not None and node.event.adds)


def sums_with(node: Node, other: Node) -> bool:
    """Return whether one addition takes what two nodes give."""
    added = {id(n) for n in through_sums(node) if adds(n)}
    return any(id(n) in added for n in (other, *through_sums(other)))


def gates(node: Node, outputs: int, shape: dict[int, tuple[int, ...]]) -> int:
    """Return the number of equal parts of a result's last dimension, 1 if it is not divided.

    Args:
        node: the event.
        outputs: size of the last dimension.
        shape: shapes by slot number.
    """
    for at in [node, *through_sums(node, _POINTWISE)]:
        for consumer in at.consumers:
            if consumer.op in PARTS and consumer.outs:
                part = shape[consumer.outs[0].number]
                whole = shape[consumer.reads[0].number]
                if not part or not whole:
                    continue
                if (
                    whole[-1] == outputs
                    and part[-1] * 2 <= outputs
                    and outputs % part[-1] == 0
                    and outputs // part[-1] <= 4
                ):
                    return outputs // part[-1]
                for count in whole[-2:-1] + whole[:1]:
                    if count * whole[-1] == outputs and 2 <= count <= 4:
                        return count  # viewed as (…, gates, size) or (gates, …, size)
    return 1


def ancestors(node: Node) -> Iterator[Node]:
    """Yield the nodes that one depends on, nearest first."""
    front, seen = [node], {id(node)}
    while front:
        for n in front.pop(0).inputs:
            if id(n) not in seen:
                seen.add(id(n))
                front.append(n)
                yield n


def _moves(tape: Tape, event: Event) -> tuple[Slot | None, list[Node]]:
    """Return the value that views made an event's input of, and the views, the last one first."""
    slot, chain = event.slot, []
    while slot is not None and (node := tape.maker.get(slot.number)) is not None:
        if node.op not in VIEWS or node.mutates or len(node.outs) != 1 or len(node.reads) != 1:
            break
        chain.append(node)
        slot = node.reads[0]
    return slot, chain


def unflattened(tape: Tape, event: Event) -> tuple[int, ...]:
    """Return the shape of one sample of the value that an event's rows were flattened from."""
    slot, _ = _moves(tape, event)
    return () if slot is None else tape.shapes[slot.number][1:]


def moved_index(tape: Tape, event: Event, shape: Sequence[int]) -> Tensor | None:
    """Return where the elements of an event's columns were before views.

    Args:
        tape: the tape of the event.
        event: an event whose input has one row for each sample.
        shape: (samples, columns).

    Returns:
        The position in a sample of the value, or None where nothing moved.
    """
    slot, chain = _moves(tape, event)
    if slot is None or not chain:
        return None
    origin = tape.shapes[slot.number]
    index = torch.arange(math.prod(origin)).reshape(origin)
    for node in reversed(chain):
        i = index.contiguous()  # a view is allowed then, whatever the memory format was
        index = node.func(*replaced(node.args, lambda v, i=i: i if isinstance(v, Slot) else v), **node.kwargs)
    if index.numel() != math.prod(shape) or not origin or origin[0] != shape[0]:
        return None
    return index.reshape(*shape)[0]
