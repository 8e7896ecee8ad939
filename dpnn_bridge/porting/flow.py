"""Follow the result of an operation through the graph of a tape."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor

from dpnn_bridge.porting.events import Event
from dpnn_bridge.porting.tape import PARTS, VIEWS, Node, Slot, Tape, leaves, replaced

#: maximum number of operations between an event and the operations in its signature
_MAX_DEPTH = 12
#: maximum number of sums and views between a result and its parts; a residual network adds up the results of all layers
_MAX_SUMS = 256
#: maximum number of gates of a recurrent layer, and of other parts of one result
_GATES = 4
#: operations that read only the shape and the type of an activation
FILLING = frozenset(
    ["new_zeros", "new_ones", "new_full", "new_empty", "zeros_like", "ones_like", "full_like", "empty_like"]
)
_RESHAPING = frozenset(("view", "_unsafe_view", "reshape", "_reshape_alias"))
#: functions that a recurrent layer may apply to all gates at once
POINTWISE = frozenset(("sigmoid", "tanh", "hardsigmoid", "relu"))


def signature(node: Node) -> tuple[tuple[str, str], ...]:
    """Return the operations between an event and the next events, which distinguish branches with the same input.

    Returns:
        Sorted pairs (type of the event, sizes), or (operation, ``""``).
    """
    seen, found, stack = {id(node)}, [], [(node, 0)]
    while stack:
        at, depth = stack.pop()
        for consumer in at.consumers:
            if id(consumer) in seen or depth > _MAX_DEPTH:
                continue
            seen.add(id(consumer))
            event = consumer.event
            if event is not None:
                found.append((event.kind, str(event.sizes)))
            else:
                if consumer.op not in VIEWS:
                    found.append((consumer.op, ""))
                stack.append((consumer, depth + 1))
    return tuple(sorted(found))


def through_views(node: Node) -> Iterator[Node]:
    """Yield the operations that read a value or a view of it; views are not yielded."""
    stack, seen = [node], {id(node)}
    while stack:
        for consumer in stack.pop().consumers:
            if id(consumer) not in seen:
                seen.add(id(consumer))
                if consumer.op in VIEWS:
                    stack.append(consumer)
                else:
                    yield consumer


def through_sums(node: Node, others: frozenset[str] = frozenset()) -> Iterator[Node]:
    """Yield the views, additions and operations in ``others`` that a value flows through, nearest first."""
    queue, seen = deque([node]), {id(node)}
    while queue:
        for consumer in queue.popleft().consumers:
            if id(consumer) not in seen and (consumer.op in VIEWS or adds(consumer) or consumer.op in others):
                seen.add(id(consumer))
                queue.append(consumer)
                yield consumer


def adds(node: Node) -> bool:
    """Return whether a node adds activations."""
    return node.op == "add" or (node.event is not None and node.event.adds)


def sums_with(node: Node, other: Node) -> bool:
    """Return whether one addition sums the results of two nodes."""
    added = {id(n) for n in through_sums(node) if adds(n)}
    return any(id(n) in added for n in (other, *through_sums(other)))


def addition_after(node: Node, shapes: dict[int, tuple[int, ...]]) -> Event | None:
    """Return the addition of weights to a result or to its sum with others, if every use goes through it, else None.

    The result keeps its last dimension up to a sum; otherwise the weights could belong to another dimension.

    Args:
        node: the operation with the result.
        shapes: slot number -> shape.
    """
    size, keeps, summed = shapes[node.outs[0].number][-1:], True, False
    while True:
        views, after = [node], dict[int, Node]()
        while views:
            for consumer in views.pop().consumers:
                if consumer.op in VIEWS:
                    keeps &= shapes[consumer.outs[0].number][-1:] == size
                    views.append(consumer)
                else:
                    after[id(consumer)] = consumer
        if len(after) != 1:
            return None
        (node,) = after.values()
        if node.event is not None and node.event.kind == "add":
            return node.event if keeps or not summed else None
        if not adds(node) or not keeps:
            return None
        summed = True


def joined_sizes(tape: Tape, event: Event, dim: int) -> tuple[int, ...] | None:
    """Return the sizes of the values that are concatenated to an event's input, along its channels, else None.

    Args:
        tape: the tape of the event.
        event: the event.
        dim: dimension of the channels: 1 for a convolution, -1 for a linear map.
    """
    slot = event.slot
    node = None if slot is None else tape.maker.get(slot.number)
    while node is not None and node.op in VIEWS and dim == -1:
        size, slot = tape.shapes[node.outs[0].number][-1:], node.reads[0]
        node = tape.maker.get(slot.number) if tape.shapes[slot.number][-1:] == size else None
    if node is None or node.op != "cat":
        return None
    shapes = [tape.shapes[s.number] for s in node.reads]
    at, rank = node.options().get("dim", 0), len(shapes[0])
    if at % rank != dim % rank or any(len(shape) != rank for shape in shapes):
        return None
    return tuple(shape[at] for shape in shapes)


def parts_of(node: Node, outputs: int, shapes: dict[int, tuple[int, ...]], dim: int = -1) -> tuple[int, ...]:
    """Return the sizes of the parts into which a network divides a result; ``(outputs,)`` if it does not.

    Args:
        node: the event.
        outputs: number of outputs.
        shapes: slot number -> shape.
        dim: dimension of the outputs: 1 for a convolution.
    """
    for at in [node, *islice(through_sums(node, POINTWISE), _MAX_SUMS)]:
        slices: dict[int, tuple[int, int]] = {}
        for consumer in at.consumers:
            if consumer.op not in PARTS or not consumer.outs:
                continue
            total, parts = shapes[consumer.reads[0].number], [shapes[s.number] for s in consumer.outs]
            if not total or not all(parts) or len(total) <= dim:
                continue
            if total[dim] == outputs and len(parts[0]) == len(total):
                if len(parts) > 1:
                    return _even([p[dim] for p in parts])
                if 0 < parts[0][dim] < outputs:
                    slices[consumer.index] = _slice(consumer, parts[0][dim])
            for count in total[-2:-1] + total[:1] if dim == -1 else ():
                if count * total[-1] == outputs and 2 <= count <= _GATES:
                    return (total[-1],) * count  # viewed as (…, gates, size) or (gates, …, size)
        if slices:
            return _sizes(sorted(set(slices.values())), outputs)
    return (outputs,)


def _slice(node: Node, size: int) -> tuple[int, int]:
    """Return the start and the size of a slice."""
    start = node.options().get("start")
    return (start if isinstance(start, int) and start >= 0 else 0), size


def _sizes(slices: list[tuple[int, int]], outputs: int) -> tuple[int, ...]:
    """Return the sizes of adjacent slices (start, size). If there are gaps, return parts of the smallest size."""
    at, sizes = 0, []
    for start, size in slices:
        if start == at:
            sizes.append(size)
            at += size
    if at != outputs:
        size = min(size for _, size in slices)
        sizes = [size] * (outputs // size) if outputs % size == 0 else [outputs]
    return _even(sizes)


def _even(sizes: list[int]) -> tuple[int, ...]:
    """Return the sizes of parts that are not empty; up to four equal parts if the smallest size divides all sizes."""
    sizes = [size for size in sizes if size]
    smallest, total = min(sizes), sum(sizes)
    if total // smallest <= _GATES and not any(size % smallest for size in sizes):
        return (smallest,) * (total // smallest)
    return tuple(sizes) if len(sizes) <= _GATES else (total,)


def unflattened_results(tape: Tape, node: Node, outputs: int) -> Iterator[tuple[int, int]]:
    """Yield the sizes (a, b) of the two dimensions into which a network splits the last dimension of a result."""
    stack, seen = [node], {id(node)}
    while stack:
        for consumer in stack.pop().consumers:
            if id(consumer) in seen or consumer.op not in VIEWS:
                continue
            seen.add(id(consumer))
            stack.append(consumer)
            shape, viewed = (tape.shapes[s.number] for s in (consumer.reads[0], consumer.outs[0]))
            if consumer.op not in _RESHAPING or shape[-1:] != (outputs,) or len(viewed) < 2 or 1 in viewed[-2:]:
                continue
            if viewed[-2] * viewed[-1] == outputs:
                yield viewed[-2], viewed[-1]


def reads_unregistered(tape: Tape, node: Node) -> bool:
    """Return whether an operand is, or is computed from, a tensor that is no input, parameter or buffer."""
    stack, seen = list(node.reads), set()
    while stack:
        slot = stack.pop()
        if slot.number in tape.external:
            return True
        made = tape.maker.get(slot.number)
        if made is not None and made.constant and slot not in seen:
            seen.add(slot)
            stack += made.reads
    return False


def ancestors(*nodes: Node) -> Iterator[Node]:
    """Yield the other nodes that nodes depend on, nearest first."""
    queue, seen = deque(nodes), set(map(id, nodes))
    while queue:
        for n in queue.popleft().inputs:
            if id(n) not in seen:
                seen.add(id(n))
                queue.append(n)
                yield n


def output_nodes(tape: Tape) -> list[Node]:
    """Return the nodes that computed the outputs; empty if the forward pass failed."""
    return [tape.maker[slot.number] for slot in tape.output or () if slot.number in tape.maker]


def _input_views(tape: Tape, event: Event) -> tuple[Slot | None, list[Node]]:
    """Return the value of which an event's input is a view, and the views in between, the last one first."""
    slot, chain = event.slot, []
    while slot is not None and (node := tape.maker.get(slot.number)) is not None:
        if node.op not in VIEWS or node.mutates or len(node.outs) != 1 or len(node.reads) != 1:
            break
        chain.append(node)
        slot = node.reads[0]
    return slot, chain


def unflattened(tape: Tape, event: Event) -> tuple[int, ...]:
    """Return the shape of one sample of the value that was flattened to an event's rows."""
    slot, _ = _input_views(tape, event)
    return () if slot is None else tape.shapes[slot.number][1:]


def moved_index(tape: Tape, event: Event, shape: Sequence[int]) -> Tensor | None:
    """Return the positions of the elements of an event's input before the views that made the input.

    Args:
        tape: the tape of the event.
        event: an event whose input has one row for each sample.
        shape: (samples, columns) of the input.

    Returns:
        For each column, the position in a sample of the original value; None if there are no views.
    """
    slot, chain = _input_views(tape, event)
    if slot is None or not chain:
        return None
    origin = tape.shapes[slot.number]
    index = torch.arange(math.prod(origin)).reshape(origin)
    for node in reversed(chain):
        i = index.contiguous()  # the recorded view is then valid, whatever the memory format was
        try:
            index = node.func(*replaced(node.args, lambda v, i=i: i if isinstance(v, Slot) else v), **node.kwargs)
        except RuntimeError:  # the view depends on the memory layout, or is of complex numbers
            return None
        index = next(leaves(index)).long()  # split, chunk and unbind return a list; a conversion returns real numbers
    if index.numel() != math.prod(shape) or not origin or origin[0] != shape[0]:
        return None
    return index.reshape(*shape)[0]


def last_readers(tape: Tape) -> dict[int, list[int]]:
    """Return node index -> slot numbers of the activations that no later node reads and that are not outputs.

    Operands of the operations that compute weights are kept, because writing a weight inverts these operations.
    """
    last = {s.number: node.index for node in tape.nodes for s in (*node.outs, *node.reads)}
    operands = {s.number for number in tape.weights if (made := tape.maker.get(number)) for s in made.reads}
    outputs = (s.number for s in leaves(tape.output) if isinstance(s, Slot))
    for kept in (*tape.weights, *tape.constants, *operands, *outputs):
        last.pop(kept, None)
    found: dict[int, list[int]] = {}
    for number, index in last.items():
        found.setdefault(index, []).append(number)
    return found
