"""Record the source network: its layers and all values that it computes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.base.storage import storage_id
from dpnn_bridge.porting.divisions import Part
from dpnn_bridge.porting.events import LINEAR, Event, Form, Weight, event_of
from dpnn_bridge.porting.flow import addition_after, output_nodes, signature, through_views
from dpnn_bridge.porting.tape import VIEWS, Node, Recorder, Tape, leaves
from dpnn_bridge.porting.values import (
    DOUBLE,
    SINGLE,
    SUMS,
    Fingerprint,
    Fingerprints,
    References,
    RowIndex,
    Table,
    matching_rows,
)

#: operations on all gates of a recurrent layer at once
_GATED = frozenset(("addmm", "mm", "add", "sigmoid", "baddbmm"))


@dataclass(eq=False)
class Value:
    """A value of the source: the node that computes it; None for an input."""

    node: Node | None


@dataclass(eq=False)
class Layer:
    """One set of weights of the source, with all its uses.

    Attributes:
        index: index in ``Source.layers``.
        kind: type of the operation, see :class:`~dpnn_bridge.porting.events.Event`.
        name: Lua path.
        values: name -> weights, in the layout of the type.
        options: arguments that change the result.
        roots: names of the parameters of the source that the weights are computed from.
        learned: whether the weights depend on a parameter, not only on buffers.
        events: the uses in the last run.
        fold: the batch norm that follows every use, or None.
        addition: the layer whose addition counts as the bias of this layer, or None.
        single: whether the source computes the layer in single precision.
        forms: the forms in which the uses can be compared.
        pairs: form -> inputs and outputs of the uses, as rows.
        references: form -> the inputs, prepared for comparison.
        parts: number of outputs -> the parts into which the source divides them.
    """

    index: int
    kind: str
    name: str
    values: dict[str, Tensor | None]
    options: dict[str, Any]
    roots: list[str]
    learned: bool
    events: list[Event] = field(default_factory=list)
    fold: Layer | None = None
    addition: Layer | None = None
    single: bool = False
    forms: tuple[Form, ...] = ()
    pairs: dict[Form, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)
    references: dict[Form, References] = field(default_factory=dict)
    parts: dict[int, list[Part]] = field(default_factory=dict)

    @property
    def bias(self) -> Tensor | None:
        return self.values.get("bias")

    @property
    def tolerance(self) -> float:
        return SINGLE if self.single else DOUBLE

    @property
    def outputs(self) -> int:
        """The number of outputs of a linear map or a convolution."""
        weight = self.values["weight"]
        assert weight is not None
        return weight.shape[1] * self.options["groups"] if self.kind == "transposed conv" else self.matrix().shape[0]

    def signature(self) -> Any:
        return signature(self.events[0].node) if self.events else None

    def forget(self) -> None:
        """Discard the uses of an earlier run."""
        for event in self.events:
            event.release_input()
            event.output = None
        self.events.clear()
        self.pairs.clear()
        self.references.clear()
        self.parts.clear()

    def inputs(self, form: Form) -> list[Tensor]:
        """Return the layer's inputs as rows of a form."""
        return [x for x, _ in self.pairs_of(form)]

    def pairs_of(self, form: Form) -> list[tuple[Tensor, Tensor]]:
        """Return the layer's inputs and outputs as rows of a form."""
        if form not in self.pairs:
            self.pairs[form] = [(e.rows_in(form), e.out_rows(e.output, form)) for e in self.events if form in e.forms]
        return self.pairs[form]

    def matrix(self) -> Tensor:
        """Return the weights of a linear form, with shape (outputs, inputs)."""
        weight = self.values["weight"]
        assert weight is not None
        return weight.t() if self.kind == "embedding" else weight.flatten(1)

    def outputs_for(self, rows: Tensor, form: Form) -> Tensor | None:
        """Return the layer's outputs for rows of inputs; None if the layer never had these inputs.

        A linear map also has outputs for rows of zeros: its bias.
        """
        pairs = self.pairs_of(form)
        if form not in self.references:
            self.references[form] = References([x for x, _ in pairs])
        found = self.references[form].find(rows, self.tolerance)
        if found is not None:
            return pairs[found][1]
        if form[0] not in ("linear", "embedding") and all(len(x) == len(rows) for x, _ in pairs):
            return None
        return self.look_up(rows, form)

    def look_up(self, rows: Tensor, form: Form) -> Tensor | None:
        """Return the layer's outputs for rows from any of its uses; None if a row was never an input."""
        pairs = [(x, y) for x, y in self.pairs_of(form) if x.shape[1] == rows.shape[1]]
        if not pairs:
            return None
        width = pairs[0][1].shape[1]
        xs, ys = [x for x, y in pairs if y.shape[1] == width], [y for _, y in pairs if y.shape[1] == width]
        if form[0] == "linear":
            zero = torch.zeros(1, ys[0].shape[1], dtype=torch.float64)
            xs, ys = (
                [*xs, torch.zeros(1, rows.shape[1], dtype=torch.float64)],
                [*ys, zero if self.bias is None else self.bias[None]],
            )
        x, y = torch.cat(xs), torch.cat(ys)
        found = matching_rows(rows, x, self.tolerance)
        return None if found is None else y[found]


class Source:
    """The source network. Each run records one input; the layers are the same objects in every run.

    Attributes:
        layers: the layers.
        names: function from the name of a module in PyTorch to its Lua path.
        single: names of the buffers that were in single precision.
        table: the values of the last run.
        gates: fingerprints of halves, thirds and quarters of rows, such as the gates of an LSTM.
        tape, output: the operations and the outputs of the last run.
        to_capture: indices of nodes whose results ``captured`` will contain.
        captured: node index -> result.
        tolerance: largest relative difference of equal fingerprints.
    """

    def __init__(self, names: Callable[[str], str], single: frozenset[str] = frozenset()) -> None:
        self.layers: list[Layer] = []
        self.names, self.single = names, single
        self.tolerance = SUMS
        self.to_capture: set[int] = set()
        self.captured: dict[int, Tensor] = {}
        self._by_weights: dict[Any, Layer] = {}
        self._candidates: dict[Form, dict[int, RowIndex]] = {}
        self._digests: dict[Any, Any] = {}

    def record(
        self, module: nn.Module, call: Callable[[nn.Module, Any], Any], example: Any, parts: bool = False
    ) -> None:
        """Run and record the network. The inputs and outputs of an earlier run are discarded.

        Args:
            module, call, example: the network, a function that runs it, and the input.
            parts: whether halves, thirds and quarters of the channels are values too.
        """
        self._parts, self.run_with_parts = parts, partial(self.record, module, call, example, parts=True)
        self.table: Table[Value] = Table()
        self.gates: Table[None] = Table()
        self._poolings: dict[str, Table[Node]] = {}
        self._fingerprints = Fingerprints()
        self._alive: list[Any] = []
        self._shared: dict[int, list[tuple[Event, str]]] = {}
        for layer in self.layers:
            layer.forget()
        self._candidates.clear()
        kept: list[Any] = []

        def run(m: nn.Module) -> Any:
            kept.append(call(m, example))
            return kept[0]

        self.tape = Recorder(module, example, self._observe, self.single).run(module, run)
        self.tolerance = SINGLE if any(node.single for node in self.tape.nodes) else SUMS
        tensors = [t.detach() for t in leaves(kept) if isinstance(t, Tensor)]
        self.output = [t.double() if t.is_floating_point() else t for t in tensors]
        owners = {event: layer for layer in self.layers for event in layer.events}
        for layer in self.layers:
            layer.forms = layer.forms or layer.events[0].forms
            layer.fold = layer.fold or _fold(layer, owners)
            _merge_addition(layer, owners, self.tape.shapes)
        self._alive.clear()
        self._shared.clear()

    def _observe(self, tape: Tape, node: Node, args: Any, kwargs: Any, run: Callable[[], Any]) -> Any:
        if node.constant:
            return run()
        event = event_of(tape, node, args)
        for slot, tensor in zip(node.reads, (t for t in leaves((args, kwargs)) if isinstance(t, Tensor)), strict=True):
            if slot.number not in tape.weights:
                fingerprint = self._fingerprints.of(id(tensor), tensor)
                node.input_fingerprints += [fingerprint, *self._chunks(tensor)]
                if slot.number in tape.constants:
                    self.table.add(fingerprint, Value(None))
        if "pool" in node.op and node.input_fingerprints:
            self._poolings.setdefault(node.op, Table()).add(node.input_fingerprints[0], node)
        if event is not None:
            self._store(tape, event)
        if node.mutates:
            changed = node.changed(args, kwargs)
            self._fingerprints.forget(*changed)
            self._copy_shared(changed)
        out = run()
        self._alive.append((args, kwargs, out))
        if node.index in self.to_capture:
            self.captured[node.index] = next(leaves(out)).detach().clone()
        for tensor in leaves(out):
            if isinstance(tensor, Tensor):
                fingerprint = self._fingerprints.of(id(tensor), tensor)
                chunks = self._chunks(tensor)
                node.result_fingerprints += [fingerprint, *chunks]
                for chunk in chunks:
                    self.table.add(chunk, Value(node))
                if node.op not in VIEWS or not any(p.count == fingerprint.count for p in node.input_fingerprints):
                    self.table.add(fingerprint, Value(node))
                if node.op in _GATED:
                    self._add_gates(tensor)
        if event is not None:
            event.output = event.rows(next(leaves(out))).detach()
            event.rows = lambda t: t
            self._share(event, "output")
            node.event = event
            node.origins |= 1 << node.index
        return out

    def _chunks(self, tensor: Tensor) -> list[Fingerprint]:
        """Return the fingerprints of halves, thirds and quarters of the channels, if ``record`` got ``parts=True``."""
        if not self._parts or tensor.dim() < 2 or not tensor.is_floating_point():
            return []
        counts = (n for n in (2, 3, 4) if tensor.shape[1] and tensor.shape[1] % n == 0)
        return [Fingerprint.of(part) for n in counts for part in tensor.chunk(n, 1)]

    def _share(self, event: Event, name: str) -> None:
        """Register a tensor of an event that the network may change in place; then the event gets a copy."""
        storage = storage_id(getattr(event, name))
        self._shared.setdefault(storage, []).append((event, name))

    def _copy_shared(self, changed: list[Tensor]) -> None:
        for tensor in changed:
            for event, name in self._shared.pop(storage_id(tensor), ()):
                setattr(event, name, getattr(event, name).clone())

    def _add_gates(self, tensor: Tensor) -> None:
        """Store the fingerprints of halves, thirds and quarters of rows, which may be separate tensors elsewhere."""
        if tensor.dim() == 3 and tensor.shape[1] <= 4:  # (rows, gates, size)
            for part in tensor.unbind(1):
                self.gates.add(Fingerprint.of(part), None)
        for parts in (2, 3, 4) if tensor.dim() == 2 else ():
            if tensor.shape[1] % parts == 0:
                for part in tensor.chunk(parts, 1):
                    self.gates.add(Fingerprint.of(part), None)

    def _store(self, tape: Tape, event: Event) -> None:
        found = {k: (None, None) if w is None else self._values(tape, w) for k, w in event.weights.items()}
        weights = {k: values for k, (values, _) in found.items()}
        # new norms have equal weights
        key = (event.kind, event.options.get("eps"), *((k, digest) for k, (_, digest) in found.items()))
        layer = self._by_weights.get(key)
        roots = list(dict.fromkeys(n for w in event.weights.values() if w for n in tape.root_names(w.slot)))
        if layer is None:
            learned = any(n in tape.parameters for n in roots)
            name = self.names(event.node.owner)
            layer = Layer(len(self.layers), event.kind, name, weights, event.options, roots, learned)
            self._by_weights[key] = layer
            self.layers.append(layer)
        layer.roots = list(dict.fromkeys([*layer.roots, *roots]))
        self._share(event, "input")
        for k, w in event.weights.items():
            if w is not None:
                w.view = weights[k]  # type: ignore[assignment]
        layer.events.append(event)
        layer.single |= event.node.single

    def _values(self, tape: Tape, weight: Weight) -> tuple[Tensor, Any]:
        """Return the values of a weight and their digest. Values are copied unless they are a view of a parameter."""
        values = weight.view.detach()
        if tape.roots.get(weight.slot) not in tape.parameters:
            return values.clone(), _digest(values)
        at = tape.roots[weight.slot], values.storage_offset(), values.shape, values.stride(), values._version
        if at not in self._digests:
            self._digests[at] = _digest(values)
        return values, self._digests[at]

    def needed(self) -> list[Layer]:
        """Return the layers with parameters that the output depends on."""
        origins = 0
        for node in output_nodes(self.tape):
            origins |= node.origins
        return [
            layer for layer in self.layers if layer.learned and any(origins >> e.node.index & 1 for e in layer.events)
        ]

    def candidates(self, event: Event, form: Form) -> set[int]:
        """Return the indices of layers that may have an event's rows as inputs; ``Layer.outputs_for`` decides."""
        if form not in self._candidates:
            found: dict[int, list[tuple[int, Tensor]]] = {}
            for layer in self.layers:
                inputs = layer.inputs(form) if form in layer.forms else []
                for width in {x.shape[1] for x in inputs}:
                    own = [x for x in inputs if x.shape[1] == width]
                    own += [own[0].new_zeros(1, width)] * (form[0] == "linear")
                    found.setdefault(width, []).extend((layer.index, x) for x in own)
            self._candidates[form] = {
                width: RowIndex([index for index, _ in pairs], [x for _, x in pairs]) for width, pairs in found.items()
            }
        if not self._candidates[form]:
            return set()  # without computing the rows, which may take much memory
        rows = event.rows_in(form)
        index = self._candidates[form].get(rows.shape[1])
        return set() if index is None else index.owners(rows, SINGLE)

    def pooling_of(self, op: str, inputs: list[Fingerprint]) -> Node | None:
        """Return the first pooling ``op`` whose input is one of these values, or None."""
        poolings = self._poolings.get(op, Table())
        return next((node for value in inputs for node in poolings.find(value)), None)

    def knows(self, fingerprint: Fingerprint) -> bool:
        """Return whether a tensor, in any order of its elements, is a value of the last run or a gate of a value."""
        found = self.table.find(fingerprint, self.tolerance), self.gates.find(fingerprint, self.tolerance)
        return any(True for values in found for _ in values)


def _merge_addition(layer: Layer, owners: dict[Event, Layer], shapes: dict[int, tuple[int, ...]]) -> None:
    """Make added weights the bias of a linear map, if the addition follows the map, or a sum with it, in every use.

    Of the maps in a sum, the first one gets the bias.

    Args:
        layer: the linear map.
        owners: event -> layer.
        shapes: slot number -> shape.
    """
    if layer.kind != "linear" or (layer.bias is not None and layer.addition is None) or not layer.events:
        return
    added = [addition_after(event.node, shapes) for event in layer.events]
    found = {None if event is None else owners.get(event) for event in added}
    addition = found.pop()
    if found or addition is None or addition.values["weight"] is None or addition is layer:
        return
    if any(other.addition is addition for other in owners.values() if other is not layer):
        return
    bias = addition.values["weight"].flatten()
    if len(bias) == layer.matrix().shape[0]:
        layer.values["bias"], layer.addition = bias, addition
        for event in layer.events:
            assert event.output is not None
            event.output = event.output + bias


def _digest(tensor: Tensor) -> tuple[Any, ...]:
    return tuple(tensor.shape), hashlib.blake2b(tensor.contiguous().numpy().data, digest_size=16).digest()


def _fold(layer: Layer, owners: dict[Event, Layer]) -> Layer | None:
    """Return the batch norm that follows a linear map in every use, or None. ``owners``: event -> layer."""
    if layer.kind not in LINEAR or layer.kind == "embedding":
        return None
    found = set()
    for event in layer.events:
        after = [e for n in through_views(event.node) if (e := n.event) is not None and e.kind == "batch norm"]
        if len(after) != 1 or None in (after[0].tensor("running_mean"), after[0].tensor("running_var")):
            return None
        found.add(owners[after[0]])
    return found.pop() if len(found) == 1 else None
