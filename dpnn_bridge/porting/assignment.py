"""Which weights of the source an event of the target may get, and in which form.

Every function here answers one question: the source and the target lay the same map out differently; can that be mended
by arranging weights? :func:`assignments` lists the answers, the likeliest first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import permutations, product

import torch
from torch import Tensor

from dpnn_bridge.porting.events import NORMS, Event, Form
from dpnn_bridge.porting.source import Layer, Source
from dpnn_bridge.porting.values import matching_rows, permutation

#: a layer, or the part of its outputs (number, of how many)
Piece = tuple[Layer, int, int]


@dataclass(eq=False)
class MovedBias:
    """A bias of the source for which the operation in the target has no place."""

    bias: Tensor
    event: Event
    layer: Layer


@dataclass(eq=False)
class Assignment:
    """Weights for an event.

    Attributes:
        pieces: the source's layers, or parts of them; none for neutral weights and moved biases.
        build: gives name -> values in the layout of the event's kind.
        expect: gives the right result for an event's rows, None where the layer never took them.
        form: the form in which rows are compared.
        how: what was rearranged, for the report.
        trivial: nothing is known about the result but what comes after it.
        order: order of the gates, where the target divides the result.
        moved: the bias that this event takes from another one.
    """

    pieces: tuple[Piece, ...]
    build: Callable[[], dict[str, Tensor | None]]
    expect: Callable[[Event], Tensor | None]
    form: Form
    how: str = ""
    trivial: bool = False
    order: tuple[int, ...] | None = None
    moved: MovedBias | None = None
    fold: Layer | None = None

    @property
    def layer(self) -> Layer | None:
        return self.pieces[0][0] if self.pieces else None

    @cached_property
    def weights(self) -> dict[str, Tensor | None]:
        return self.build()

    def uses(self) -> set[tuple[int, int, int]]:
        used = {(layer.index, part, count) for layer, part, count in self.pieces}
        return used | ({(self.fold.index, 0, 1)} if self.fold else set())


def assignments(event: Event, source: Source, gates: int, biases: list[MovedBias]) -> Iterator[Assignment]:
    """The assignments whose layer takes the event's input, the closest form first.

    Args:
        event: the event of the target.
        source: the source.
        gates: into how many parts the target divides the result.
        biases: biases that have no place yet.
    """
    found = list(_taken_over(event, source))
    yield from found
    parted = list(_parted(event, source, gates)) if event.kind == "linear" else []
    yield from parted
    if not found and not parted and event.kind == "linear":
        yield from (joined := list(_joined(event, source)))
        found += joined or list(_split(event, source))
        yield from found[len(joined) :]
    if not found and not parted:
        yield from (moved := list(_rearranged(event, source)))
        found += moved
    yield from _absorbing(event, source, biases)
    if not found and not parted and event.kind in (*NORMS, "mul", "add", "prelu"):
        yield from _neutral(event, source)


def _native(event: Event, matrix: Tensor) -> Tensor:
    """A matrix (outputs, inputs) in the layout of an event's kind."""
    return matrix.t() if event.kind == "embedding" else matrix


def _weights(event: Event, layer: Layer, form: Form) -> dict[str, Tensor | None]:
    values = dict(layer.values)
    if form[0] == "linear":
        values["weight"] = _native(event, layer.matrix())
    return values


def _taken_over(event: Event, source: Source) -> Iterator[Assignment]:
    """As it is, or with the batch norm behind it folded in."""
    for layer in source.layers:
        for form, rows in event.forms().items():
            if form not in layer.forms or layer.respond(rows, form) is None:
                continue
            expect = lambda e, layer=layer, form=form: layer.respond(e.forms()[form], form)  # noqa: E731
            plain = Assignment(((layer, 0, 1),), partial(_weights, event, layer, form), expect, form)
            if layer.kind != event.kind:
                plain.how = f"{layer.kind} as {event.kind}"
            yield plain
            if layer.fold is not None:
                yield _folded(plain, layer, layer.fold)
            break


def _folded(plain: Assignment, layer: Layer, norm: Layer) -> Assignment:
    scale, shift = _affine(norm)

    def build() -> dict[str, Tensor | None]:
        weight, bias = plain.weights["weight"], plain.weights.get("bias")
        assert weight is not None
        outputs = 1 if layer.kind == "transposed conv" else 0
        shape = [-1 if i == outputs else 1 for i in range(weight.dim())]
        return {"weight": weight * scale.reshape(shape), "bias": shift if bias is None else bias * scale + shift}

    def expect(e: Event) -> Tensor | None:
        rows = plain.expect(e)
        if rows is None:
            return None
        return (rows.reshape(len(rows), len(scale), -1) * scale[:, None] + shift[:, None]).reshape(rows.shape)

    return Assignment(plain.pieces, build, expect, plain.form, "batch norm folded in", fold=norm)


def _affine(norm: Layer) -> tuple[Tensor, Tensor]:
    """Scale and shift of a batch norm in evaluation mode."""
    v = norm.values
    mean, variance, weight, bias = v["running_mean"], v["running_var"], v.get("weight"), v.get("bias")
    assert mean is not None
    assert variance is not None
    scale = (variance + norm.options["eps"]).rsqrt()
    scale = scale if weight is None else scale * weight
    return scale, -mean * scale if bias is None else bias - mean * scale


def _parted(event: Event, source: Source, gates: int) -> Iterator[Assignment]:
    """Gates in any order, from one layer or from several; one part of a layer that computes several gates."""
    (_, outputs, inputs), rows = next(iter(event.forms().items()))
    size = outputs // gates
    pieces: list[Piece] = []
    whole: list[Layer] = []
    for layer in source.layers:
        for form in layer.forms:
            if form[0] == "linear" and form[2] == inputs and form[1] % size == 0 and form[1] // size <= 4:
                if layer.respond(rows, form) is None:
                    continue
                count = form[1] // size
                whole += [layer] if count == gates else []
                pieces += [(layer, i, count) for i in range(count)]
                break
    if gates == 1:
        pieces = [p for p in pieces if p[2] > 1]
    seen = set()
    for chosen in _selections(pieces, whole, gates):
        names = tuple((id(layer), i) for layer, i, _ in chosen)
        if names not in seen:
            seen.add(names)
            yield _of_pieces(chosen, event, size)


#: orders of gates that libraries use, before the others
_USUAL = ((0, 1, 3, 2), (0, 2, 1, 3), (0, 3, 1, 2), (0, 2, 3, 1), (1, 0, 2))


def _selections(pieces: list[Piece], whole: list[Layer], gates: int) -> Iterator[tuple[Piece, ...]]:
    """Ordered selections of pieces: of one layer in its own order, in another, of several layers."""
    orders = sorted(permutations(range(gates)), key=lambda p: (p not in _USUAL, p))
    for layer in whole if gates > 1 else ():
        for order in orders:
            if order != tuple(range(gates)):
                yield tuple((layer, i, gates) for i in order)
    if not whole and len(pieces) <= 12:
        yield from permutations(pieces, gates)


def _of_pieces(chosen: tuple[Piece, ...], event: Event, size: int) -> Assignment:
    form = next(iter(event.forms()))

    def part(values: Tensor, piece: Piece) -> Tensor:
        return values[piece[1] * size : (piece[1] + 1) * size]

    def build() -> dict[str, Tensor | None]:
        biases = [p[0].bias for p in chosen]
        bias = None
        if any(b is not None for b in biases):
            none = torch.zeros(size, dtype=torch.float64)
            bias = torch.cat([none if b is None else part(b, p) for b, p in zip(biases, chosen, strict=True)])
        return {"weight": torch.cat([part(p[0].matrix(), p) for p in chosen]), "bias": bias}

    def expect(e: Event) -> Tensor | None:
        rows = e.forms()[form]
        given = []
        for layer, i, _ in chosen:
            wide = next(f for f in layer.forms if f[0] == "linear")
            y = layer.respond(rows, wide)
            if y is None:
                return None
            given.append(y[:, i * size : (i + 1) * size])
        return torch.cat(given, 1)

    layers = list(dict.fromkeys(p[0] for p in chosen))
    order = tuple(p[1] for p in chosen)
    if len(layers) > 1:
        how = "joined: " + ", ".join(layer.name for layer in layers)
    elif len(chosen) == chosen[0][2]:
        how = f"gates in the order {order}"
    else:
        how = f"part {', '.join(str(i + 1) for i in order)} of {chosen[0][2]}"
    single = len(layers) == 1 and len(chosen) == chosen[0][2]
    return Assignment(chosen, build, expect, form, how, order=order if single else None)


def _joined(event: Event, source: Source) -> Iterator[Assignment]:
    """One map of joined inputs here, a sum of two maps in the source."""
    (_, outputs, inputs), rows = next(iter(event.forms().items()))
    parts = []
    for layer in source.layers:
        for form in layer.forms:
            if form[0] == "linear" and form[1] == outputs and form[2] < inputs:
                for low in {0, inputs - form[2]}:
                    if layer.respond(rows[:, low : low + form[2]], form) is not None:
                        parts.append((low, form, layer))
    for (low, form, a), (high, other, b) in product(parts, parts):
        if low == 0 and high == form[2] and high + other[2] == inputs:

            def expect(e: Event, a: Layer = a, b: Layer = b, form: Form = form, other: Form = other) -> Tensor | None:
                x = next(iter(e.forms().values()))
                y, z = a.respond(x[:, : form[2]], form), b.respond(x[:, form[2] :], other)
                return None if y is None or z is None else y + z

            biases = [x for x in (a.bias, b.bias) if x is not None]
            weights: dict[str, Tensor | None] = {
                "weight": torch.cat([a.matrix(), b.matrix()], 1),
                "bias": sum(biases[1:], biases[0]) if biases else None,
            }
            yield Assignment(
                ((a, 0, 1), (b, 0, 1)),
                partial(dict, weights),
                expect,
                next(iter(event.forms())),
                f"{a.name} and {b.name} side by side",
            )


def _split(event: Event, source: Source) -> Iterator[Assignment]:
    """A sum of maps here, one map of joined inputs in the source: known only when the sum is complete."""
    (_, outputs, inputs), rows = next(iter(event.forms().items()))
    for layer in source.layers:
        for form in layer.forms:
            if form[0] != "linear" or form[1] != outputs or form[2] <= inputs:
                continue
            x = torch.cat(layer.inputs(form))
            for low in {0, form[2] - inputs}:
                block = x[:, low : low + inputs]
                if matching_rows(rows, block) is not None:
                    weight = layer.matrix()[:, low : low + inputs]
                    expect = lambda e, w=weight: next(iter(e.forms().values())) @ w.t()  # noqa: E731
                    first = low == 0
                    weights: dict[str, Tensor | None] = {"weight": weight, "bias": layer.bias if first else None}
                    if first and layer.bias is not None:
                        expect = lambda e, w=weight, b=layer.bias: next(iter(e.forms().values())) @ w.t() + b  # noqa: E731
                    yield Assignment(
                        ((layer, 0 if first else 1, 2),),
                        partial(dict, weights),
                        expect,
                        next(iter(event.forms())),
                        f"columns {low} to {low + inputs}",
                        trivial=True,
                    )


def _rearranged(event: Event, source: Source) -> Iterator[Assignment]:
    """Input channels or pixels in another order."""
    if event.kind not in ("linear", "conv") or event.options.get("groups", 1) != 1:
        return
    for layer in source.layers:
        for form, rows in event.forms().items():
            if form not in layer.forms or form[0] not in ("linear", "conv"):
                continue
            count = form[2] if form[0] == "linear" else form[3]
            for theirs in layer.inputs(form):
                order = (
                    permutation(_channels(rows, count), _channels(theirs, count))
                    if theirs.shape == rows.shape
                    else None
                )
                if order is not None:
                    yield _with_order(event, layer, form, order, count)
                    break


def _channels(rows: Tensor, count: int) -> Tensor:
    return rows.reshape(len(rows), count, -1).movedim(1, 0).flatten(1)


def _with_order(event: Event, layer: Layer, form: Form, order: Tensor, count: int) -> Assignment:
    """The layer with its input channels in another order."""
    weights = _weights(event, layer, form)
    weight = weights["weight"]
    assert weight is not None
    weights["weight"] = weight.reshape(len(weight), count, -1)[:, order].reshape(weight.shape)
    back = order.argsort()

    def expect(e: Event) -> Tensor | None:
        rows = e.forms()[form]
        return layer.respond(rows.reshape(len(rows), count, -1)[:, back].reshape(rows.shape), form)

    reverse = bool((order == torch.arange(count).flip(0)).all())
    how = "channels reversed" if reverse else "inputs permuted"
    return Assignment(((layer, 0, 1),), partial(dict, weights), expect, form, how)


def _absorbing(event: Event, source: Source, biases: list[MovedBias]) -> Iterator[Assignment]:
    """A bias that the target has elsewhere: in a later addition, or in the running mean of a norm."""
    form, rows = next(iter(event.forms().items()))
    for moved in biases:
        bias = moved.bias
        if event.kind in ("add", "sub") and event.sizes and max(event.sizes) == bias.numel():
            value = -bias if event.kind == "sub" else bias
            yield Assignment(
                (), partial(dict, weight=value), lambda e: None, form, "bias moved", trivial=True, moved=moved
            )
        if event.kind in ("batch norm", "instance norm") and rows.numel() % bias.numel() == 0:
            for layer in source.layers:
                if form not in layer.forms:
                    continue

                def expect(e: Event, layer: Layer = layer, bias: Tensor = bias) -> Tensor | None:
                    x = e.forms()[form]
                    samples = len(x) if e.kind == "batch norm" else len(x) // len(bias)
                    each = x.reshape(samples, len(bias), -1) + bias[:, None]
                    return layer.respond(each.reshape(x.shape), form)

                if expect(event) is not None:
                    weights = dict(layer.values)
                    if event.kind == "batch norm" and weights["running_mean"] is not None:
                        weights["running_mean"] = weights["running_mean"] - bias
                    yield Assignment(
                        ((layer, 0, 1),), partial(dict, weights), expect, form, "bias moved into the norm", moved=moved
                    )


def _neutral(event: Event, source: Source) -> Iterator[Assignment]:
    """Weights that change nothing, for an operation that has no counterpart in the source."""
    eps = event.options.get("eps", 0.0)
    neutral = {
        "weight": 0.0 if event.kind == "add" else 1.0,
        "bias": 0.0,
        "running_mean": 0.0,
        "running_var": 1.0 - eps,
    }
    weights: dict[str, Tensor | None] = {
        name: torch.full_like(w.view, neutral[name]) for name, w in event.weights.items() if w is not None
    }
    form = next(iter(event.forms()))
    yield Assignment(
        (), partial(dict, weights), lambda e: None, form, "no counterpart in the source; neutral values", trivial=True
    )
