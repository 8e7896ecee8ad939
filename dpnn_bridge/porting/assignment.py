"""Assign weights of the source to an event of the target.

The source and the target may implement one function with differently arranged weights. An :class:`Assignment` converts
the weights. The functions of this module leave them unchanged, fold a batch norm, or move a bias.
:mod:`dpnn_bridge.porting.rearranging` permutes elements. :mod:`dpnn_bridge.porting.pieces` and
:mod:`dpnn_bridge.porting.joining` split and join layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import torch
from torch import Tensor

from dpnn_bridge.base.cached import cached_property
from dpnn_bridge.porting.events import NORMS, Event, Form
from dpnn_bridge.porting.source import Layer, Source
from dpnn_bridge.porting.values import Fingerprint

Weights = dict[str, Tensor | None]


@dataclass(eq=False)
class MovedBias:
    """A bias of the source whose operation in the target has no bias.

    Attributes:
        bias: values of the bias.
        event: the operation of the target.
        assignment: assignment of the weights of the operation.
    """

    bias: Tensor
    event: Event
    assignment: Assignment

    def result(self) -> Tensor | None:
        """Return the expected result of the event including the bias, as rows; None if it is unknown."""
        return self.assignment.expect(self.event)


@dataclass(eq=False)
class Assignment:
    """Weights for an event.

    Attributes:
        layers: the source's layers; empty for neutral weights and moved biases.
        build: function that returns name -> values, in the layout of the event's type.
        expect: function that returns the expected result for an event, as rows; None if the layer never had the event's
            input.
        form: the form in which rows are compared.
        description: the rearrangement in words, for the report.
        parts: (layer index, part, number of parts) for each part of a layer; empty if complete layers are used.
        unconfirmed: whether the event's own result cannot confirm the assignment; then only later values can.
        part_count: number of parts into which the target divides the result.
        order: order of these parts in the source's layer; None if the order is unchanged or there are several layers.
        moved: biases of other events, which this event adds instead.
        fold: the batch norm that is folded into the weights.
        rows: rows of an embedding that get values; None for all.
        keeps: whether the parameters keep their values.
    """

    layers: tuple[Layer, ...]
    build: Callable[[], Weights]
    expect: Callable[[Event], Tensor | None]
    form: Form
    description: str = ""
    parts: tuple[tuple[int, int, int], ...] = ()
    unconfirmed: bool = False
    part_count: int = 1
    order: tuple[int, ...] | None = None
    moved: tuple[MovedBias, ...] = ()
    fold: Layer | None = None
    rows: slice | None = None
    keeps: bool = False

    @cached_property
    def weights(self) -> Weights:
        return self.build()

    @property
    def layer(self) -> Layer | None:
        return self.layers[0] if self.layers else None

    def uses(self) -> set[tuple[int, int, int]]:
        """Return the parts of layers that the assignment uses, as (layer index, part, number of parts)."""
        used = set(self.parts or ((layer.index, 0, 1) for layer in self.layers))
        more = [self.fold, *(layer.addition for layer in self.layers)]
        return used | {(layer.index, 0, 1) for layer in more if layer is not None}


def unchanged(event: Event, source: Source) -> Iterator[Assignment]:
    """Yield assignments of layers with the event's input: unchanged, and with the following batch norm folded in."""
    first, *others = event.forms
    if event.kind not in NORMS:
        yield from _unchanged(event, source, event.forms)
        return
    found = list(_unchanged(event, source, (first,)))
    yield from found or _unchanged(event, source, tuple(others))


def _unchanged(event: Event, source: Source, forms: tuple[Form, ...]) -> Iterator[Assignment]:
    candidates = {form: source.candidates(event, form) for form in forms}
    for layer in (source.layers[index] for index in sorted(set().union(*candidates.values()))):
        for form in forms:
            if form not in layer.forms:
                continue
            if layer.index not in candidates[form] or layer.outputs_for(event.rows_in(form), form) is None:
                if layer.kind == event.kind and form[0] == event.kind and event.kind not in NORMS:
                    break
                continue
            expect = lambda e, layer=layer, form=form: layer.outputs_for(e.rows_in(form), form)  # noqa: E731
            plain = Assignment((layer,), partial(weights_of, event, layer, form), expect, form)
            if layer.kind != event.kind:
                plain.description = f"{layer.kind} as {event.kind}"
            yield from with_fold(plain, layer)
            break


def with_fold(plain: Assignment, layer: Layer) -> Iterator[Assignment]:
    """Yield an assignment of a layer, and one into which the batch norm after the layer is folded."""
    yield plain
    if layer.fold is not None and layer.outputs % len(_affine(layer.fold)[0]) == 0:
        yield _folded(plain, layer, layer.fold)


def weights_of(event: Event, layer: Layer, form: Form) -> Weights:
    values = dict(layer.values)
    if form[0] == "linear":
        values["weight"] = native(event, layer.matrix())
    return values


def native(event: Event, matrix: Tensor) -> Tensor:
    """Return a matrix (outputs, inputs) in the layout of an event's kind."""
    return matrix.t() if event.kind == "embedding" else matrix


def _folded(plain: Assignment, layer: Layer, norm: Layer) -> Assignment:
    scale, shift = _affine(norm)

    def build() -> Weights:
        weight, bias = plain.weights["weight"], plain.weights.get("bias")
        assert weight is not None
        each = layer.outputs // len(scale)  # the outputs of a linear map may be pixels of several channels
        factor, constant = scale.repeat_interleave(each), shift.repeat_interleave(each)
        if layer.kind == "transposed conv":  # (groups x inputs, outputs of a group, kernel)
            grouped = weight.reshape(layer.options["groups"], -1, weight.shape[1], weight[0, 0].numel())
            scaled = grouped * factor.reshape(len(grouped), 1, -1, 1)
        else:
            scaled = weight.flatten(1) * factor[:, None]
        return {
            "weight": scaled.reshape(weight.shape),
            "bias": constant if bias is None else bias * factor + constant,
        }

    def expect(e: Event) -> Tensor | None:
        rows = plain.expect(e)
        if rows is None:
            return None
        return (rows.reshape(len(rows), len(scale), -1) * scale[:, None] + shift[:, None]).reshape(rows.shape)

    description = f"{plain.description}, batch norm folded in".removeprefix(", ")
    return Assignment(plain.layers, build, expect, plain.form, description, fold=norm)


def _affine(norm: Layer) -> tuple[Tensor, Tensor]:
    """Return the scale and the shift of a batch norm in evaluation mode."""
    v = norm.values
    mean, variance, weight, bias = v["running_mean"], v["running_var"], v.get("weight"), v.get("bias")
    assert mean is not None
    assert variance is not None
    scale = (variance + norm.options["eps"]).rsqrt()
    scale = scale if weight is None else scale * weight
    return scale, -mean * scale if bias is None else bias - mean * scale


def with_moved_biases(event: Event, source: Source, biases: list[MovedBias]) -> Iterator[Assignment]:
    """Yield assignments of biases that the target adds later: in an addition, or in the running mean of a norm."""
    form = event.forms[0]
    before = [b for b in biases if event.node.origins >> b.event.node.index & 1]
    for count in range(len(before), 0, -1):
        for moved in combinations(before, count):
            if len({len(b.bias) for b in moved}) > 1:
                continue
            bias = torch.stack([b.bias for b in moved]).sum(0)
            if event.kind in ("add", "sub") and math.prod(event.sizes) == len(bias):
                value = -bias if event.kind == "sub" else bias
                build = partial(dict, weight=value)
                yield Assignment((), build, lambda e: None, form, "bias moved", moved=moved, unconfirmed=True)
            if event.kind in ("batch norm", "instance norm"):
                for layer in source.layers:
                    rows = event.rows_in(form)
                    if form in layer.forms and rows.shape[event.kind == "batch norm"] % len(bias) == 0:
                        found = _absorbed(event, layer, bias, moved, form)
                        if found.expect(event) is not None:
                            yield found


def _absorbed(event: Event, layer: Layer, bias: Tensor, moved: tuple[MovedBias, ...], form: Form) -> Assignment:
    def expect(e: Event) -> Tensor | None:
        rows = e.rows_in(form)
        samples = len(rows) if e.kind == "batch norm" else len(rows) // len(bias)
        return layer.outputs_for((rows.reshape(samples, len(bias), -1) + bias[:, None]).reshape(rows.shape), form)

    weights = dict(layer.values)
    mean = weights.get("running_mean")
    if mean is not None:
        weights["running_mean"] = mean - bias
    return Assignment((layer,), partial(dict, weights), expect, form, "bias moved into the norm", moved=moved)


def kept(event: Event, source: Source) -> Iterator[Assignment]:
    """Yield the present values of an added or multiplied parameter, such as an initial state that is zero.

    They fit if the result is zero or a value of the source.
    """
    weight = event.tensor("weight")
    if event.kind not in ("add", "sub", "mul", "div") or weight is None:
        return
    operands = (weight, event.input) if event.options.get("reverse") else (event.input, weight)
    result = getattr(torch, event.kind)(*operands)
    if not bool(result.any()) or source.knows(Fingerprint.of(result)):
        description = "no counterpart in the source; the values are kept"
        yield Assignment((), dict, lambda e: None, event.forms[0], description, unconfirmed=True, keeps=True)


def neutral(event: Event) -> Iterator[Assignment]:
    """Yield weights that make an operation the identity, if it has no counterpart in the source."""
    if event.kind not in (*NORMS, "mul", "add"):
        return
    eps = event.options.get("eps", 0.0)
    values = {"weight": 0.0 if event.kind == "add" else 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0 - eps}

    def build() -> Weights:
        return {name: torch.full_like(w.view, values[name]) for name, w in event.weights.items() if w is not None}

    description = "no counterpart in the source; neutral values"
    yield Assignment((), build, lambda e: None, event.forms[0], description, unconfirmed=True)
