"""Find the parts into which a network divides the outputs of a layer, such as the queries, keys and values of heads."""

from __future__ import annotations

from collections import deque

import numpy as np
import torch
from torch import Tensor

from dpnn_bridge.porting.events import Event
from dpnn_bridge.porting.flow import POINTWISE, adds
from dpnn_bridge.porting.tape import VIEWS, Node, Slot, Tape, replaced

#: the indices of some outputs of a layer, in the order in which they lie in a part of the result
Part = tuple[int, ...]
#: maximum numbers of parts of a result, and of elements of a result that is divided
_MAX_PARTS, _MAX_ELEMENTS = 24, 2_000_000
_RESHAPING = frozenset(("view", "_unsafe_view", "_reshape_alias"))


def divisions(tape: Tape, event: Event, outputs: int) -> list[Part]:
    """Return the parts into which a network divides the outputs of an event; parts of parts come later.

    Views, slices and sums of the result are followed with the indices of the outputs in place of its elements.

    Args:
        tape: the tape of the event.
        event: the event.
        outputs: number of outputs.
    """
    slot, dim = event.node.outs[0], event.outputs_dim
    shape = tape.shapes[slot.number]
    if len(shape) < 2 or shape[dim] != outputs or torch.Size(shape).numel() > _MAX_ELEMENTS:
        return []
    along = [1] * len(shape)
    along[dim] = outputs
    queue = deque([(event.node, slot, torch.arange(outputs).view(along).expand(shape))])
    found: dict[Part, None] = {}
    while queue and len(found) < _MAX_PARTS:
        node, slot, indices = queue.popleft()
        for consumer in node.consumers:
            for out, moved in _after(consumer, slot, indices, tape):
                queue.append((consumer, out, moved))
                if moved is not indices and moved.numel() < indices.numel():
                    values, first = np.unique(moved.numpy(), return_index=True)
                    if len(values) < outputs:
                        found[tuple(values[np.argsort(first)].tolist())] = None
    return list(found)


def complete(parts: list[Part], outputs: int) -> list[Part]:
    """Return the largest parts if each output is in one of them, else an empty list."""
    sets = [frozenset(part) for part in parts]
    largest = [part for part, own in zip(parts, sets, strict=True) if not any(own < other for other in sets)]
    unique = {frozenset(part): part for part in reversed(largest)}
    return [*unique.values()][::-1] if sum(map(len, unique)) == outputs == len(frozenset().union(*unique)) else []


def _after(node: Node, slot: Slot, indices: Tensor, tape: Tape) -> list[tuple[Slot, Tensor]]:
    """Return the results of an operation that moves elements or computes with each, with indices as elements."""
    if slot not in node.reads or not node.outs:
        return []
    shapes = [tape.shapes[out.number] for out in node.outs]
    if node.op in _RESHAPING:
        return [(node.outs[0], indices.reshape(shapes[0]))]
    if shapes == [tuple(indices.shape)] and (node.op in POINTWISE or adds(node) or node.op == "_to_copy"):
        return [(node.outs[0], indices)]
    if node.op not in VIEWS or node.mutates or node.op == "as_strided":
        return []
    try:
        result = node.func(*replaced(node.args, lambda v: indices if v == slot else v), **node.kwargs)
    except Exception:  # an operation that needs elements of the network's type
        return []
    results = [result] if isinstance(result, Tensor) else list(result)
    return list(zip(node.outs, results, strict=True)) if len(results) == len(node.outs) else []
