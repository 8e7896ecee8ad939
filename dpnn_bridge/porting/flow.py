"""Where the result of an operation goes: the graph of a tape around one event."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from dpnn_bridge.porting.events import Event
from dpnn_bridge.porting.tape import PARTS, VIEWS, Node, Slot, Tape, replaced

_REACH = 12
#: gates of a recurrent layer, and other parts of one result, at most
_GATES = 4
_RESHAPING = frozenset(("view", "_unsafe_view", "reshape", "_reshape_alias"))
#: functions that a recurrent layer may apply to all gates at once
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


def parts_of(node: Node, outputs: int, shape: dict[int, tuple[int, ...]], dim: int = -1) -> tuple[int, ...]:
    """Return the sizes of the parts that a network divides a result into, ``(outputs,)`` if it does not.

    Args:
        node: the event.
        outputs: size of the dimension that holds the outputs.
        shape: shapes by slot number.
        dim: that dimension: 1 for a convolution.
    """
    for at in [node, *through_sums(node, _POINTWISE)]:
        taken: dict[int, tuple[int, int]] = {}
        for consumer in at.consumers:
            if consumer.op not in PARTS or not consumer.outs:
                continue
            whole, parts = shape[consumer.reads[0].number], [shape[s.number] for s in consumer.outs]
            if not whole or not all(parts) or len(whole) <= dim:
                continue
            if whole[dim] == outputs and len(parts[0]) == len(whole):
                if len(parts) > 1:
                    return _even([p[dim] for p in parts])
                if parts[0][dim] < outputs:
                    taken[consumer.index] = _slice(consumer, parts[0][dim])
            for count in whole[-2:-1] + whole[:1] if dim == -1 else ():
                if count * whole[-1] == outputs and 2 <= count <= 4:
                    return (whole[-1],) * count  # viewed as (…, gates, size) or (gates, …, size)
        if taken:
            return _sizes(sorted(set(taken.values())), outputs)
    return (outputs,)


def _slice(node: Node, size: int) -> tuple[int, int]:
    """Return where a slice begins and how long it is."""
    start = node.options().get("start")
    return (start if isinstance(start, int) and start >= 0 else 0), size


def _sizes(taken: list[tuple[int, int]], outputs: int) -> tuple[int, ...]:
    """Return the sizes of slices that lie side by side; equal parts where slices of one size leave a gap."""
    at, sizes = 0, []
    for start, size in taken:
        if start == at:
            sizes.append(size)
            at += size
    if at != outputs:
        size = min(size for _, size in taken)
        sizes = [size] * (outputs // size) if outputs % size == 0 else [outputs]
    return _even(sizes)


def _even(sizes: list[int]) -> tuple[int, ...]:
    """Return the sizes of parts; where the smallest one divides all others, up to four equal parts."""
    least, total = min(sizes), sum(sizes)
    if least and total // least <= _GATES and not any(size % least for size in sizes):
        return (least,) * (total // least)
    return tuple(sizes) if len(sizes) <= _GATES else (total,)


def unflattened_results(tape: Tape, node: Node, outputs: int) -> Iterator[tuple[int, int]]:
    """Yield the sizes (a, b) that a network views the last dimension of a result as."""
    front, seen = [node], {id(node)}
    while front:
        for consumer in front.pop().consumers:
            if id(consumer) in seen or consumer.op not in VIEWS:
                continue
            seen.add(id(consumer))
            front.append(consumer)
            whole, viewed = (tape.shapes[s.number] for s in (consumer.reads[0], consumer.outs[0]))
            if consumer.op not in _RESHAPING or whole[-1:] != (outputs,) or len(viewed) < 2 or 1 in viewed[-2:]:
                continue
            if viewed[-2] * viewed[-1] == outputs:
                yield viewed[-2], viewed[-1]


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
        The position in a sample of the value, or None if nothing moved.
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
