"""Where the result of an operation goes: the graph of a tape around one event."""

from __future__ import annotations

from collections.abc import Iterator

from dpnn_bridge.porting.tape import PARTS, VIEWS, Node

_REACH = 12


def signature(node: Node) -> tuple[tuple[str, str], ...]:
    """Operations between an event and the next events after it: tells branches apart that take the same input."""
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
    """The consumers of a value, views of it skipped."""
    front, seen = [node], {id(node)}
    while front:
        for consumer in front.pop().consumers:
            if id(consumer) not in seen:
                seen.add(id(consumer))
                if consumer.op in VIEWS:
                    front.append(consumer)
                else:
                    yield consumer


def through_sums(node: Node) -> Iterator[Node]:
    """Nodes that a value reaches through views and additions, the additions included."""
    front, seen = [node], {id(node)}
    while front:
        for consumer in front.pop().consumers:
            if id(consumer) not in seen and (consumer.op in VIEWS or consumer.op == "add"):
                seen.add(id(consumer))
                front.append(consumer)
                yield consumer


def sums_with(node: Node, other: Node) -> bool:
    """Whether one addition takes what two nodes give."""
    added = {id(n) for n in through_sums(node) if n.op == "add"}
    return any(n.op == "add" and id(n) in added for n in through_sums(other))


def gates(node: Node, sizes: tuple[int, ...], shape: dict[int, tuple[int, ...]]) -> int:
    """Into how many equal parts the last dimension of a result is divided, 1 where it is not.

    Args:
        node: the event.
        sizes: shape of its weight, as (outputs, inputs).
        shape: shapes by slot number.
    """
    outputs = sizes[0]
    for at in [node, *(n for n in through_sums(node))]:
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
                if len(whole) > 1 and whole[-1] * whole[-2] == outputs and 2 <= whole[-2] <= 4:
                    return whole[-2]  # viewed as (gates, size)
    return 1


def ancestors(node: Node) -> Iterator[Node]:
    """The nodes that one depends on, nearest first."""
    front, seen = [node], {id(node)}
    while front:
        for n in front.pop(0).inputs:
            if id(n) not in seen:
                seen.add(id(n))
                front.append(n)
                yield n
