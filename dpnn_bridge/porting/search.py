"""Find the weights: run the target's tape and assign to every event the weights of the source's layer with its input.

When an event runs, all weights before it are set, so its input equals the input of the right layer. If several
assignments fit, the search tries the first and continues. At a contradiction, the search returns to the last choice
that the contradiction depends on (conflict-directed backjumping) and tries the next assignment.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from dpnn_bridge.base.default_dtype import default_dtype
from dpnn_bridge.base.storage import storage_id
from dpnn_bridge.porting.assignment import Assignment, MovedBias
from dpnn_bridge.porting.candidates import candidates
from dpnn_bridge.porting.comparison import ContradictionError
from dpnn_bridge.porting.events import Event, event_key, event_of
from dpnn_bridge.porting.flow import FILLING, last_readers
from dpnn_bridge.porting.networks import location
from dpnn_bridge.porting.outputs import Outputs, match_outputs
from dpnn_bridge.porting.placement import Placement
from dpnn_bridge.porting.source import Layer, Source
from dpnn_bridge.porting.tape import VIEWS, Node, Slot, Tape, leaves, replaced
from dpnn_bridge.porting.values import DOUBLE, Fingerprint, Fingerprints, difference, divisions
from dpnn_bridge.porting.wording import differences, options_of
from dpnn_bridge.porting.writing import Journal, Parameters

_GATHERING = "cat stack copy empty constant_pad_nd index fill zero index_select gather"
#: operations that only rearrange or fill elements, so that their results need not be values of the source
ARRANGING = VIEWS | FILLING | frozenset(_GATHERING.split())
#: maximum seconds and contradictions of a search; maximum seconds of a search after an operation was allowed to deviate
_SECONDS, _BACKTRACKS, _SECONDS_MORE = 8.0, 3000, 1.5
#: score of a search: points for an event with the right result; penalties for a node with another result although its
#: inputs are right, and for a part of the source that is used twice. Every other right value gives one point
_VERIFIED, _DEVIATING, _TWICE = 3, 1, 10


@dataclass
class Patch:
    """A value of the source that replaces a wrong value.

    Attributes:
        value: the value.
        operand: the operand of the node that it replaces; None if it replaces the result of the node.
        layer: index of the source's layer that computes the value, or None. No other operation must have its weights.
    """

    value: Tensor
    operand: Slot | None
    layer: int | None


@dataclass
class Choice:
    """An event with several assignments that may fit.

    Attributes:
        node: the event's node.
        options: the assignments not tried yet.
        tried: index of the last assignment tried; -1 before the first.
        conflicts: bit set of the earlier events on which the failures of assignments depend.
    """

    node: Node
    options: Iterator[Assignment]
    tried: int
    conflicts: int = 0


class Search:
    """Runs a tape and assigns weights.

    Attributes:
        env: slot number -> tensor.
        deviating: nodes whose inputs are values of the source and whose results are not, by index.
        allowed: operations, by their location in the code, whose results need not be values of the source.
        lenient: whether no result needs to be a value of the source.
        forced: node index -> index of the assignment with which a repeated search starts.
        marks: node index -> mark of the journal before the node ran.
        output, outputs: the output of the target with the weights found, and its comparison.
        parameters: the weights found.
        placement: the assignment of each event.
        known: indices of the nodes whose results are values of the source.
        input_fingerprints, result_fingerprints: node index -> fingerprints of its inputs and of its results.
        parts: slot number -> fingerprints of the parts of a value that are values of the source.
        patches: node index -> a value of the source that replaces a wrong value.
        windows: node index -> note about arguments of a pooling that differ without effect on this input.
    """

    def __init__(
        self, tape: Tape, source: Source, tensors: dict[str, Tensor], patches: dict[int, Patch] | None = None
    ) -> None:
        self.tape, self.source, self.patches = tape, source, patches or {}
        self.env: list[Any] = [None] * tape.size
        self.journal = Journal()
        self.parameters = Parameters(tape, self.env, tensors, self.journal)
        for number, tensor in tape.constants.items():
            self.env[number] = tensor.clone()
        self._fixed, self._releases = {storage_id(t) for t in self.env if t is not None}, last_readers(tape)
        self.placement = Placement(self.parameters, self.journal, source)
        self.fingerprints = Fingerprints()
        self.deviating: dict[int, Node] = {}
        self.allowed: set[tuple[str, str, str]] = set()
        self.lenient = False
        self.choices: list[Choice] = []
        self.outputs = Outputs()
        self.forced: dict[int, int] = {}
        self.marks: dict[int, int] = {}
        self.known: set[int] = set()
        self.windows: dict[int, str] = {}
        self.input_fingerprints: dict[int, list[Fingerprint]] = {}
        self.result_fingerprints: dict[int, list[Fingerprint]] = {}
        self.parts: dict[int, list[Fingerprint]] = {}
        self.additions = {layer.addition.index for layer in source.layers if layer.addition is not None}
        self.signatures = {layer.index: layer.signature() for layer in source.layers}

    # -- running -------------------------------------------------------------------------------------------------------
    def run(self) -> ContradictionError | None:
        """Assign weights to every event.

        Returns:
            The contradiction that remains, with the search in the state before it; None if everything fits.
        """
        with torch.no_grad(), default_dtype(torch.float64):
            while True:
                contradiction, decisions = self._best_contradiction()
                if contradiction is None:
                    return None
                self.journal.rollback(0)
                self.marks.clear()
                self.choices.clear()
                self.forced = decisions
                if not contradiction.soft or contradiction.node is None:
                    self.lenient = True
                    return self._forwards(0)[0] or contradiction
                self.allowed.add(_call_site(contradiction.node))

    def _best_contradiction(self) -> tuple[ContradictionError | None, dict[int, int]]:
        """Search until everything fits or all assignments were tried.

        Return the contradiction with the highest score and the decisions that led to it.
        """
        began, at, most = time.thread_time(), 0, 0
        best: ContradictionError | None = None
        decisions: dict[int, int] = {}
        for _ in range(_BACKTRACKS):
            contradiction, at = self._forwards(at)
            if contradiction is None:
                return None, {}
            score = self._score(at)
            if best is None or (score > most and not contradiction.exhausted):
                best, most, decisions = contradiction, score, {c.node.index: c.tried for c in self.choices}
            back = self._backtrack(contradiction)
            if back is None or time.thread_time() - began > (_SECONDS_MORE if self.allowed else _SECONDS):
                break
            at = back
        return best, decisions

    def _score(self, at: int) -> int:
        """Score the decisions before a node: right values, minus deviating operations and parts used twice."""
        known = sum(_VERIFIED if self.tape.nodes[i].event is not None else 1 for i in self.known if i < at)
        deviating = sum(index < at for index in self.deviating)
        twice = sum(n - 1 for use, n in self.placement.used.items() if use[0] not in self.additions)
        return known - _DEVIATING * deviating - _TWICE * twice

    def _forwards(self, at: int) -> tuple[ContradictionError | None, int]:
        """Run from a node to the first contradiction or to the end."""
        try:
            while at < len(self.tape.nodes):
                self.step(self.tape.nodes[at])
                self._release(at)
                at += 1
            self.finish()
        except ContradictionError as contradiction:
            return contradiction, at
        return None, at

    def _release(self, at: int) -> None:
        """Free the values that no later operation reads, unless the search may return to an earlier node."""
        if not self.choices:
            for number in self._releases.get(at, ()):
                self.env[number] = None

    def _backtrack(self, contradiction: ContradictionError) -> int | None:
        """Undo everything after the last choice that a contradiction depends on.

        Returns:
            The index of the choice's node; None if there is no such choice.
        """
        at = contradiction.node
        conflicts = contradiction.conflicts | (-1 if at is None else at.origins)
        while self.choices:
            choice = self.choices[-1]
            bit = 1 << choice.node.index
            if conflicts & bit:
                choice.conflicts |= conflicts & ~bit
                self.journal.rollback(self.marks[choice.node.index])
                return choice.node.index
            self.choices.pop()
        return None

    def step(self, node: Node) -> None:
        """Run a node, with a replaced value if the node has a patch."""
        patch = self.patches.get(node.index)
        if patch is not None and patch.layer is not None:
            self.placement.used.setdefault((patch.layer, 0, 1), 1)
        if patch is None:
            self._step(node)
        elif patch.operand is not None:
            number = patch.operand.number
            before, self.env[number] = self.env[number], patch.value
            self.fingerprints.drop(number)
            try:
                self._step(node)
            finally:
                self.env[number] = before
                self.fingerprints.drop(number)
        else:
            self._replace_result(node, patch)

    def _replace_result(self, node: Node, patch: Patch) -> None:
        """Replace the result of a node by the source's value."""
        self.input_fingerprints[node.index] = self._fingerprints(node.reads)
        shape = self.tape.shapes[node.outs[0].number]
        value = patch.value.reshape(shape) if patch.value.numel() == math.prod(shape) else patch.value
        if node.mutates:
            changed = node.changed(node.args, node.kwargs)[0]
            self.fingerprints.forget(self.env[changed.number])
            self.env[changed.number].copy_(value)
        self._store(node, [value, *(torch.zeros(self.tape.shapes[s.number]) for s in node.outs[1:])])
        self._compare(node)

    def _step(self, node: Node) -> None:
        self.marks[node.index] = self.journal.mark()
        self.journal.keeps = bool(self.choices)
        args = replaced(node.args, self._value)
        kwargs = {k: replaced(v, self._value) for k, v in node.kwargs.items()}
        if node.mutates:
            changed = node.changed(args, kwargs)[0]
            self.fingerprints.forget(changed)
            if self.choices or storage_id(changed) in self._fixed:
                self.journal.save(changed)
                self.journal.add(lambda: self.fingerprints.forget(changed))
        if node.constant:
            self._store(node, node.run(args, kwargs))
            return
        self.input_fingerprints[node.index] = self._fingerprints(node.reads)
        event = event_of(self.tape, node, args)
        if event is None:
            self._store(node, node.run(args, kwargs))
        else:
            self.decide(node, event, lambda: node.run(args, kwargs))
        self._compare(node)

    def _value(self, value: Any) -> Any:
        return self.env[value.number] if isinstance(value, Slot) else value

    def _fingerprints(self, slots: list[Slot]) -> list[Fingerprint]:
        return [self.fingerprints.of(s.number, self.env[s.number]) for s in slots if s.number not in self.tape.weights]

    def _store(self, node: Node, out: Any) -> None:
        for slot, tensor in zip(node.outs, (t for t in leaves(out) if isinstance(t, Tensor)), strict=True):
            self.fingerprints.drop(slot.number)
            self.env[slot.number] = tensor

    def knows(self, slot: Slot) -> bool:
        """Return whether a value, or each of its gates, channel groups or steps, is a value of the source."""
        tensor = self.env[slot.number]
        self.parts.pop(slot.number, None)
        if self.source.knows(self.fingerprints.of(slot.number, tensor)):
            return True
        for parts in divisions(tensor):
            fingerprints = list(takewhile(self.source.knows, map(Fingerprint.of, parts)))
            if len(fingerprints) == len(parts):
                self.parts[slot.number] = fingerprints
                return True
        return False

    def _compare(self, node: Node) -> None:
        """Compare the result of an operation with the source's values."""
        self.result_fingerprints[node.index] = self._fingerprints(node.outs)
        self.known.discard(node.index)
        if all(self.knows(slot) for slot in node.outs):
            self.known.add(node.index)
            if "pool" in node.op:
                self._compare_window(node)
            if "norm" in node.op and node.event is None:
                self.placement.drop_biases(node.origins)
            return
        if node.op in ARRANGING or not self.env[node.outs[0].number].is_floating_point():
            return
        if node.event is None and all(self.source.knows(p) for p in self.input_fingerprints[node.index]):
            self.deviating[node.index] = node
            self.journal.add(lambda: self.deviating.pop(node.index, None))
            if self._is_strict(node) and any(node.origins >> c.node.index & 1 for c in self.choices):
                raise ContradictionError(node, "gives no value of the source", soft=True)

    def _compare_window(self, node: Node) -> None:
        """Note the arguments of a pooling that differ from the source without effect for an input of this size."""
        other = self.source.pooling_of(node.op, self.input_fingerprints[node.index][:1])
        if other is not None and (differ := differences(options_of(node), options_of(other))):
            where = f"{location(node.owner, node.line)}: {differ} ({self.source.names(other.owner)})"
            self.windows[node.index] = f"{where}; equal for inputs of this size, perhaps not for others"

    # -- deciding ------------------------------------------------------------------------------------------------------
    def decide(self, node: Node, event: Event, run: Callable[[], Any]) -> None:
        """Run an event with the weights that it has, or else with the next assignment that fits.

        Raises:
            ContradictionError: no assignment fits.
        """
        key = event_key(self.tape, event)
        placed = self.placement.placed.get(key)
        if placed is not None:
            self._store(node, out := run())
            self._store(node, self.placement.use_again(event, placed, out))
            return
        choice = self.choices[-1] if self.choices and self.choices[-1].node is node else None
        if choice is None:
            options = candidates(event, self.tape, self.source, self.placement, self.signatures)
            choice = Choice(node, iter(options), -1)
            if len(options) > 1:
                self.choices.append(choice)
        mark, failed, skipped = self.journal.mark(), None, self.forced.pop(node.index, 0)
        self.journal.keeps = bool(self.choices)
        for assignment in choice.options:
            choice.tried += 1
            if choice.tried < skipped:
                continue
            try:
                out = self.placement.place(key, event, assignment, run)
                if assignment.moved and self._is_strict(node):
                    self._check_moved(node, assignment.moved, out)
                self._store(node, out)
                return
            except ContradictionError as contradiction:
                failed = failed or contradiction
                self.journal.rollback(mark)
        if self.choices and self.choices[-1] is choice:
            self.choices.pop()
        contradiction = failed or ContradictionError(node, "its input is not the input of any layer of the source")
        contradiction.conflicts |= choice.conflicts
        contradiction.exhausted = failed is None and choice.tried >= 0
        raise contradiction

    def _is_strict(self, node: Node) -> bool:
        """Return whether a result that is not a value of the source is a contradiction."""
        return not self.lenient and _call_site(node) not in self.allowed

    def _check_moved(self, node: Node, moved: tuple[MovedBias, ...], out: Any) -> None:
        """Check that a result with moved biases is a value of the source, or the result of the biases' layer."""
        result = next(leaves(out))
        if not self.source.knows(Fingerprint.of(result)):
            rows = moved[0].result() if len(moved) == 1 else None
            if rows is None or rows.numel() != result.numel() or difference(result.reshape(rows.shape), rows) > DOUBLE:
                raise ContradictionError(node, "gives no value of the source with the moved bias", soft=True)

    def finish(self) -> None:
        """Compare the output, and check that all biases and layers of the source are used.

        Raises:
            ContradictionError: the forward pass failed, the output differs, or a bias or layer is not used.
        """
        failure = self.tape.failure
        if failure is not None:
            raise ContradictionError(None, f"the module's forward fails: {type(failure).__name__}: {failure}")
        if self.placement.biases:
            moved = self.placement.biases[0]
            why = "has no bias, the source's layer has one"
            raise ContradictionError(moved.event.node, why, moved.assignment.layer)
        self.output = [self._value(v) for v in self.tape.output]
        self.outputs = match_outputs(self.output, self.source)
        if self.outputs.problem:
            raise ContradictionError(None, self.outputs.problem)
        for layer in self.unused():
            hint = "give the module this layer, or return the output that depends on it"
            raise ContradictionError(None, f"no parameter was set from the source's layer {layer.name}; {hint}", layer)

    def unused(self) -> list[Layer]:
        """Return layers that the output depends on and whose weights are not fully assigned."""
        used = self.placement.used
        complete = {index for index, _, count in used if count == 1}
        parts: dict[int, set[tuple[int, int]]] = {}
        for index, part, count in used:
            parts.setdefault(index, set()).add((part, count))
        covered = {index for index, found in parts.items() if any(len(found) >= count for _, count in found)}
        return [layer for layer in self.source.needed() if layer.index not in complete | covered]


def _call_site(node: Node) -> tuple[str, str, str]:
    """Return a key for the location of an operation in the user's code."""
    return node.op, node.owner, node.line
