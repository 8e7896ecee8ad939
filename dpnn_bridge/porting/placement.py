"""Write the weights of an assignment to an event, move biases where needed, and compare the event's result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dpnn_bridge.porting.assignment import Assignment, MovedBias
from dpnn_bridge.porting.comparison import ContradictionError, Placed, compare_event, shape_text
from dpnn_bridge.porting.events import LINEAR, Event
from dpnn_bridge.porting.flow import sums_with
from dpnn_bridge.porting.source import Layer, Source
from dpnn_bridge.porting.writing import Journal, NoInverseError, Parameters


class Placement:
    """The assignments so far. The journal records every change.

    Attributes:
        placed: key of the weights of an event -> the event with its assignment.
        used: (layer index, part, number of parts) -> number of events with this part of a layer of the source.
        biases: biases of the source that no operation of the target adds yet.
    """

    def __init__(self, parameters: Parameters, journal: Journal, source: Source) -> None:
        self.parameters, self.journal, self.source = parameters, journal, source
        self.placed: dict[Any, Placed] = {}
        self.used: dict[tuple[int, int, int], int] = {}
        self.biases: list[MovedBias] = []

    def place(self, key: Any, event: Event, assignment: Assignment, run: Callable[[], Any]) -> Any:
        """Write the weights of an assignment, run the event and compare its result.

        Returns:
            The result. If an earlier event, which has already run, got the bias of this event, the bias is added to
            the result here.

        Raises:
            ContradictionError: the result differs, or the weights do not fit.
        """
        offset, moved_to = self._write(event, assignment)
        out = run()
        placed = Placed(event, assignment, offset, moved_to)
        self.compare(event, placed, out)
        if not any(moved.event is event for moved in self.biases):
            event.release_input()
        self.placed[key] = placed
        self.journal.add(lambda: self.placed.pop(key, None))
        for use in assignment.uses():
            self.used[use] = self.used.get(use, 0) + 1
            self.journal.add(lambda use=use: self._release(use))
        placed.nodes.append(event.node)
        return _completed(event, placed, out)

    def use_again(self, event: Event, placed: Placed, out: Any) -> Any:
        """Compare the result of another use of an event; return it with the bias that an earlier event got too late.

        Raises:
            ContradictionError: the result differs.
        """
        self.compare(event, placed, out)
        placed.nodes.append(event.node)
        self.journal.add(placed.nodes.pop)
        return _completed(event, placed, out)

    def compare(self, event: Event, placed: Placed, out: Any) -> None:
        """Compare the result of an event with that of the source's layer.

        Raises:
            ContradictionError: the result differs.
        """
        try:
            compare_event(event, placed, out, self.source)
        except ContradictionError as contradiction:
            contradiction.conflicts |= placed.event.node.origins | event.node.origins
            raise
        if not placed.exercised and exercises(event):
            placed.exercised = True
            self.journal.add(lambda: setattr(placed, "exercised", False))

    def drop_biases(self, origins: int) -> None:
        """Discard the biases of the events in a bit set, because a norm after them subtracts every constant."""
        self._set_biases([b for b in self.biases if not origins >> b.event.node.index & 1])

    def _release(self, use: tuple[int, int, int]) -> None:
        self.used[use] -= 1
        if not self.used[use]:
            del self.used[use]

    def _set_biases(self, biases: list[MovedBias]) -> None:
        before = self.biases
        self.journal.add(lambda: setattr(self, "biases", before))
        self.biases = biases

    def _write(self, event: Event, assignment: Assignment) -> tuple[Tensor | None, tuple[Placed, Tensor] | None]:
        """Write weights. If the event has no bias, that of the source's layer moves to another event, or to all rows.

        Returns:
            The difference from the source's result because of moved biases, and the earlier event that got the bias,
            with the bias; None if there is none.
        """
        if assignment.keeps:
            return None, None
        weights, layer = dict(assignment.weights), assignment.layer
        offset = moved_to = None
        if assignment.moved:
            self._set_biases([b for b in self.biases if b not in assignment.moved])
        bias = weights.get("bias")
        if event.kind in LINEAR and layer is not None:
            if event.weights.get("bias") is not None:
                offset = self._take_biases(event)
                weights["bias"] = bias if offset is None else offset if bias is None else bias + offset
            elif event.kind == "embedding" and bias is not None:
                weights["weight"] = weights["weight"] + bias  # type: ignore[operator]
            elif bias is not None and bool(bias.any()):
                offset, moved_to = -bias, self._move_bias(event, bias, assignment)
        for name, weight in event.weights.items():
            if weight is None:
                continue
            value, view = weights.get(name), weight.view
            if name == "weight" and assignment.rows is not None:
                view = view[assignment.rows]
            if value is None:
                value = torch.full_like(view, 1.0 if name in ("weight", "running_var") else 0.0)
            try:
                self.parameters.write(weight.slot, view, _fitting(value, view, event, name, layer))
            except NoInverseError as e:
                why = f"its {name} is computed from parameters by {e}, which port cannot invert to set the parameters"
                raise ContradictionError(event.node, why, layer) from e
        return offset, moved_to

    def _move_bias(self, event: Event, bias: Tensor, assignment: Assignment) -> tuple[Placed, Tensor] | None:
        """Add the bias for an event without one to the bias of an earlier event, or keep it for a later event.

        Returns:
            The earlier event that got the bias, and the bias; None if there is none.
        """
        for placed in self.placed.values():
            other, present = placed.event, placed.event.weights.get("bias")
            if other.kind not in LINEAR or present is None or present.view.numel() != len(bias):
                continue
            if sums_with(other.node, event.node):
                self.parameters.write(present.slot, present.view, present.view + bias)
                self._shift(placed, bias)
                return placed, bias
        self._set_biases([*self.biases, MovedBias(bias, event, assignment)])
        return None

    def _shift(self, placed: Placed, bias: Tensor) -> None:
        before = placed.offset
        self.journal.add(lambda: setattr(placed, "offset", before))
        placed.offset = bias if before is None else before + bias

    def _take_biases(self, event: Event) -> Tensor | None:
        """Return the sum of the moved biases whose events' results are added to this event's result."""
        size = next(w.view.numel() for k, w in event.weights.items() if k == "bias" and w is not None)
        added = [b for b in self.biases if b.bias.numel() == size and sums_with(b.event.node, event.node)]
        if not added:
            return None
        self._set_biases([b for b in self.biases if b not in added])
        return torch.stack([b.bias for b in added]).sum(0)


def _completed(event: Event, placed: Placed, out: Any) -> Any:
    """Return a result with the bias that moved to an earlier event, if that event ran before it got the bias."""
    if placed.moved_to is None:
        return out
    other, bias = placed.moved_to
    since = placed.event.node.index
    if not any(node.index < since and sums_with(node, event.node) for node in other.nodes):
        return out
    return out + bias.reshape([-1] + [1] * (out.dim() - 1 - event.outputs_dim % out.dim()))


def _fitting(value: Tensor, view: Tensor, event: Event, name: str, layer: Layer | None) -> Tensor:
    """Return a value with the size of a view; the weights of an instance norm are repeated for every sample."""
    if event.kind == "instance norm":
        value = value.flatten()
        value = value[: len(view)] if len(value) > len(view) else value.repeat(len(view) // len(value))
    if value.numel() != view.numel():
        why = f"its {name} is {shape_text(view)}, the source's is {shape_text(value)}"
        raise ContradictionError(event.node, why, layer)
    return value


def exercises(event: Event) -> bool:
    """Return whether the event's result depends on its weights: not every element of the input is zero."""
    return not event.input.is_floating_point() or bool(event.input.any())
