"""Find the weights: run the target's tape, and give every event the weights of the source's layer with its input.

When the target comes to an event, all weights before it are set, so its input equals the input of the right layer.
Where several assignments fit, the first is taken and the tape is run on. At the first contradiction the search goes
back to the last choice that the contradiction depends on (conflict-directed backjumping) and goes on from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dpnn_bridge.porting.assignment import Assignment, assignments
from dpnn_bridge.porting.comparison import ContradictionError
from dpnn_bridge.porting.events import Event, event_key, event_of
from dpnn_bridge.porting.flow import gates, signature
from dpnn_bridge.porting.outputs import match_outputs
from dpnn_bridge.porting.placement import Placement
from dpnn_bridge.porting.source import Prints, Source
from dpnn_bridge.porting.tape import VIEWS, Node, Slot, Tape, leaves, replaced
from dpnn_bridge.porting.values import Fingerprint
from dpnn_bridge.porting.writing import Journal, Parameters

_GATHERING = "cat stack copy zeros_like empty constant_pad_nd index fill zero index_select gather"
#: operations whose results need not be values of the source
_ARRANGING = VIEWS | frozenset(_GATHERING.split())
_SECONDS, _BACKTRACKS = 20.0, 3000


@dataclass
class Choice:
    """An event at which several assignments may fit."""

    node: Node
    options: Iterator[Assignment]
    taken: int
    conflicts: int = 0


class Search:
    """Runs a tape and assigns weights.

    Attributes:
        odd: nodes that take values of the source and give one that is none.
        output: the tensors that the target gives with the weights found.
        parameters: the weights found.
        placement: which event has which.
    """

    def __init__(self, tape: Tape, source: Source, tensors: dict[str, Tensor]) -> None:
        self.tape, self.source = tape, source
        self.env: list[Any] = [None] * tape.size
        self.journal = Journal()
        self.parameters = Parameters(tape, self.env, tensors, self.journal)
        for number, tensor in tape.constants.items():
            self.env[number] = tensor.clone()
        self.placement = Placement(self.parameters, self.journal, source)
        self.prints = Prints()
        self.odd: dict[int, Node] = {}
        self.allowed: set[int] = set()
        self.choices: list[Choice] = []
        self.forced: dict[int, int] = {}
        self.marks: dict[int, int] = {}
        self.signatures = {layer.index: layer.signature() for layer in source.layers}

    # -- running -------------------------------------------------------------------------------------------------------
    def run(self) -> ContradictionError | None:
        """Assign weights to every event.

        Returns:
            The deepest contradiction, with the search left in the state in which it arose; None where all fits.
        """
        with torch.no_grad():
            while True:
                found, _, decisions = self._deepest()
                if found is None:
                    return None
                self.journal.rollback(0)
                self.marks.clear()
                self.choices.clear()
                self.forced = decisions
                if not found.soft or found.node is None:
                    return self._forwards(0)[0] or found
                self.allowed.add(found.node.index)

    def _deepest(self) -> tuple[ContradictionError | None, int, dict[int, int]]:
        """Search until everything fits or nothing is left to try; the deepest contradiction and the way to it."""
        began, at, deepest = time.monotonic(), 0, -1
        worst: ContradictionError | None = None
        decisions: dict[int, int] = {}
        for _ in range(_BACKTRACKS):
            found, at = self._forwards(at)
            if found is None:
                return None, at, {}
            if at > deepest:
                worst, deepest, decisions = found, at, {c.node.index: c.taken for c in self.choices}
            back = self._back(found)
            if back is None or time.monotonic() - began > _SECONDS:
                break
            at = back
        return worst, deepest, decisions

    def _forwards(self, at: int) -> tuple[ContradictionError | None, int]:
        """Run from a node on to the first contradiction or to the end."""
        try:
            while at < len(self.tape.nodes):
                self.step(self.tape.nodes[at])
                at += 1
            self.finish()
        except ContradictionError as found:
            return found, at
        return None, at

    def _back(self, found: ContradictionError) -> int | None:
        """Undo to the last choice that a contradiction depends on; None where there is none."""
        conflicts = found.conflicts | (-1 if found.node is None else found.node.origins)
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
        self.marks[node.index] = self.journal.mark()
        args = replaced(node.args, self._value)
        kwargs = {k: replaced(v, self._value) for k, v in node.kwargs.items()}
        if node.mutates:
            changed = next(t for t in leaves(args) if isinstance(t, Tensor))
            self.prints.forget(changed)
            self.journal.save(changed)
            self.journal.add(lambda: self.prints.forget(changed))
        event = None if node.constant else event_of(self.tape, node, args)
        if event is None:
            takes = [] if node.constant else self._prints(node)
            self._store(node, node.run(args, kwargs))
            if not node.constant:
                self._look(node, takes)
        else:
            self.decide(node, event, lambda: node.run(args, kwargs))

    def _value(self, value: Any) -> Any:
        return self.env[value.number] if isinstance(value, Slot) else value

    def _prints(self, node: Node) -> list[Fingerprint]:
        return [self.prints.of(s.number, self.env[s.number]) for s in node.reads if s.number not in self.tape.weights]

    def _store(self, node: Node, out: Any) -> None:
        for slot, tensor in zip(node.outs, (t for t in leaves(out) if isinstance(t, Tensor)), strict=True):
            self.prints.drop(slot.number)
            self.env[slot.number] = tensor

    def knows(self, slot: Slot) -> bool:
        """Whether a value, or each of its gates, is a value of the source."""
        tensor = self.env[slot.number]
        if self.source.knows(self.prints.of(slot.number, tensor)):
            return True
        for parts in (2, 3, 4) if tensor.dim() and tensor.shape[-1] else ():
            if tensor.shape[-1] % parts == 0 and all(
                self.source.knows(Fingerprint.of(t)) for t in tensor.chunk(parts, -1)
            ):
                return True
        return False

    def _look(self, node: Node, takes: list[Fingerprint]) -> None:
        """Compare the result of an operation without weights with the source's values."""
        if node.op in _ARRANGING or not node.outs:
            return
        result = self.env[node.outs[0].number]
        if not result.is_floating_point() or not result.numel():
            return
        if self.knows(node.outs[0]):
            if "norm" in node.op:
                self.placement.drop_biases(node.origins)
            return
        if takes and all(self.source.knows(p) for p in takes):
            self.odd[node.index] = node
            self.journal.add(lambda: self.odd.pop(node.index, None))
            if node.index not in self.allowed and any(node.origins >> c.node.index & 1 for c in self.choices):
                raise ContradictionError(node, "gives no value of the source", soft=True)

    # -- deciding ------------------------------------------------------------------------------------------------------
    def decide(self, node: Node, event: Event, run: Callable[[], Any]) -> None:
        key = event_key(self.tape, event)
        placed = self.placement.placed.get(key)
        if placed is not None:
            out = run()
            self._store(node, out)
            self.placement.compare(event, placed, out)
            return
        choice = self.choices[-1] if self.choices and self.choices[-1].node is node else None
        if choice is None:
            choice = Choice(node, iter(self.candidates(event)), -1)
            self.choices.append(choice)
        mark, failed, skipped = self.journal.mark(), None, self.forced.pop(node.index, 0)
        for assignment in choice.options:
            choice.taken += 1
            if choice.taken < skipped:
                continue
            try:
                self._store(node, self.placement.place(key, event, assignment, run))
                return
            except ContradictionError as contradiction:
                failed = failed or contradiction
                self.journal.rollback(mark)
        self.choices.pop()
        contradiction = failed or ContradictionError(node, "its input is the input of no layer of the source")
        contradiction.conflicts |= choice.conflicts
        raise contradiction

    def candidates(self, event: Event) -> list[Assignment] | Iterator[Assignment]:
        count = gates(event.node, event.sizes, self.tape.shapes) if event.kind == "linear" else 1
        found = assignments(event, self.source, count, self.placement.biases)
        if count > 1:
            return self._like_neighbours(found, event)
        wanted = signature(event.node)

        def cost(a: Assignment) -> tuple[Any, ...]:
            taken = any(u in self.placement.used for u in a.uses())
            end = a.fold or a.layer
            return taken, a.trivial, end is None or self.signatures[end.index] != wanted, a.fold is not None

        return sorted(found, key=cost)

    def _like_neighbours(self, found: Iterator[Assignment], event: Event) -> list[Assignment]:
        """Put the order of gates first that the events before have; a module has one order."""
        every = list(found)
        orders = [
            p.assignment.order or tuple(range(len(p.assignment.pieces)))
            for p in reversed(self.placement.placed.values())
            if p.event.kind == "linear" and p.assignment.pieces
        ]
        near = [o for o in orders if len(o) > 1]
        usual = [a for a in every if a.order == near[0]] if near else []
        free = lambda a: any(u in self.placement.used for u in a.uses())  # noqa: E731
        return sorted([*usual, *(a for a in every if a not in usual)], key=free)

    def finish(self) -> None:
        """Compare the output; every bias must have a place.

        Raises:
            ContradictionError: something is left, or another output.
        """
        if self.tape.failure is not None:
            raise ContradictionError(
                None, f"the module's forward fails: {type(self.tape.failure).__name__}: {self.tape.failure}"
            )
        if self.placement.biases:
            moved = self.placement.biases[0]
            raise ContradictionError(moved.event.node, "has no bias, the source's layer has one", moved.layer)
        self.output = [self._value(v) for v in self.tape.output]
        problem = match_outputs(self.output, self.source).problem
        if problem:
            raise ContradictionError(None, problem)
