"""Assign several layers, each on a part of the channels, to one layer on all channels, and the reverse.

Two parallel branches of convolutions and norms in one network are grouped convolutions and wider norms in the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from dpnn_bridge.porting.assignment import Assignment, Weights
from dpnn_bridge.porting.events import Event, Form
from dpnn_bridge.porting.source import Layer, Source

_CHANNELWISE = ("batch norm", "prelu", "mul", "add")


def joined(event: Event, source: Source) -> Iterator[Assignment]:
    """Yield assignments of several layers to one event, or of a part of a layer's channels."""
    form = event.forms[0]
    if event.kind in _CHANNELWISE:
        if event.rows_in(form).shape[1] % form[1]:
            return  # the weights are not one for each channel, but for each step or sample
        yield from _concatenated(event, form, source)
        yield from _part_of_norm(event, form, source)
    elif event.kind == "conv":
        groups = event.options["groups"]
        if groups > 1:
            yield from _grouped(event, form, source)
        else:
            yield from _summed(event, form, source)
            yield from _group_of_conv(event, form, source)


def _channels(rows: Tensor, count: int, low: int, high: int) -> Tensor:
    """Return the channels ``low`` to ``high`` of rows with ``count`` channels."""
    return rows.reshape(len(rows), count, -1)[:, low:high].flatten(1)


def _cat(values: list[Tensor | None]) -> Tensor | None:
    """Concatenate the weights of several layers; return None if a layer lacks them."""
    found = [v for v in values if v is not None]
    return torch.cat(found) if len(found) == len(values) and found else None


def _assignment(
    layers: list[Layer], form: Form, build: Callable[[], Weights], expect: Callable[[Event], list[Tensor | None]]
) -> Assignment:
    """Return the assignment of layers whose results are concatenated."""

    def together(e: Event) -> Tensor | None:
        given = expect(e)
        return None if any(y is None for y in given) else torch.cat([y for y in given if y is not None], 1)

    return Assignment(tuple(layers), build, together, form, f"joined: {', '.join(layer.name for layer in layers)}")


def _chunks(
    event: Event, form: Form, count: int, fits: Callable[[Layer], int], source: Source
) -> list[tuple[Layer, int, int]]:
    """Return layers whose inputs are consecutive parts of an event's channels, as (layer, low, high).

    Args:
        event: the event.
        form: form of the event.
        count: number of its channels.
        fits: function that returns the number of input channels of a layer, and 0 for a layer of another type.
        source: the source.

    Returns:
        The layers; an empty list if they do not cover all channels.
    """
    rows, low, found = event.rows_in(form), 0, []
    while low < count:
        for layer in source.layers:
            size = fits(layer)
            if 0 < size <= count - low and size < count:
                given = layer.outputs_for(_channels(rows, count, low, low + size), layer.forms[0])
                if given is not None and (layer, low) not in [(x, y) for x, y, _ in found]:
                    found.append((layer, low, low + size))
                    low += size
                    break
        else:
            return []
    return found


def _concatenated(event: Event, form: Form, source: Source) -> Iterator[Assignment]:
    """Yield assignments of several norms, or other layers with one weight for each channel, to a wider one."""
    count = form[1]
    found = _chunks(event, form, count, lambda x: x.forms[0][1] if x.kind == event.kind else 0, source)
    if found:
        layers = [layer for layer, _, _ in found]

        def build() -> Weights:
            values = {name: [layer.values.get(name) for layer in layers] for name in event.weights}
            return {name: _cat([None if v is None else v.flatten() for v in vs]) for name, vs in values.items()}

        def expect(e: Event) -> list[Tensor | None]:
            rows = e.rows_in(form)
            return [x.outputs_for(_channels(rows, count, low, high), x.forms[0]) for x, low, high in found]

        yield _assignment(layers, form, build, expect)


def _weights(layers: list[Layer]) -> Weights:
    return {name: _cat([layer.values.get(name) for layer in layers]) for name in ("weight", "bias")}


def _grouped(event: Event, form: Form, source: Source) -> Iterator[Assignment]:
    """Yield the assignment of several layers to the groups of a convolution."""
    _, kernel, outputs, inputs, groups = form
    layer_form = ("conv", kernel, outputs // groups, inputs, 1)
    count = inputs * groups
    found = _chunks(event, form, count, lambda x: inputs if x.forms[0] == layer_form else 0, source)
    if found:
        layers = [layer for layer, _, _ in found]

        def expect(e: Event) -> list[Tensor | None]:
            rows = e.rows_in(form)
            return [x.outputs_for(_channels(rows, count, low, high), layer_form) for x, low, high in found]

        yield _assignment(layers, form, lambda: _weights(layers), expect)


def _summed(event: Event, form: Form, source: Source) -> Iterator[Assignment]:
    """Yield the assignment of several layers, whose results the source adds, to a convolution of all their inputs."""
    _, kernel, outputs, inputs, _ = form

    def fits(layer: Layer) -> int:
        other = layer.forms[0]
        return other[3] if layer.kind == "conv" and other == ("conv", kernel, outputs, other[3], 1) else 0

    found = _chunks(event, form, inputs, fits, source)
    if found:
        layers = [layer for layer, _, _ in found]

        def build() -> Weights:
            biases = [b for layer in layers if (b := layer.bias) is not None]
            weights = [w for layer in layers if (w := layer.values["weight"]) is not None]
            return {"weight": torch.cat(weights, 1), "bias": torch.stack(biases).sum(0) if biases else None}

        def expect(e: Event) -> Tensor | None:
            rows = e.rows_in(form)
            given = [x.outputs_for(_channels(rows, inputs, low, high), x.forms[0]) for x, low, high in found]
            return None if any(y is None for y in given) else torch.stack([y for y in given if y is not None]).sum(0)

        description = f"joined side by side: {', '.join(layer.name for layer in layers)}"
        yield Assignment(tuple(layers), build, expect, form, description)


def _part(event: Event, layer: Layer, number: int, count: int) -> Assignment | None:
    """Return the assignment of part ``number`` of ``count`` of a layer's channels; None if the input differs."""
    form, theirs = event.forms[0], layer.forms[0]

    def given(e: Event) -> Tensor | None:
        rows = e.rows_in(form)
        for x, y in layer.pairs_of(theirs):
            size = x.shape[1] // count
            mine = x[:, number * size : (number + 1) * size]
            if mine.shape == rows.shape and bool((mine - rows).abs().max() <= layer.tolerance * rows.abs().max()):
                size = y.shape[1] // count
                return y[:, number * size : (number + 1) * size]
        return None

    def build() -> Weights:
        return {name: None if v is None else v.reshape(count, -1)[number] for name, v in layer.values.items()}

    description = f"split: part {number + 1} of {count}"
    made = Assignment((layer,), build, given, form, description, ((layer.index, number, count),))
    return made if given(event) is not None else None


def _part_of_norm(event: Event, form: Form, source: Source) -> Iterator[Assignment]:
    """Yield assignments of a part of a wider norm, or of another layer with one weight for each channel."""
    for layer in source.layers:
        if layer.kind == event.kind and layer.forms[0][1] > form[1] and layer.forms[0][1] % form[1] == 0:
            count = layer.forms[0][1] // form[1]
            parts = (_part(event, layer, i, count) for i in range(count))
            yield from (part for part in parts if part is not None)


def _group_of_conv(event: Event, form: Form, source: Source) -> Iterator[Assignment]:
    """Yield assignments of one group of a convolution."""
    _, kernel, outputs, inputs, _ = form
    for layer in source.layers:
        theirs = layer.forms[0]
        if layer.kind != "conv" or theirs[1] != kernel or theirs[3] != inputs or theirs[2] % outputs:
            continue
        count = theirs[2] // outputs
        if count > 1 and theirs[4] == count:
            parts = (_part(event, layer, i, count) for i in range(count))
            yield from (part for part in parts if part is not None)
