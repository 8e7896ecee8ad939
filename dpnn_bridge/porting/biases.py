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
    shared = [(placed, *_biases(placed, sources, targets)) for placed in search.placement.placed.values()]
    for placed, *tensors in (entry for entry in shared if len(entry) > 1):
        index = placed.assignment.layers[0].index
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


def _biases(placed: Placed, sources: dict[str, Tensor], targets: set[int]) -> list[Tensor]:
    """Return an event's bias and the source's parameters that are equal to it; empty if there are none.

    Args:
        placed: the event with its assignment.
        sources: the source's parameters.
        targets: the storages of the target's parameters; a bias that is computed from one is in none.
    """
    weight = placed.event.weights.get(_name(placed))
    if weight is None or len(placed.assignment.layers) != 1 or unexpanded(weight.view) is not weight.view:
        return []
    if storage_id(weight.view) not in targets:
        return []
    roots = (sources[r] for r in placed.assignment.layers[0].roots if r in sources)
    sized = (t for t in roots if t.numel() == weight.view.numel())
    equal = [t for t in sized if torch.equal(t.flatten(), weight.view.flatten())]
    return [weight.view, *equal] if equal else []


def _norm(placed: Placed) -> float:
    weight = placed.event.tensor("weight")
    rows = 1 if weight is None or not weight.dim() else len(weight)
    return 0.0 if weight is None else size_of(weight) * (weight.numel() / rows) ** 0.5
