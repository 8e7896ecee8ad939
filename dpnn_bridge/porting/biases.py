"""Compare two networks again with shifted biases: the biases of the file may hide a missing ReLU.

A ReLU before a maximum over time has no effect as long as every maximum is positive. With equal shifts of the biases of
both networks, operations that differ between ranges have different results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.porting.comparison import Placed
from dpnn_bridge.porting.explain import deviation_at
from dpnn_bridge.porting.probe import ROUNDED, distance_of, is_ranged, limits_of
from dpnn_bridge.porting.report import Deviation
from dpnn_bridge.porting.search import Search
from dpnn_bridge.porting.source import Source
from dpnn_bridge.porting.tape import Node, Tape
from dpnn_bridge.porting.values import size_of, unexpanded
from dpnn_bridge.porting.wording import described

#: sizes of the shifts, relative to the likely size of a channel's values
_FACTORS = (1.0, 10.0)
#: operations whose input or result is not real numbers
_MASKS = frozenset(("gt", "ge", "lt", "le", "bitwise_and", "_local_scalar_dense", "is_nonzero"))
#: ends of reasons: for which inputs or weights the networks are equal, and for which not
LARGER = "on the example, but not on an input that is much larger"
OTHER_BIASES, OTHER_INPUT = "with these weights, but not with other biases", "on the first input, but not on the second"


def differ_in_biases(search: Search, model: nn.Module, runs: Callable[[], tuple[Any, Any]]) -> bool:
    """Return whether two networks with different counts of ReLUs and clips differ when their biases are shifted.

    Args:
        search: the search that found the weights.
        model: the source's module.
        runs: function that runs both networks on one input and returns the outputs of the source and of the target.
    """
    if _count(search.tape) == _count(search.source.tape):
        return False
    for factor in _FACTORS:
        with torch.no_grad(), _shifted(search, model, factor):
            try:
                expected, actual = runs()
            except Exception:  # mixed precisions that PyTorch rejects, or a check in the user's code
                return False
        if distance_of(actual, expected) > ROUNDED:
            return True
    return False


def missing_range(search: Search, when: str) -> Deviation | None:
    """Return the ReLU or clip that one of the networks lacks; None if it is not found.

    Args:
        search: a search whose source ran on the same example.
        when: inputs or weights for which the networks are equal without the operation, for the reason.
    """
    target, source = search.tape, search.source
    if _count(target) == _count(source.tape):
        return None
    for node in (n for n in source.tape.nodes if _clips(n)):
        if not any(
            p.matches(node.result_fingerprints[0]) for given in search.result_fingerprints.values() for p in given
        ):
            for here in _consumers_of_input(search, node):
                missing = f"in the source goes through {described(node)} first: it is missing here"
                return deviation_at(
                    here, source.names(node.owner), f"{described(here)} takes a value that {missing}; equal {when}"
                )
    for node in (n for n in target.nodes if _clips(n)):
        fingerprint = search.input_fingerprints[node.index][0]
        if fingerprint.matches(search.result_fingerprints[node.index][0]) and not _is_clipped_in(source, fingerprint):
            return deviation_at(node, "", f"{described(node)} here, no such operation in the source; equal {when}")
    return None


def other_range(search: Search) -> Deviation | None:
    """Return the first operation whose counterpart in the source has other limits, such as ReLU instead of ReLU6.

    Args:
        search: a search whose source ran on the same example.
    """
    for node in (n for n in search.tape.nodes if _clips(n)):
        values = search.input_fingerprints[node.index][0], search.result_fingerprints[node.index][0]
        equal = [n for n in search.source.tape.nodes if _clips(n) and _has_values(n, *values)]
        if equal and all(limits_of(n) != limits_of(node) for n in equal):
            path = search.source.names(equal[0].owner)
            return deviation_at(
                node, path, f"{described(node)} here, {described(equal[0])} in the source; equal {LARGER}"
            )
    return None


def _has_values(node: Node, input: Any, result: Any) -> bool:
    """Return whether a node of the source has an input and a result with these fingerprints."""
    return input.matches(node.input_fingerprints[0]) and result.matches(node.result_fingerprints[0])


def _clips(node: Node) -> bool:
    return is_ranged(node) and not node.constant and node.op not in _MASKS


def _count(tape: Tape) -> int:
    """Return the number of ReLUs, clips and similar operations."""
    return sum(map(_clips, tape.nodes))


def _consumers_of_input(search: Search, node: Node) -> Iterator[Node]:
    """Yield the operations of the target with the same input as a node of the source."""
    for here in search.tape.nodes:
        if any(p.matches(node.input_fingerprints[0]) for p in search.input_fingerprints.get(here.index, ())):
            yield here


def _is_clipped_in(source: Source, fingerprint: Any) -> bool:
    return any(_clips(n) and n.input_fingerprints[0].matches(fingerprint) for n in source.tape.nodes)


@contextmanager
def _shifted(search: Search, model: nn.Module, factor: float) -> Iterator[None]:
    """Shift each bias that both networks have, by the same values in both."""
    generator = torch.Generator().manual_seed(0)
    parameters = dict(model.named_parameters())
    shifts: dict[int, Tensor] = {}
    changed: dict[int, tuple[Tensor, Tensor]] = {}
    shared = [(placed, *_biases(placed, parameters)) for placed in search.placement.placed.values()]
    for placed, *tensors in (entry for entry in shared if len(entry) > 1):
        index = placed.assignment.layers[0].index
        if index not in shifts:
            scale = factor * (tensors[0].abs().max() + _norm(placed))
            shifts[index] = torch.randn(tensors[0].numel(), generator=generator, dtype=torch.float64) * scale
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


def _biases(placed: Placed, parameters: dict[str, nn.Parameter]) -> list[Tensor]:
    """Return an event's bias and the source's parameters that are equal to it; empty if there are none."""
    weight = placed.event.weights.get(_name(placed))
    if weight is None or len(placed.assignment.layers) != 1 or unexpanded(weight.view) is not weight.view:
        return []
    roots = (parameters[r].detach() for r in placed.assignment.layers[0].roots if r in parameters)
    sized = (t for t in roots if t.numel() == weight.view.numel())
    equal = [t for t in sized if torch.equal(t.flatten(), weight.view.flatten())]
    return [weight.view, *equal] if equal else []


def _norm(placed: Placed) -> float:
    weight = placed.event.tensor("weight")
    rows = 1 if weight is None or not weight.dim() else len(weight)
    return 0.0 if weight is None else size_of(weight) * (weight.numel() / rows) ** 0.5
