"""Prove that the filled module equals the source: run the module on the second input and compare all results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dpnn_bridge.porting.comparison import ContradictionError, compare_event
from dpnn_bridge.porting.composites import use_operations
from dpnn_bridge.porting.events import Event, event_key, event_of
from dpnn_bridge.porting.explain import deviation_at, layer_deviation
from dpnn_bridge.porting.networks import Call
from dpnn_bridge.porting.outputs import Outputs, match_outputs
from dpnn_bridge.porting.placement import exercises
from dpnn_bridge.porting.report import Deviation
from dpnn_bridge.porting.search import Search
from dpnn_bridge.porting.tape import Node, Recorder, Tape, leaves


@dataclass
class Proof:
    """The result of a run of the filled module.

    Attributes:
        tape: recording of the run.
        difference: the largest relative difference of an event or the output.
        failed: the first contradiction, or None.
        outputs: the comparison of the outputs.
        used_more: whether a layer is used more often than on the first input, after its recorded values were freed.
    """

    tape: Tape
    difference: float
    failed: ContradictionError | None
    outputs: Outputs
    used_more: bool

    def deviation(self) -> Deviation:
        """Return the deviation on the second input of a module that is equal on the first input."""
        assert self.failed is not None
        node, layer = self.failed.node, self.failed.layer
        why = f"equal on the first input, but not on the second: {self.failed.why}"
        if node is None:
            return Deviation("", "", layer.name if layer else "", why)
        return deviation_at(node, layer.name if layer else "", layer_deviation(node, layer, why) if layer else why)


def prove(
    module: nn.Module,
    call: Call,
    example: Any,
    search: Search,
    single: frozenset[str] = frozenset(),
    keep: bool = False,
    composites: bool = False,
) -> Proof:
    """Run a filled module and compare every event and the output with a run of the source on the same input.

    Args:
        module, call, example: the module, the function that runs it, and the input.
        search: the search that found the weights; its source ran on the same input.
        single: names of buffers that were in single precision.
        keep: whether to keep the recorded values of the source's layers. Otherwise a layer's values are freed when the
            layer was used as often as on the first input.
        composites: whether modules that compute one operation in several steps are recorded as this operation.
    """
    source, single_norm = search.source, search.parameters.normalized
    for layer in source.layers:
        layer.single |= single_norm
    comparison, kept = _Comparison(search, keep), list[Any]()

    def run(m: nn.Module) -> Any:
        kept.append(call(m, example))
        return kept[0]

    recorder = Recorder(module, example, comparison.observe, single)
    if composites:
        use_operations(module, recorder)
    tape = recorder.run(module, run)
    actual = [t.double() if t.is_floating_point() else t for t in leaves(kept) if isinstance(t, Tensor)]
    outputs = match_outputs(actual, source, single_norm)
    fails = f"the module's forward fails on the second input: {tape.failure}"
    if any(t is not None and not isinstance(t, Tensor) for t in leaves(kept)):
        outputs.notes.append("outputs that are no tensors, such as numbers, are not compared")
    problem = outputs.problem if tape.failure is None else fails
    failed = comparison.failed or (ContradictionError(None, problem) if problem else None)
    return Proof(tape, max(comparison.difference, outputs.difference), failed, outputs, comparison.used_more)


class _Comparison:
    """Compares each event of a run of the filled module with the source, up to the first contradiction.

    Attributes:
        difference, failed, used_more: as in :class:`Proof`, without the output.
    """

    def __init__(self, search: Search, keep: bool) -> None:
        self.difference, self.used_more = 0.0, False
        self.failed: ContradictionError | None = None
        self._placed, self._source, self._keep = search.placement.placed, search.source, keep
        self._uses = _uses(search)

    def observe(self, tape: Tape, node: Node, args: Any, kwargs: Any, run: Callable[[], Any]) -> Any:
        """Run an operation; if it is an event, compare its result."""
        event = event_of(tape, node, args)
        if event is None:
            return run()
        node.event = event
        node.origins |= 1 << node.index
        if node.mutates:
            event.input = event.input.clone()
        out = run()
        if self.failed is None:
            try:
                self._compare(tape, event, out)
            except ContradictionError as contradiction:
                self.failed = contradiction
        event.release_input()
        return out

    def _compare(self, tape: Tape, event: Event, out: Any) -> None:
        placed = self._placed.get(event_key(tape, event))
        if placed is None:
            raise ContradictionError(event.node, "runs on this input, but did not run on the first input")
        layers = placed.assignment.layers
        self.used_more |= any(self._uses[layer.index] <= 0 for layer in layers)
        self.difference = max(self.difference, compare_event(event, placed, out, self._source))
        placed.exercised |= exercises(event)
        for layer in layers:
            self._uses[layer.index] -= 1
            if not self._uses[layer.index] and not self._keep:
                layer.forget()


def _uses(search: Search) -> Counter[int]:
    """Count how often the target uses each layer of the source."""
    placed = search.placement.placed
    events = (node.event for node in search.tape.nodes if node.event is not None)
    keys = (event_key(search.tape, event) for event in events)
    return Counter(layer.index for key in keys if key in placed for layer in placed[key].assignment.layers)
