"""Check an implementation that already has its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import isfinite
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.base.arguments import bound, checks_arguments
from dpnn_bridge.base.boundary import wrap_errors
from dpnn_bridge.base.default_dtype import default_dtype
from dpnn_bridge.compare.memory import copied
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.porting.api import Port, port
from dpnn_bridge.porting.events import LINEAR, Event
from dpnn_bridge.porting.flow import sums_with, through_sums, through_views
from dpnn_bridge.porting.networks import doubled, fill, named_tensors, running_networks
from dpnn_bridge.porting.report import Deviation, PortReport
from dpnn_bridge.porting.search import Search
from dpnn_bridge.porting.tape import Node, Slot
from dpnn_bridge.porting.values import difference
from dpnn_bridge.porting.writing import Journal, Parameters

#: accepted rounding of stored weights: the larger of a relative difference and a multiple of the dtype's epsilon
_STORED, _EPSILONS = 1e-6, 4


@checks_arguments
@wrap_errors(ConversionError, "judging the weights")
@running_networks()
def judge(model: str | PathLike[str] | nn.Module, module: nn.Module, example: Any, **options: Any) -> PortReport:
    """Check whether a module with weights computes what a Torch7 model computes.

    The weights of the model are ported into a copy of the module and compared with the module's own weights. Biases may
    have other values if the result is the same: biases that are added to each other, or a bias that a normalization
    layer subtracts again.

    Args:
        model, module, example: as for :func:`dpnn_bridge.port`; the module does not change.
        **options: options of :func:`dpnn_bridge.port`.

    Returns:
        The report. ``first`` names the first parameter that differs. ``apply`` writes the model's weights into the
        module.
    """
    filled = copied(module)
    done = Port(**bound(port, model, filled, example, **options))
    report = done.run()
    report._fill = partial(fill, module, done.values)  # not the copy
    if not report.equal:
        return report
    differ = list(_differing(done.search, module, filled))
    if differ and _are_shifts(differ) and _computes_the_same(done, differ):
        names = dict.fromkeys(name for weight in differ for name in weight.names)
        report.notes.append(f"biases have other values with the same result: {', '.join(names)}")
        return report
    if differ:
        first = differ[0]
        distance, parameter = _distance(first.actual, first.expected), first.names[0]
        size = f"{distance:.1e} relative" if isfinite(distance) else "it contains NaN or infinity"
        what = (
            f"{parameter} differs"
            if len(first.names) == 1
            else f"the weight computed from {' and '.join(first.names)} differs"
        )
        reason = f"{what} from the source's values ({size}); load them with dpnn_bridge.port"
        source = next((m.source for m in report.matches if m.parameter == parameter), "")
        report.equal, report.difference = False, max(report.difference, distance)
        report.first = Deviation(parameter.rpartition(".")[0], "", source, reason)
    return report


@dataclass(eq=False)
class _Weight:
    """A weight of an event that differs from the source's.

    Attributes:
        event: the first use of the weight.
        name: name of the weight in the event.
        names: the parameters that the weight is computed from.
        actual, expected: the weight in the module, and after the port.
    """

    event: Event
    name: str
    names: list[str]
    actual: Tensor
    expected: Tensor

    @property
    def sign(self) -> int:
        """How the weight shifts the result: 1 if it is added, -1 if it is subtracted, 0 if it is no shift."""
        added = "bias" if self.event.kind in LINEAR else "weight" if self.event.kind == "add" else ""
        return 1 if self.name == added else -1 if (self.event.kind, self.name) == ("batch norm", "running_mean") else 0


def _differing(search: Search, module: nn.Module, filled: nn.Module) -> Iterator[_Weight]:
    """Yield the weights in which two modules differ. A parametrized weight is compared, not its parameters."""
    actual, expected = _computed(search, module), _computed(search, filled)
    tensors, seen = named_tensors(module), set()
    for placed in search.placement.placed.values():
        for name, weight in placed.event.weights.items():
            if weight is None or weight.slot in seen:
                continue
            seen.add(weight.slot)
            names = search.tape.root_names(weight.slot)
            values = actual(weight.slot), expected(weight.slot)
            dtypes = {tensors[n].dtype for n in names if tensors[n].is_floating_point()}
            epsilon = max((torch.finfo(dtype).eps for dtype in dtypes), default=0.0)
            if _distance(*values) > max(_STORED, _EPSILONS * epsilon):
                yield _Weight(placed.event, name, names, *values)


def _computed(search: Search, module: nn.Module) -> Callable[[int], Tensor]:
    """Return a function that computes the weight in a slot from the parameters of a module."""
    env: list[Any] = [None] * search.tape.size
    for number, tensor in search.tape.constants.items():
        env[number] = tensor.clone()
    tensors = {name: doubled(tensor.detach().clone()) for name, tensor in named_tensors(module).items()}
    parameters = Parameters(search.tape, env, tensors, Journal())
    return default_dtype(torch.float64)(lambda slot: parameters.computed(Slot(slot)))


def _distance(actual: Tensor, expected: Tensor) -> float:
    """Return the largest difference relative to the largest element of both."""
    larger = max(actual, expected, key=lambda t: float(t.abs().max()) if t.numel() else 0.0)
    return difference(expected if larger is actual else actual, larger)


def _are_shifts(differ: list[_Weight]) -> bool:
    """Return whether all differing weights are shifts that cancel out in their sum or before their norm."""
    if not all(weight.sign for weight in differ):
        return False
    for group in _groups([w for w in differ if not _is_normalized_away(w.event.node)]):
        if len({w.actual.numel() for w in group}) > 1:
            return False
        values = [w.actual for w in group], [w.expected for w in group]
        sums = [sum(w.sign * t.flatten() for w, t in zip(group, ts, strict=True)) for ts in values]
        scale = max(float(t.abs().max()) for ts in values for t in ts)
        if not float((sums[0] - sums[1]).abs().max()) <= _STORED * scale:  # type: ignore[operator, union-attr]
            return False
    return True


def _groups(shifts: list[_Weight]) -> list[list[_Weight]]:
    """Return the shifts in groups; the shifts of a group are added to each other."""
    groups: list[list[_Weight]] = []
    for shift in shifts:
        near = [g for g in groups if any(_are_connected(shift.event.node, other.event.node) for other in g)]
        groups = [g for g in groups if g not in near] + [[shift, *(w for g in near for w in g)]]
    return groups


def _are_connected(node: Node, other: Node) -> bool:
    """Return whether two results are added, or one operation reads the other's result or a sum that includes it."""
    return sums_with(node, other) or _precedes(node, other) or _precedes(other, node)


def _precedes(node: Node, other: Node) -> bool:
    return any(maker in other.inputs for maker in (node, *through_sums(node)))


def _is_normalized_away(node: Node) -> bool:
    """Return whether only norms with statistics of their input read a result, so that a shift has no effect."""
    users = list(through_views(node))
    own = ("instance norm", "batch norm over the batch")
    return bool(users) and all(n.event is not None and n.event.kind in own for n in users)


def _computes_the_same(done: Port, differ: list[_Weight]) -> bool:
    """Return whether the networks are equal with the module's shifts.

    The last shift of each group is adjusted so that the shifts of the group cancel out exactly, without rounding.
    """
    trial = copied(done.target)
    tensors = named_tensors(trial)
    with torch.no_grad():
        for group in _groups(differ):
            rest = torch.zeros(group[0].actual.numel(), dtype=torch.float64)
            for weight in group:
                if weight.names[1:] or tensors[weight.names[0]].numel() != weight.actual.numel():
                    return False
                tensor, delta = tensors[weight.names[0]], (weight.actual - weight.expected).flatten()
                last = weight is group[-1] and not _is_normalized_away(weight.event.node)
                tensor += (-rest * weight.sign if last else delta).reshape(tensor.shape)
                rest += weight.sign * delta
    return all(not done.prove(example, trial).outputs.problem for example in done.examples)
