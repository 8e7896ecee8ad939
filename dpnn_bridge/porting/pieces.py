"""Assign parts of the source's linear layers: gates in another order, several layers in one, one layer in several.

A piece is a part of a layer's outputs, and perhaps of its inputs. The target divides the result of an event into parts;
the event gets one piece for each part, in the order that gives the correct values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice, pairwise, permutations

import torch
from torch import Tensor

from dpnn_bridge.porting.assignment import Assignment, Weights, native
from dpnn_bridge.porting.divisions import Part, divisions
from dpnn_bridge.porting.events import Event, Form
from dpnn_bridge.porting.flow import sums_with
from dpnn_bridge.porting.source import Layer, Source
from dpnn_bridge.porting.values import Fingerprint, matching_rows

#: maximum numbers of pieces, of orders to try, of selections of concatenated layers, and of parts of one layer
_MAX_PIECES, _MAX_ORDERS, _MAX_SELECTIONS, _MAX_PARTS = 12, 500, 64, 4
#: the same for parts into which a network divides a layer, which are mostly in the right order
_MAX_DIVIDED = 6
#: maximum number of steps in the search for layers that have a number of outputs together
_MAX_STEPS = 20_000
#: orders of gates in common libraries, which are tried before other orders
_USUAL = ((0, 1, 3, 2), (0, 2, 1, 3), (0, 3, 1, 2), (0, 2, 3, 1), (1, 0, 2))


@dataclass(frozen=True, eq=False)
class Piece:
    """A part of a layer.

    Attributes:
        layer: the layer.
        form: the form of the layer that is divided.
        part, count: index of the part of the outputs, and number of equal parts.
        low, high: first column, and column after the last, of the layer's inputs.
        indices: the outputs in the part, if the source divides its outputs into other parts than equal ones. Then each
            output counts as a part.
    """

    layer: Layer
    form: Form
    part: int
    count: int
    low: int
    high: int
    indices: Part | None = None

    @property
    def has_all_inputs(self) -> bool:
        return self.high - self.low == _inputs(self.form)

    @property
    def size(self) -> int:
        return _outputs(self.form) // self.count if self.indices is None else len(self.indices)

    def parts(self) -> list[tuple[int, int, int]]:
        """Return the parts of layers that the piece uses, as (layer index, part, number of parts)."""
        if self.indices is not None:
            return [(self.layer.index, i, self.count) for i in self.indices]
        number = self.part + (self.count if self.low else 0)  # pieces of later columns come after all others
        return [(self.layer.index, number, self.count * (1 if self.has_all_inputs else 2))]

    def of(self, values: Tensor) -> Tensor:
        """Return the piece's part of values whose first dimension is the layer's outputs."""
        if self.indices is not None:
            return values[list(self.indices)]
        return values[self.part * self.size : (self.part + 1) * self.size]

    def matrix(self) -> Tensor:
        weight = self.layer.values["weight"] if self.form[0] == "conv" else self.layer.matrix()
        assert weight is not None
        return self.of(weight)[:, self.low : self.high]

    def bias(self) -> Tensor | None:
        """Return the bias. If a layer is split by columns, only the piece with the first column has the bias."""
        bias = self.layer.bias
        return None if bias is None or self.low else self.of(bias)

    def outputs_for(self, rows: Tensor) -> Tensor | None:
        """Return the outputs of the piece for rows of inputs; None if the layer never had these inputs."""
        if self.has_all_inputs:
            given = self.layer.outputs_for(rows, self.form)
            if given is None:
                return None
            by_output = given.reshape(len(given), _outputs(self.form), -1).transpose(0, 1)
            return self.of(by_output).transpose(0, 1).flatten(1)
        result, bias = rows @ self.matrix().t(), self.bias()
        return result if bias is None else result + bias


def _outputs(form: Form) -> int:
    return form[2] if form[0] == "conv" else form[1]


def _inputs(form: Form) -> int:
    return form[3] if form[0] == "conv" else form[2]


def _family(form: Form) -> Form:
    """Return a form without its number of outputs, which parts of a layer share with the complete layer."""
    outputs = 2 if form[0] == "conv" else 1
    return form[:outputs] + form[outputs + 1 :]


def of_pieces(event: Event, source: Source, sizes: tuple[int, ...]) -> Iterator[Assignment]:
    """Yield assignments of pieces: gates in any order, from one layer or several; or one part of a wider layer.

    Args:
        event: the event.
        source: the source.
        sizes: sizes of the parts into which the target divides the outputs.
    """
    form = event.forms[0] if event.kind == "conv" else event.linear_form
    if form is None:
        return
    divided = list(_divided(source, event.rows_in(form), form))
    for parts in dict.fromkeys(((sum(sizes),), sizes)):
        yield from islice(_selected(event, form, [p for p in divided if p.size in parts], parts), _MAX_DIVIDED)
    pieces = [p for size in dict.fromkeys(sizes) for p in _pieces(source, event.rows_in(form), form, size)]
    yield from _selected(event, form, pieces, sizes)
    if len(sizes) == 1:
        yield from _concatenated(event, form, list(_complete_layers(source, event.rows_in(form), form)))
    linear = event.linear_form
    if linear is not None and (not pieces or len(sizes) == 1):
        columns = [p for size in dict.fromkeys(sizes) for p in _columns(source, event.rows_in(linear), size)]
        yield from _selected(event, linear, columns, sizes)
        if not pieces and len(set(sizes)) == 1:
            yield from _joined(event, linear, source, len(sizes))


def _pieces(source: Source, rows: Tensor, form: Form, size: int) -> Iterator[Piece]:
    """Yield the pieces with ``size`` outputs of the layers that have rows as input."""
    for layer in source.layers:
        for theirs in layer.forms:
            if _family(theirs) != _family(form):
                continue
            count, rest = divmod(_outputs(theirs), size)
            if not rest and count <= _MAX_PARTS:
                if layer.outputs_for(rows, theirs) is not None:
                    yield from (Piece(layer, theirs, i, count, 0, _inputs(theirs)) for i in range(count))
                break


def _divided(source: Source, rows: Tensor, form: Form) -> Iterator[Piece]:
    """Yield the parts, other than equal ones, into which the source divides the outputs of layers with these inputs."""
    for complete in _complete_layers(source, rows, form):
        layer, outputs = complete.layer, complete.size
        if outputs not in layer.parts:
            found = (p for e in layer.events for p in divisions(source.tape, e, outputs))
            layer.parts[outputs] = list(dict.fromkeys(found))
        for part in layer.parts[outputs]:
            size, start = len(part), part[0]
            equal = not (start % size or outputs % size) and part == tuple(range(start, start + size))
            if not equal or outputs // size > _MAX_PARTS:
                yield replace(complete, count=outputs, indices=part)


def _complete_layers(source: Source, rows: Tensor, form: Form) -> Iterator[Piece]:
    """Yield a piece for each complete layer that has rows as input, with any number of outputs."""
    for layer in source.layers:
        theirs = next((f for f in layer.forms if _family(f) == _family(form)), None)
        if theirs is not None and layer.outputs_for(rows, theirs) is not None:
            yield Piece(layer, theirs, 0, 1, 0, _inputs(theirs))


def _columns(source: Source, rows: Tensor, size: int) -> Iterator[Piece]:
    """Yield pieces of layers whose inputs begin or end with rows: the target splits the inputs and adds the results."""
    for layer in source.layers:
        for form in layer.forms:
            width = rows.shape[1]
            if form[0] != "linear" or form[2] <= width or form[1] % size or form[1] // size > _MAX_PARTS:
                continue
            if not layer.events:
                continue  # the layer has not run on this input
            inputs, count = torch.cat(layer.inputs(form)), form[1] // size
            for low in dict.fromkeys((0, form[2] - width)):
                if matching_rows(rows, inputs[:, low : low + width]) is not None:
                    yield from (Piece(layer, form, i, count, low, low + width) for i in range(count))


def _selected(event: Event, form: Form, pieces: list[Piece], sizes: tuple[int, ...]) -> Iterator[Assignment]:
    for chosen in _selections(pieces, sizes):
        first = chosen[0]
        same = all(p.layer is first.layer for p in chosen)
        order = tuple(p.part for p in chosen)
        if same and len(chosen) == first.count and first.has_all_inputs and order == tuple(range(len(sizes))):
            continue  # the unchanged layer
        yield _assigned(event, form, chosen, order if same and len(chosen) == first.count else None)


def _selections(pieces: list[Piece], sizes: tuple[int, ...]) -> Iterator[tuple[Piece, ...]]:
    """Yield ordered selections of pieces: all pieces of one layer in any order, or pieces of several layers."""
    gates = len(sizes)
    orders = sorted(permutations(range(gates)), key=lambda p: (p != tuple(range(gates)), p not in _USUAL, p))
    firsts = [p for p in pieces if p.count == gates and p.part == 0] if gates > 1 and len(set(sizes)) == 1 else []
    for first in firsts:
        parts = [p for p in pieces if p.layer is first.layer and p.low == first.low]
        yield from (tuple(parts[i] for i in order) for order in orders)
    if not firsts and len(pieces) <= _MAX_PIECES:
        yield from (c for c in permutations(pieces, gates) if tuple(p.size for p in c) == sizes)


def _concatenated(event: Event, form: Form, layers: list[Piece]) -> Iterator[Assignment]:
    """Yield assignments of several complete layers whose outputs are concatenated."""
    counts = range(min(len(layers), _MAX_PIECES), 1, -1)
    chosen = (c for n in counts for c in _with_outputs(layers, n, _outputs(form)))
    yield from (_assigned(event, form, pieces, None) for pieces in islice(chosen, _MAX_SELECTIONS))


def _with_outputs(layers: list[Piece], count: int, outputs: int) -> Iterator[tuple[Piece, ...]]:
    """Yield ordered selections of layers that have a number of outputs together, at most those of a bounded search."""
    smallest, largest = min(p.size for p in layers), max(p.size for p in layers)
    stack: list[tuple[tuple[int, ...], int]] = [((), outputs)]
    for _ in range(_MAX_STEPS):
        if not stack:
            return
        chosen, left = stack.pop()
        missing = count - len(chosen)
        if not missing and not left:
            yield tuple(layers[i] for i in chosen)
        elif missing * smallest <= left <= missing * largest:
            others = [i for i in range(len(layers)) if i not in chosen]
            stack += [((*chosen, i), left - layers[i].size) for i in reversed(others)]


def interleaved(event: Event, source: Source, parts: list[Part]) -> Iterator[Assignment]:
    """Yield assignments of one layer, or of parts of layers, to each part of the outputs.

    Args:
        event: the event.
        source: the source.
        parts: the parts into which the target divides all outputs, such as the queries, keys and values of each head.
    """
    form = event.linear_form
    if form is None or not 2 <= len(parts) <= _MAX_PARTS:
        return
    rows, sizes = event.rows_in(form), tuple(map(len, parts))
    own = [p for size in dict.fromkeys(sizes) for p in _pieces(source, rows, form, size)]
    own.sort(key=lambda p: p.count)  # complete layers first
    layers = [*own, *(p for p in _divided(source, rows, form) if p.size in sizes)][:_MAX_PIECES]
    order = torch.tensor([i for part in parts for i in part]).argsort()
    fitting = (c for c in permutations(layers, len(parts)) if tuple(p.size for p in c) == sizes)
    for chosen in islice(fitting, _MAX_DIVIDED):
        yield _assigned(event, form, chosen, None, order)


def _assigned(
    event: Event, form: Form, chosen: tuple[Piece, ...], order: tuple[int, ...] | None, moved: Tensor | None = None
) -> Assignment:
    """Return the assignment of concatenated pieces. ``moved``: the index of each output in the concatenation."""

    def concatenate(values: list[Tensor], dim: int) -> Tensor:
        joined = torch.cat(values, dim)
        return joined if moved is None else joined.index_select(dim, moved)

    def build() -> Weights:
        biases = [p.bias() for p in chosen]
        bias = None
        if any(b is not None for b in biases):
            found = zip(chosen, biases, strict=True)
            bias = concatenate([torch.zeros(p.size, dtype=torch.float64) if b is None else b for p, b in found], 0)
        return {"weight": native(event, concatenate([p.matrix() for p in chosen], 0)), "bias": bias}

    def expect(e: Event) -> Tensor | None:
        given = [p.outputs_for(e.rows_in(form)) for p in chosen]
        return None if any(y is None for y in given) else concatenate([y for y in given if y is not None], 1)

    layers = tuple(dict.fromkeys(p.layer for p in chosen))
    parts = tuple(part for p in chosen for part in p.parts())
    unconfirmed = not all(p.has_all_inputs for p in chosen)
    description = _description(chosen) + ("" if moved is None else ", interleaved")
    return Assignment(layers, build, expect, form, description, parts, unconfirmed, len(chosen), order)


def _description(chosen: tuple[Piece, ...]) -> str:
    layers = list(dict.fromkeys(p.layer.name for p in chosen))
    order = tuple(p.part for p in chosen)
    columns = "" if chosen[0].has_all_inputs else f", columns {chosen[0].low + 1} to {chosen[0].high}"
    if len(layers) > 1:
        return f"joined: {', '.join(layers)}{columns}"
    if len(chosen) == chosen[0].count:
        numbers = ", ".join(str(i + 1) for i in order)
        return f"gates in the order ({numbers}){columns}" if len(chosen) > 1 else f"split{columns}"
    if chosen[0].indices is not None:
        return f"split: outputs {_ranges(chosen[0].indices)}"
    return f"split: part {', '.join(str(i + 1) for i in order)} of {chosen[0].count}{columns}"


def _ranges(indices: Part) -> str:
    """Return the indices counted from 1, as ranges."""
    starts = [0, *(i for i in range(1, len(indices)) if indices[i] != indices[i - 1] + 1), len(indices)]
    shown = [f"{indices[a] + 1} to {indices[b - 1] + 1}" for a, b in pairwise(starts)]
    return ", ".join(shown if len(shown) <= _MAX_PARTS else [*shown[: _MAX_PARTS - 1], "…", shown[-1]])


def _joined(event: Event, form: Form, source: Source, gates: int) -> Iterator[Assignment]:
    """Yield assignments to one linear map of concatenated inputs, if the source adds two linear maps."""
    rows, size = event.rows_in(form), form[1] // gates
    pairs: list[tuple[Piece, Piece]] = []
    for split in sorted({f[2] for layer in source.layers for f in layer.forms if f[0] == "linear" and f[2] < form[2]}):
        right = list(_pieces(source, rows[:, split:], ("linear", size, form[2] - split), size))
        left = list(_pieces(source, rows[:, :split], ("linear", size, split), size)) if right else []
        pairs += [(a, b) for a in left for b in right if _are_added(a.layer, b.layer)]
    likely = sorted(pairs, key=lambda pair: not _is_sum(pair, rows, source))
    # the same gate of both maps first: before the first step, every sum with the state is one
    same = [pair for pair in likely if pair[0].part == pair[1].part]
    orders = chain(permutations(same, gates), permutations(likely, gates))
    distinct = (c for c in orders if all(len(set(side)) == gates for side in zip(*c, strict=True)))
    for chosen in islice(distinct, _MAX_ORDERS):
        yield _added(event, form, chosen)


def _are_added(layer: Layer, other: Layer) -> bool:
    return any(sums_with(a.node, b.node) for a in layer.events for b in other.events)


def _is_sum(pair: tuple[Piece, Piece], rows: Tensor, source: Source) -> bool:
    """Return whether the sum of the results of two pieces is a value of the source."""
    split = pair[0].form[2]
    y, z = pair[0].outputs_for(rows[:, :split]), pair[1].outputs_for(rows[:, split:])
    return y is not None and z is not None and source.knows(Fingerprint.of(y + z))


def _added(event: Event, form: Form, chosen: tuple[tuple[Piece, Piece], ...]) -> Assignment:
    """Return the assignment of pairs of pieces whose results are added, to a map of their concatenated inputs."""
    left = _assigned(event, form, tuple(a for a, _ in chosen), None)
    right = _assigned(event, form, tuple(b for _, b in chosen), None)
    split = chosen[0][0].form[2]

    def build() -> Weights:
        a, b = left.build(), right.build()
        biases = [x["bias"] for x in (a, b) if x["bias"] is not None]
        matrix = torch.cat([native(event, x["weight"]) for x in (a, b) if x["weight"] is not None], 1)
        return {"weight": native(event, matrix), "bias": torch.stack(biases).sum(0) if biases else None}

    def expect(e: Event) -> Tensor | None:
        rows = e.rows_in(form)
        y = [a.outputs_for(rows[:, :split]) for a, _ in chosen]
        z = [b.outputs_for(rows[:, split:]) for _, b in chosen]
        if any(v is None for v in (*y, *z)):
            return None
        return torch.cat([v for v in y if v is not None], 1) + torch.cat([v for v in z if v is not None], 1)

    names = ", ".join(dict.fromkeys(layer.name for layer in (*left.layers, *right.layers)))
    layers = tuple(dict.fromkeys((*left.layers, *right.layers)))
    return Assignment(layers, build, expect, form, f"joined side by side: {names}", left.parts + right.parts)
