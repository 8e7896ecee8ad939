"""Assign layers whose elements have another order in the target: channels, pixels, rows of an embedding."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from dpnn_bridge.porting.assignment import Assignment, Weights, native, weights_of, with_fold
from dpnn_bridge.porting.events import Event, Form, windowed
from dpnn_bridge.porting.flow import joined_sizes, moved_index, unflattened, unflattened_results
from dpnn_bridge.porting.source import Layer, Source
from dpnn_bridge.porting.tape import Tape
from dpnn_bridge.porting.values import DOUBLE, difference, dim_orders, permutation

#: type of event -> dimension of the channels in its input
_DIMS = {"linear": -1, "conv": 1}
#: types of events with one weight for each channel of their input
_BY_CHANNEL = ("batch norm", "prelu", "mul", "div", "add", "sub")


def rearranged(event: Event, source: Source, tape: Tape) -> Iterator[Assignment]:
    """Yield assignments with the input channels, pixels or embedding rows in another order."""
    if event.kind == "embedding":
        yield from _offset(event, source)
    if event.kind == "linear":
        yield from _bilinear(event, source)
    if event.kind in ("conv", "transposed conv") and event.input.dim() == 4:
        yield from _transposed(event, source)
    if event.kind == "conv":
        yield from _padded(event, source)
    if event.kind not in ("linear", "conv", "transposed conv", *_BY_CHANNEL) or event.options.get("groups", 1) != 1:
        return
    if event.forms[-1][-1] == "by channel":
        yield from _pixels(event, source)
    for layer in source.layers:
        for form in event.forms:
            count = _inputs_of(form)
            if form not in layer.forms or count is None or event.rows_in(form).shape[1] % count:
                continue
            order = next(_orders(event, layer, form, count, source, tape), None)
            if order is not None:
                yield from with_fold(_with_order(event, layer, form, order, count), layer)


def _pixels(event: Event, source: Source) -> Iterator[Assignment]:
    """Yield assignments of a norm whose input has the same pixels in another order."""
    form = event.forms[-1]
    for layer in source.layers:
        if form in layer.forms and layer.look_up(event.rows_in(form), form) is not None:
            expect = lambda e, layer=layer: layer.look_up(e.rows_in(form), form)  # noqa: E731
            yield Assignment((layer,), lambda layer=layer: dict(layer.values), expect, form)  # type: ignore[misc]


def _inputs_of(form: Form) -> int | None:
    """Return the number of input channels of a form; None for a form without input channels."""
    if form[0] in _BY_CHANNEL:
        return form[1] if len(form) == 2 else None
    dims = {"linear": 2, "conv": 3, "transposed conv": 2}
    return form[dims[form[0]]] if form[0] in dims else None


def _orders(event: Event, layer: Layer, form: Form, count: int, source: Source, tape: Tape) -> Iterator[Tensor]:
    """Yield orders of input channels that convert a layer's input to the event's input.

    The order follows from the views before both inputs, or from the values in the channels.
    """
    rows = event.rows_in(form)
    sizes = joined_sizes(tape, event, _DIMS[event.kind]) if event.kind in _DIMS else None
    for theirs in (e for e in layer.events if form in e.forms and e.kind == event.kind):
        others = joined_sizes(source.tape, theirs, _DIMS[event.kind]) if sizes is not None else None
        if sizes is not None and others is not None:
            order = _joined_order(_channels(rows, count), _channels(theirs.rows_in(form), count), sizes, others)
            if order is not None:
                yield order
    for theirs in (e for e in layer.events if form in e.forms and form[0] == "linear"):
        others = theirs.rows_in(form)
        here, there = moved_index(tape, event, rows.shape), moved_index(source.tape, theirs, others.shape)
        if here is not None and there is not None and others.shape == rows.shape:
            column = torch.zeros(int(there.max()) + 1, dtype=torch.int64)
            column[there] = torch.arange(count)
            order = column[here] if int(here.max()) < len(column) else None
            if order is not None and difference(rows, others[:, order]) <= DOUBLE:
                yield order
        yield from _exchanged(rows, others, unflattened(source.tape, theirs), unflattened(tape, event))
    inputs = layer.inputs(form)
    for others in [*inputs, torch.cat(inputs)] if len({x.shape[1:] for x in inputs}) == 1 else inputs:
        order = permutation(_channels(rows, count), _channels(others, count)) if others.shape == rows.shape else None
        if order is not None:
            yield order


def _joined_order(here: Tensor, there: Tensor, sizes: tuple[int, ...], others: tuple[int, ...]) -> Tensor | None:
    """Return the order of channels of two inputs that are the same values concatenated in another order, else None.

    A value that is zero, as an initial state, has the place that the others leave.

    Args:
        here, there: one row for each channel of the inputs.
        sizes, others: numbers of channels of the concatenated values.
    """
    if here.shape != there.shape or sorted(sizes) != sorted(others) or sum(sizes) != len(here):
        return None
    places = torch.arange(len(here))
    free = list(zip(there.split(list(others)), places.split(list(others)), strict=True))
    order = torch.zeros_like(places)
    parts = zip(here.split(list(sizes)), places.split(list(sizes)), strict=True)
    for values, own in sorted(parts, key=lambda part: not bool(part[0].any())):
        equal = (i for i, (x, _) in enumerate(free) if x.shape == values.shape and difference(x, values) <= DOUBLE)
        found = next(equal, None)
        if found is None:
            return None
        order[own] = free.pop(found)[1]
    return order


def _exchanged(rows: Tensor, others: Tensor, there: tuple[int, ...], here: tuple[int, ...]) -> Iterator[Tensor]:
    """Yield orders that swap flattened dimensions, such as height and width."""
    if len(there) > 1 and math.prod(there) == rows.shape[1] and rows.shape == others.shape:
        for dims in dim_orders(there, here):
            order = torch.arange(rows.shape[1]).reshape(there).permute(dims).flatten()
            if difference(rows, others[:, order]) <= DOUBLE:
                yield order


def _channels(rows: Tensor, count: int) -> Tensor:
    return rows.reshape(len(rows), count, -1).movedim(1, 0).flatten(1)


def _with_order(event: Event, layer: Layer, form: Form, order: Tensor, count: int) -> Assignment:
    """Return the assignment of a layer with its input channels in another order."""
    back, by_channel = order.argsort(), form[0] in _BY_CHANNEL

    def build() -> Weights:
        weights = weights_of(event, layer, form)
        if by_channel:
            return {k: w if w is None or w.numel() != count else w.flatten()[order] for k, w in weights.items()}
        weight = weights["weight"]
        assert weight is not None
        if form[0] == "transposed conv":
            return weights | {"weight": weight[order]}
        return weights | {"weight": weight.reshape(len(weight), count, -1)[:, order].reshape(weight.shape)}

    def expect(e: Event) -> Tensor | None:
        rows = e.rows_in(form)
        given = layer.outputs_for(rows.reshape(len(rows), count, -1)[:, back].reshape(rows.shape), form)
        if given is None or not by_channel:
            return given
        return given.reshape(len(rows), count, -1)[:, order].reshape(rows.shape)

    identity = torch.arange(count)
    descriptions = [(identity, ""), (identity.flip(0), "channels reversed")]
    description = next((text for other, text in descriptions if torch.equal(order, other)), "inputs permuted")
    return Assignment((layer,), build, expect, form, description)


def _padded(event: Event, source: Source) -> Iterator[Assignment]:
    """Yield assignments of convolutions with the same windows, if not the same of their zeros are padding."""
    form = event.forms[0]
    for layer in source.layers:
        if form not in layer.forms:
            continue

        def expect(e: Event, layer: Layer = layer) -> Tensor | None:
            rows = windowed(e).flatten(1)
            for theirs in layer.events:
                others = windowed(theirs).flatten(1)
                if others.shape == rows.shape and difference(rows, others) <= layer.tolerance:
                    return theirs.out_rows(theirs.output, form)
            return None

        if expect(event) is not None:
            yield from with_fold(Assignment((layer,), partial(weights_of, event, layer, form), expect, form), layer)


def _transposed(event: Event, source: Source) -> Iterator[Assignment]:
    """Yield assignments for images with height and width swapped."""
    form = event.forms[0]
    swapped = (form[0], tuple(reversed(form[1])), *form[2:])
    for layer in source.layers:
        if swapped not in layer.forms:
            continue

        def expect(e: Event, layer: Layer = layer) -> Tensor | None:
            rows = e.input.transpose(2, 3).reshape(len(e.input), -1)
            given = next((x for x in layer.events if x.input.transpose(2, 3).shape == e.input.shape), None)
            y = layer.outputs_for(rows, swapped)
            if y is None or given is None or given.output is None:
                return None
            return y.reshape(given.output.shape).transpose(2, 3).reshape(len(y), -1)

        def build(layer: Layer = layer) -> Weights:
            weight = layer.values["weight"]
            assert weight is not None
            return layer.values | {"weight": weight.transpose(2, 3)}

        if expect(event) is not None:
            yield Assignment((layer,), build, expect, form, "transposed: height and width swapped")


def outputs_exchanged(event: Event, plain: Assignment, tape: Tape) -> Iterator[Assignment]:
    """Yield assignments with outputs in another order, if the target views them as (a, b) and the source as (b, a)."""
    for count, size in unflattened_results(tape, event.node, plain.form[1]):
        order = torch.arange(count * size).reshape(size, count).t().flatten()

        def build(order: Tensor = order) -> Weights:
            return {name: None if w is None else w[order] for name, w in plain.weights.items()}

        def expect(e: Event, order: Tensor = order) -> Tensor | None:
            rows = plain.expect(e)
            return None if rows is None else rows[:, order]

        yield Assignment(plain.layers, build, expect, plain.form, f"outputs as {count} x {size}", unconfirmed=True)


def _bilinear(event: Event, source: Source) -> Iterator[Assignment]:
    """Yield assignments of a bilinear map, if the target multiplies by one factor first, as ``torch.einsum`` does."""
    form = event.forms[0]
    for layer in source.layers:
        factors = layer.events[0].factors if layer.events else ()
        for side, factor in enumerate(factors):
            if factor.shape != event.input.shape or difference(factor, event.input) > DOUBLE:
                continue
            matrix = layer.matrix()
            weight = matrix.reshape(len(matrix), *(f.shape[1] for f in factors)).movedim(1 + side, 2)
            for order in (weight, weight.transpose(0, 1)) if weight[..., 0].numel() == form[1] else ():
                value = order.reshape(form[1:])
                expect = lambda e, value=value: e.input @ value.t()  # noqa: E731
                build = lambda value=value: {"weight": native(event, value), "bias": None}  # noqa: E731
                yield Assignment((layer,), build, expect, form, "one factor of a bilinear form", unconfirmed=True)  # type: ignore[misc]


def _offset(event: Event, source: Source) -> Iterator[Assignment]:
    """Yield assignments of an embedding whose indices differ by a constant, or that has more or fewer rows."""
    form = event.forms[0]
    words, size = form[1:]
    for layer in source.layers:
        if layer.kind != "embedding" or layer.forms[0] == form or layer.forms[0][2] != size:
            continue
        theirs = layer.forms[0]
        for shift in dict.fromkeys(_shifts(event, layer)):
            low, high = max(0, -shift), min(words, theirs[1] - shift)

            def expect(e: Event, layer: Layer = layer, shift: int = shift) -> Tensor | None:
                return layer.outputs_for(e.rows_in(form) + shift, layer.forms[0])

            def build(layer: Layer = layer, low: int = low, high: int = high, shift: int = shift) -> Weights:
                weight = layer.values["weight"]
                assert weight is not None
                return {"weight": weight[low + shift : high + shift], "bias": None}

            if high > low and expect(event) is not None:
                description = f"{high - low} of the source's {theirs[1]} rows; index i here is i{shift:+d} there"
                yield Assignment((layer,), build, expect, form, description, rows=slice(low, high))


def _shifts(event: Event, layer: Layer) -> Iterator[int]:
    """Yield possible offsets of the source's indices, from the smallest and largest indices of both networks."""
    here = event.input.flatten()
    for use in layer.events:
        there = use.input.flatten()
        if here.numel() and there.numel():
            yield int(there.min()) - int(here.min())
            yield int(there.max()) - int(here.max())
