"""Assign weights to an event, find a place for its biases, and compare its result."""

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
        used: parts of layers of the source, with the number of events that have them.
        biases: biases of the source that have no place yet.
    """

    def __init__(self, parameters: Parameters, journal: Journal, source: Source) -> None:
        self.parameters, self.journal, self.source = parameters, journal, source
        self.placed: dict[Any, Placed] = {}
        self.used: dict[tuple[int, int, int], int] = {}
        self.biases: list[MovedBias] = []

    def place(self, key: Any, event: Event, assignment: Assignment, run: Callable[[], Any]) -> Any:
        """Write the weights of an assignment, run the event and compare its result.

        Returns:
            The result. Where an earlier event got this one's bias, it is added here, since that event ran without it.

        Raises:
            ContradictionError: the result is another one, or the weights do not fit.
        """
        offset, late = self._write(event, assignment)
        out = run()
        placed = Placed(event, assignment, offset)
        self.compare(event, placed, out)
        if not any(moved.event is event for moved in self.biases):
            event.release_input()
        self.placed[key] = placed
        self.journal.add(lambda: self.placed.pop(key, None))
        for use in assignment.uses():
            self.used[use] = self.used.get(use, 0) + 1
            self.journal.add(lambda use=use: self._release(use))
        return (
            out if late is None else out + late.reshape([-1] + [1] * (0 if event.kind == "linear" else out.dim() - 2))
        )

    def compare(self, event: Event, placed: Placed, out: Any) -> None:
        """Compare the result of an event with that of the source's layer.

        Raises:
            ContradictionError: it is another one.
        """
        try:
            compare_event(event, placed, out, self.source)
        except ContradictionError as found:
            found.conflicts |= placed.event.node.origins | event.node.origins
            raise
        if not placed.exercised and exercises(event):
            placed.exercised = True
            self.journal.add(lambda: setattr(placed, "exercised", False))

    def drop_biases(self, origins: int) -> None:
        """Forget the biases of the events in a bit set: a norm after them removes constants."""
        self._set_biases([b for b in self.biases if not origins >> b.event.node.index & 1])

    def _release(self, use: tuple[int, int, int]) -> None:
        self.used[use] -= 1
        if not self.used[use]:
            del self.used[use]

    def _set_biases(self, biases: list[MovedBias]) -> None:
        before = self.biases
        self.journal.add(lambda: setattr(self, "biases", before))
        self.biases = biases

    def _write(self, event: Event, assignment: Assignment) -> tuple[Tensor | None, Tensor | None]:
        """Write weights; biases move where the event has no place for them.

        Returns:
            How far the result is from the source's because of moved biases; the bias that an earlier event got.
        """
        weights, layer = dict(assignment.weights), assignment.layer
        offset = late = None
        if assignment.moved:
            self._set_biases([b for b in self.biases if b not in assignment.moved])
        bias = weights.get("bias")
        if event.kind in LINEAR and layer is not None:
            if event.weights.get("bias") is not None:
                offset = self._take_biases(event)
                weights["bias"] = bias if offset is None else offset if bias is None else bias + offset
            elif bias is not None and bool(bias.any()):
                offset, late = -bias, self._give_bias(event, bias, assignment)
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
                why = f"its {name} goes through {e} before it is used; no value can be written back through that"
                raise ContradictionError(event.node, why, layer) from e
        return offset, late

    def _give_bias(self, event: Event, bias: Tensor, assignment: Assignment) -> Tensor | None:
        """Add a bias that an event has no place for to that of an earlier event, or leave it for later."""
        for placed in self.placed.values():
            other, place = placed.event, placed.event.weights.get("bias")
            if other.kind not in LINEAR or place is None or place.view.numel() != len(bias):
                continue
            if sums_with(other.node, event.node):
                self.parameters.write(place.slot, place.view, place.view + bias)
                self._shift(placed, bias)
                return bias
        self._set_biases([*self.biases, MovedBias(bias, event, assignment)])
        return None

    def _shift(self, placed: Placed, bias: Tensor) -> None:
        before = placed.offset
        self.journal.add(lambda: setattr(placed, "offset", before))
        placed.offset = bias if before is None else before + bias

    def _take_biases(self, event: Event) -> Tensor | None:
        """Return the sum of the biases without a place whose events' results are added to this one's."""
        size = next(w.view.numel() for k, w in event.weights.items() if k == "bias" and w is not None)
        taken = [b for b in self.biases if b.bias.numel() == size and sums_with(b.event.node, event.node)]
        if not taken:
            return None
        self._set_biases([b for b in self.biases if b not in taken])
        return torch.stack([b.bias for b in taken]).sum(0)


def _fitting(value: Tensor, view: Tensor, event: Event, name: str, layer: Layer | None) -> Tensor:
    """Return a value of the size of a view; an instance norm repeats its weights for every sample."""
    if event.kind == "instance norm":
        value = value.flatten()
        value = value[: len(view)] if len(value) > len(view) else value.repeat(len(view) // len(value))
    if value.numel() != view.numel():
        why = f"its {name} is {shape_text(view)}, the source's is {shape_text(value)}"
        raise ContradictionError(event.node, why, layer)
    return value


def exercises(event: Event) -> bool:
    """Return whether an event's input can tell weights apart."""
    return not event.input.is_floating_point() or bool(event.input.any())
