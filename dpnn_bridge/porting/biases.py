"""Shift the biases of two filled networks by the same values: the biases of the file may hide a difference.

A ReLU before a maximum over time has no effect as long as every maximum is positive, and where a unit is 0 on the
example, the weights of the next layer have no effect.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dpnn_bridge.base.storage import storage_id
from dpnn_bridge.porting.comparison import Placed
from dpnn_bridge.porting.search import Search
from dpnn_bridge.porting.values import size_of, unexpanded

#: sizes of the shifts, relative to the likely size of a channel's values
SHIFTS = (3.0, -3.0)
#: further sizes for networks with different thresholds, which may differ in a small range only
SMALL_SHIFTS = (0.3, -0.3, 0.1, -0.1, 0.03, -0.03)


@contextmanager
def shifted(search: Search, model: nn.Module, factor: float) -> Iterator[None]:
    """Shift each bias that both networks have, by the same values in both.

    Equal elements of a bias get equal shifts, because the target may have them in another order.
    """
    generator = torch.Generator().manual_seed(0)
    sources = {name: p.detach() for name, p in model.named_parameters()}
    targets = {storage_id(t) for t in search.parameters.tensors.values()}
    shifts: dict[int, Tensor] = {}
    changed: dict[int, tuple[Tensor, Tensor]] = {}
    pairs = [(placed, _pair(placed, sources, targets)) for placed in search.placement.placed.values()]
    # a bias that the target also has in another form, such as moved or folded, would be shifted in the source only
    elsewhere = {name for placed, pair in pairs if pair is None for name in _roots(placed)}
    for placed, pair in pairs:
        if pair is None or pair[0] in elsewhere:
            continue
        index, tensors = placed.assignment.layers[0].index, (pair[1], sources[pair[0]])
        if index not in shifts:
            scale = factor * (tensors[0].abs().max() + _norm(placed))
            values, at = tensors[0].flatten().unique(return_inverse=True)
            shifts[index] = (torch.randn(len(values), generator=generator, dtype=torch.float64) * scale)[at]
        for tensor in tensors:
            if tensor.data_ptr() not in changed:
                changed[tensor.data_ptr()] = tensor, tensor.clone()
                tensor.add_(shifts[index].reshape(tensor.shape))
    try:
        yield
    finally:
        for tensor, before in changed.values():
            tensor.copy_(before)


def _name(placed: Placed) -> str:
    return "weight" if placed.event.kind == "add" else "bias"


def _pair(placed: Placed, sources: dict[str, Tensor], targets: set[int]) -> tuple[str, Tensor] | None:
    """Return the name of the source's bias and the event's equal bias; None if there is none, or several.

    Args:
        placed: the event with its assignment.
        sources: the source's parameters.
        targets: the storages of the target's parameters; a bias that is computed from one is in none.
    """
    weight = placed.event.weights.get(_name(placed))
    if weight is None or len(placed.assignment.layers) != 1 or unexpanded(weight.view) is not weight.view:
        return None
    if storage_id(weight.view) not in targets:
        return None
    own = weight.view.flatten()
    equal = [r for r in _roots(placed) if r in sources and torch.equal(sources[r].flatten(), own)]
    return (equal[0], weight.view) if len(equal) == 1 else None


def _roots(placed: Placed) -> set[str]:
    """Return the names of the source's tensors from which an event's weights come."""
    chosen = placed.assignment
    layers = [*chosen.layers, *(b.assignment.layer for b in chosen.moved), chosen.fold]
    layers += [layer.addition for layer in layers if layer is not None]
    return {root for layer in layers if layer is not None for root in layer.roots}


def _norm(placed: Placed) -> float:
    weight = placed.event.tensor("weight")
    rows = 1 if weight is None or not weight.dim() else len(weight)
    return 0.0 if weight is None else size_of(weight) * (weight.numel() / rows) ** 0.5
