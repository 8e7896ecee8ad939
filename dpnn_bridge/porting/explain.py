"""Explain why the target deviates: trace a contradiction back to the first operation with another result.

An operation is the cause if all its inputs are values of the source and its result is not. The operations of the source
with the same inputs show the expected operation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from dpnn_bridge.porting.comparison import ContradictionError, shape_text
from dpnn_bridge.porting.events import Event, event_key
from dpnn_bridge.porting.flow import FILLING, ancestors, output_nodes, reads_unregistered, through_views
from dpnn_bridge.porting.networks import short_line
from dpnn_bridge.porting.recurrent import unfixable
from dpnn_bridge.porting.report import Deviation
from dpnn_bridge.porting.search import ARRANGING, Search
from dpnn_bridge.porting.source import Layer
from dpnn_bridge.porting.tape import VIEWS, Node, Slot, Tape
from dpnn_bridge.porting.values import Fingerprint
from dpnn_bridge.porting.wording import aligned_windows, described, differences, name_of, options_of

_FACTORIES = ("zeros", "ones", "empty", "full", "new_", "arange", "linspace", "fill", "zero", "aminmax", "_local")
#: operations that may reorder values
UNREGISTERED = (
    "uses a tensor that is neither a parameter nor a buffer of the module; make it one (torch.nn.Parameter,"
    " register_buffer), or make its layer an attribute of the module"
)
_REORDERING = frozenset(
    ("constant_pad_nd", "cat", "stack", "flip", "roll", "index", "index_select", "slice", "pixel_shuffle")
)


@dataclass
class Repair:
    """The expected value at a node: the result of a node of the source.

    Attributes:
        node: the node of the target.
        other: the node of the source.
        operand: the operand that the value replaces; None if it replaces the node's result.
    """

    node: Node
    other: Node
    operand: Slot | None = None


def deviation_at(node: Node, source: str, reason: str) -> Deviation:
    """Return a deviation at an operation of the target."""
    return Deviation(node.owner, short_line(node.line), source, reason)


class Explanation:
    """The search for the cause of a contradiction.

    Attributes:
        repair: the expected value at the cause; None if it is unknown.
        vague: whether no operation has inputs that are values of the source and a result that is not.
    """

    def __init__(self, contradiction: ContradictionError, search: Search) -> None:
        self.contradiction, self.search, self.source = contradiction, search, search.source
        self.repair: Repair | None = None
        self.vague = False

    def deviation(self) -> Deviation:
        """Return the deviation at the cause of the contradiction."""
        at = self.contradiction
        if at.node is not None and at.layer is not None and at.matched:
            self.repair = Repair(at.node, at.layer.events[0].node)
            return deviation_at(at.node, at.layer.name, layer_deviation(at.node, at.layer, at.why))
        recurrent = unfixable(self.search)
        if recurrent is not None:
            here, there, why = recurrent
            return deviation_at(here, self._path(there), why)
        root = self._root()
        if root is not None and not any(self._consumed(root)):
            self._accept_parts()
            root = self._root()
        self.vague = root is None or root is at.node or root.op in ARRANGING
        deviation = self._explain_unknown_use(root) or (
            self._explain_output() if root is None else self._explain_operation(root)
        )
        return replace(deviation, reason=deviation.reason + self._number_hint(root))

    def _number_hint(self, root: Node | None) -> str:
        """Return a hint if the module converts a result that depends on weights to a Python number before the root."""
        nodes = self.search.tape.nodes[: None if root is None else root.index]
        conversion = next((n for n in nodes if n.op == "_local_scalar_dense" and n.origins), None)
        if conversion is None:
            return ""
        what = f"{short_line(conversion.line)} converts a tensor to a Python number (item, float, if)"
        return f"; {what}, which was computed with the module's former weights: keep it a tensor"

    def _explain_unknown_use(self, root: Node | None) -> Deviation | None:
        """Explain an operation up to the root that uses a parameter unlike any known layer."""
        weights = self.search.tape.weights
        for node in self.search.tape.nodes[: None if root is None else root.index + 1]:
            reads = [] if node.constant or node.op in ARRANGING or node.event is not None else node.reads
            reads = reads if all(math.prod(self.search.tape.shapes[s.number]) for s in (*reads, *node.outs)) else []
            for slot in (s for s in reads if s.number in weights and self.search.tape.is_learned(s.number)):
                name = ", ".join(self.search.tape.root_names(slot.number))
                hint = "use a function of torch.nn.functional: linear, conv2d, bilinear, embedding or a norm"
                return deviation_at(
                    node, "", f"{described(node)} uses the parameter {name} in a form that port does not know; {hint}"
                )
        return None

    def _root(self) -> Node | None:
        """Return the first operation whose result is not a value of the source although all its inputs are."""
        stack = [self.contradiction.node] if self.contradiction.node is not None else self._output_nodes()
        seen: set[int] = set()
        roots: list[Node] = []
        while stack:
            node = stack.pop()
            if node.index in seen:
                continue
            seen.add(node.index)
            wrong = [n for n in node.inputs if not (n.constant or n.op in FILLING or self._is_right(n))]
            stack += wrong
            if not wrong and (node is self.contradiction.node or not self._is_right(node)):
                roots.append(node)
        return min(roots, key=lambda n: (n.op in ARRANGING, n.index), default=None)

    def _is_right(self, node: Node) -> bool:
        """Return whether the result of a node is a value of the source, or was compared with that of its layer."""
        if node.index in self.search.known or node.event is None or node is self.contradiction.node:
            return node.index in self.search.known
        placed = self.search.placement.placed.get(event_key(self.search.tape, node.event))
        if placed is None or not placed.assignment.layers or node.index not in self.search.result_fingerprints:
            return False
        return not placed.assignment.parts or self._has_sibling(node)

    def _accept_parts(self) -> None:
        """Count parts of the source's channels as values too: two branches may be one layer in the source."""
        self.source.run_with_parts()
        for index, fingerprints in self.search.result_fingerprints.items():
            if fingerprints and all(map(self.source.knows, fingerprints)):
                self.search.known.add(index)

    def _consumed(self, node: Node) -> list[list[Node]]:
        """Return the operations of the source that read each input of a node, or each part of an input."""
        inputs = list(self.search.input_fingerprints.get(node.index, []))
        inputs += [p for slot in node.reads for p in self.search.parts.get(slot.number, [])]
        return [list(self._consumers(fingerprint)) for fingerprint in inputs]

    def _has_sibling(self, node: Node) -> bool:
        """Return whether another operation of the same type, on the same input, has the rest of the layer."""
        others = [other for maker in node.inputs for other in through_views(maker)]
        others += [other for other in self.search.tape.nodes if node.event.slot in other.reads]
        return any(o is not node and o.event is not None and o.event.kind == node.event.kind for o in others)

    def _output_nodes(self) -> list[Node]:
        tape = self.search.tape
        if tape.failure is not None:
            return [node for node in tape.nodes if not node.constant][-1:]
        return output_nodes(tape)

    def _explain_operation(self, node: Node) -> Deviation:
        inputs = self.search.input_fingerprints.get(node.index, [])
        consumed = [consumers for consumers in self._consumed(node) if consumers]
        others = [consumers for consumers in consumed if not any(_has_type_of(node, n) for n in consumers)]
        there = list(dict.fromkeys(n for consumers in others[:1] if len(consumed) > 1 for n in consumers))
        there = there or list(dict.fromkeys(n for consumers in consumed for n in consumers))
        there.sort(key=self._has_counterpart)
        same = [n for n in there if _has_type_of(node, n)]
        unregistered = next((n for n in (same or there)[:1] if n.event is not None), None)
        if unregistered is not None and node.event is None and reads_unregistered(self.search.tape, node):
            return self._deviation_with_repair(node, unregistered, f"{described(node)} {UNREGISTERED}")
        if same:
            return self._explain_same_kind(node, same)
        if there:
            other = there[0]
            if "norm" in name_of(node) and "norm" in name_of(other):
                return self._explain_same_kind(node, [other])
            return self._explain_neutral_norm(node, other) or self._explain_other_kind(node, other)
        ends = [Fingerprint.of(output) for output in self.source.output]
        if any(_is_among(p, ends) for p in inputs):
            return deviation_at(
                node, "", f"{described(node)} here takes the output of the source, which has no further operation"
            )
        return deviation_at(node, "", f"{described(node)}: {self.contradiction.why}")

    def _has_counterpart(self, other: Node) -> bool:
        """Return whether an operation of the target has the result of a node of the source."""
        return any(
            _is_among(p, given)
            for given in self.search.result_fingerprints.values()
            for p in other.result_fingerprints[:1]
        )

    def _explain_other_kind(self, node: Node, other: Node) -> Deviation:
        """Explain that the source applies another operation to the value, perhaps before the same operation."""
        reason = f"{described(node)} here takes a value that in the source goes into {described(other)}"
        after = next((n for n in through_views(other) if name_of(n) == name_of(node)), None)
        if after is None:
            return self._deviation_with_repair(node, other, reason)
        if any(name_of(n) == name_of(other) for n in through_views(node)):
            what = f"{name_of(other)} comes before {name_of(node)} there, but after it here; swap them"
        else:
            what = f"{name_of(other)} is missing here"
        return self._deviation_with_repair(node, other, f"{reason} first: {what}", self._shared_operand(node, other))

    def _explain_neutral_norm(self, node: Node, other: Node) -> Deviation | None:
        """Explain a norm with neutral weights before a node, if the source has the norm after the node."""
        for placed in self.search.placement.placed.values():
            here, event = placed.event.node, other.event
            if event is None or placed.assignment.layers or placed.assignment.moved or placed.event.kind != event.kind:
                continue
            if node.origins >> here.index & 1:
                mine = next((n for n in ancestors(here) if n.op not in VIEWS), None)
                theirs = next((n for n in ancestors(other) if n.op not in VIEWS), None)
                takes = [f"the result of {name_of(n)}" if n is not None else "the input" for n in (mine, theirs)]
                reason = f"{name_of(here)} takes {takes[0]} here, {takes[1]} in the source"
                return deviation_at(here, self._path(other), reason)
        return None

    def _explain_same_kind(self, node: Node, there: list[Node]) -> Deviation:
        """Explain which argument, weight or operand differs between operations of one type on the same value."""
        contrasts = [(n, why) for n in there if (why := self._contrasts(node, n))]
        if contrasts:
            other, why = min(contrasts, key=lambda pair: len(pair[1]))
            return self._deviation_with_repair(node, other, f"{name_of(node)}: {'; '.join(why)}")
        other = there[0]
        here, source = self._differing_operands(node, other)
        if source is not None and any(
            _is_among(p, source.input_fingerprints) for p in self.search.input_fingerprints.get(node.index, [])
        ):
            reason = f"{name_of(node)} takes a value here that in the source goes through {described(source)} first"
            missing = f"{reason}: {name_of(source)} is missing here"
            return self._deviation_with_repair(node, source, missing, self._shared_operand(node, source))
        order = self._reordering(node)
        if order is not None:
            reason = f"{described(order)} gives the source's values in another order or on another side; detected in "
            self.repair = Repair(node, other)
            return deviation_at(order, self._path(other), f"{reason}{node.owner or 'the module'}, {name_of(node)}")
        if not self.contradiction.matched and self.contradiction.node is node and self.contradiction.layer is not None:
            used = f"{name_of(node)} {self.contradiction.why}: there the source uses the layer {self._path(other)}"
            return deviation_at(node, self.contradiction.layer.name, used)
        if here is not None and here.op not in _REORDERING and source is not None:
            reason = f"{name_of(node)} takes the result of {described(here)} here, of {described(source)} in the source"
            self.repair = Repair(node, other)
            return deviation_at(here, self._path(other), reason)
        inputs = self.search.input_fingerprints.get(node.index, [])
        same_values = all(_is_among(p, other.input_fingerprints) for p in inputs) and len(inputs) == len(
            other.input_fingerprints
        )
        why = "the order of elements differs" if same_values else "another operand differs"
        reason = f"{name_of(node)} takes the same value as in the source and gives another one: {why}"
        return self._deviation_with_repair(node, other, reason)

    def _contrasts(self, node: Node, other: Node) -> list[str]:
        """Return descriptions of the arguments and weights in which two operations differ."""
        why = [differences(*self._options(node, other))] if node.op == other.op else []
        if name_of(node) != name_of(other):
            why.insert(0, f"{name_of(node)} here, {name_of(other)} in the source")
        here, there = node.event, other.event
        if here is not None and there is not None and here.kind == there.kind:
            for name in here.weights:
                a, b = here.weights.get(name), there.weights.get(name)
                if a is None and b is not None:
                    why.append(f"no {name} here, the source has one")
                elif a is not None and b is not None and a.view.numel() != b.view.numel():
                    why.append(f"{name} of {shape_text(a.view)} here, of {shape_text(b.view)} in the source")
        elif here is None and there is not None and node.op == other.op:
            why.append("no affine weight and bias here, the source has them")
        elif here is not None and there is None and node.op == other.op:
            why.append("weights here, none in the source")
        return [w for w in why if w]

    def _options(self, node: Node, other: Node) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the arguments of both operations.

        If their inputs have different numbers of dimensions, ``dim`` is counted from the last dimension in both.
        """
        options, ranks = (options_of(node), options_of(other)), []
        for tape, at in ((self.search.tape, node), (self.source.tape, other)):
            ranks.append(len(tape.shapes[at.reads[0].number]) if at.reads else 0)
        for given, rank in zip(options, ranks, strict=True) if ranks[0] != ranks[1] else ():
            if isinstance(given.get("dim"), int) and given["dim"] >= 0:
                given["dim"] -= rank
        return options

    def _reordering(self, node: Node) -> Node | None:
        """Return the operation before a node that may have reordered correct values, if there is exactly one."""
        candidates = []
        for at in node.inputs:
            while at.op in VIEWS and at.op not in _REORDERING and at.inputs:
                at = at.inputs[0]
            if at.op in _REORDERING and not at.constant:
                candidates.append(at)
        return candidates[0] if len(candidates) == 1 else None

    def _differing_operands(self, node: Node, other: Node) -> tuple[Node | None, Node | None]:
        """Return the operations that computed the differing operand, in the target and in the source."""
        inputs = self.search.input_fingerprints.get(node.index, [])
        mine = self._maker_of(node, [p for p in inputs if not _is_among(p, other.input_fingerprints)])
        theirs = [p for p in other.input_fingerprints if not _is_among(p, inputs)]
        makers = [v.node for p in theirs for v in self.source.table.find(p) if v.node is not None]
        return mine, makers[0] if makers else None

    def _maker_of(self, node: Node, fingerprints: list[Fingerprint]) -> Node | None:
        for at in ancestors(node):
            if at.op not in VIEWS and any(
                _is_among(p, self.search.result_fingerprints.get(at.index, [])) for p in fingerprints
            ):
                return at
        return None

    def _deviation_with_repair(self, node: Node, other: Node, reason: str, operand: Slot | None = None) -> Deviation:
        """Return a deviation at a node. The result of ``other``, a node of the source, is the expected value."""
        self.repair = Repair(node, other, operand)
        parts = [(composite(self.search.tape, node), "here"), (composite(self.source.tape, other), "in the source")]
        named = ", ".join(f"{module} {where}" for module, where in parts if module)
        return deviation_at(node, self._path(other), f"{reason} (part of {named})" if named else reason)

    def _shared_operand(self, node: Node, other: Node) -> Slot | None:
        """Return the operand of a node that is also an operand of a node of the source."""
        slots = [s for s in node.reads if s.number not in self.search.tape.weights]
        pairs = zip(slots, self.search.input_fingerprints.get(node.index, []), strict=False)
        return next((slot for slot, fingerprint in pairs if _is_among(fingerprint, other.input_fingerprints)), None)

    def _path(self, node: Node) -> str:
        return self.source.names(node.owner)

    def _consumers(self, fingerprint: Fingerprint) -> Iterator[Node]:
        """Yield the operations of the source that read a value, except views."""
        for node in self.source.tape.nodes:
            computes = node.op not in VIEWS and not node.op.startswith(_FACTORIES)
            if computes and any(p.matches(fingerprint, self.source.tolerance) for p in node.input_fingerprints):
                yield node

    def _result_fingerprints(self, node: Node) -> list[Fingerprint]:
        """Return the fingerprints of a node's result, and of its first step if it is a sequence."""
        value = self.search.env[node.outs[0].number]
        steps = [value[0], value[:, 0]] if isinstance(value, Tensor) and value.dim() > 2 and value.numel() else []
        return self.search.result_fingerprints.get(node.index, []) + [Fingerprint.of(step) for step in steps]

    def _explain_output(self) -> Deviation:
        """Explain an output that differs from the source's although all other values agree."""
        nodes = self._output_nodes()
        if not nodes:
            return Deviation("", "", "", self.contradiction.why)
        if self.search.tape.failure is not None:
            return deviation_at(nodes[-1], "", self.contradiction.why)
        ends = [Fingerprint.of(output) for output in self.source.output]
        for node in nodes if not self.search.outputs.reordered else ():
            given = [p for p in self._result_fingerprints(node) if not _is_among(p, ends)]
            after = [n for p in given for n in self._consumers(p)]
            if after:
                module = composite(self.source.tape, after[0])
                part = f" (part of {module})" if module else ""
                reason = (
                    f"the source continues with {described(after[0])}{part}, missing here: {self.contradiction.why}"
                )
                return deviation_at(node, self._path(after[0]), reason)
        layer = self.contradiction.layer.name if self.contradiction.layer is not None else ""
        return Deviation("", short_line(nodes[-1].line), layer, self.contradiction.why)


def composite(tape: Tape, node: Node) -> str:
    """Return the ``repr`` of the module that runs an operation, if it is a layer of several operations; else ``""``."""
    module = tape.modules.get(node.owner)
    if module is None or not node.owner or any(True for _ in module.children()):
        return ""
    steps = {n.op for n in tape.nodes if n.owner == node.owner and n.op not in VIEWS and not n.constant}
    return repr(module) if len(steps) > 1 and node.event is None else ""


def _has_type_of(node: Node, other: Node) -> bool:
    """Return whether two operations have one type. A product with a number and a product of tensors have two types."""
    scalars = {"factor", "divisor", "constant"}
    return name_of(node) == name_of(other) and scalars & options_of(node).keys() == scalars & options_of(other).keys()


def layer_deviation(node: Node, layer: Layer, otherwise: str) -> str:
    """Explain why an operation and a layer have different results for the same input: arguments or weights differ.

    Args:
        node: the operation of the target.
        layer: the layer of the source.
        otherwise: the explanation if neither arguments nor weights differ.
    """
    event: Event = node.event
    why = [differences(*aligned_windows(options_of(node), layer.options))] if layer.kind == event.kind else []
    for name, value in layer.values.items():
        if value is not None and name in event.weights and event.weights[name] is None:
            why.append(f"no {name} here, the source has one")
    return f"{name_of(node)}: {'; '.join([w for w in why if w] or [otherwise])}"


def _is_among(fingerprint: Fingerprint, others: list[Fingerprint]) -> bool:
    return any(fingerprint.matches(other) for other in others)
