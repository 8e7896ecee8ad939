"""Prove that the filled module equals the source: run the module on the second input and compare every event."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dpnn_bridge.porting.comparison import ContradictionError, compare_event
from dpnn_bridge.porting.events import event_key, event_of
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
) -> Proof:
    """Run a filled module and compare every event and the output with a run of the source on the same input.

    Args:
        module, call, example: the module, the function that runs it, and the input.
        search: the search that found the weights; its source ran on the same input.
        single: names of buffers that were in single precision.
        keep: whether to keep the recorded values of the source's layers. Otherwise a layer's values are freed when the
            layer was used as often as on the first input.
    """
    placed, source, single_norm = search.placement.placed, search.source, search.parameters.normalized
    for layer in source.layers:
        layer.single |= single_norm
    worst, failed, used_more = 0.0, None, False
    kept, uses = list[Any](), _uses(search)

    def observe(tape: Tape, node: Node, args: Any, kwargs: Any, run: Callable[[], Any]) -> Any:
        nonlocal worst, failed, used_more
        event = event_of(tape, node, args)
        if event is not None:
            node.event = event
            node.origins |= 1 << node.index
            if node.mutates:
                event.input = event.input.clone()
        out = run()
        if event is not None and failed is None:
            key = event_key(tape, event)
            try:
                if key not in placed:
                    raise ContradictionError(node, "runs on this input, but did not run on the first input")
                layers = placed[key].assignment.layers
                used_more |= any(uses[layer.index] <= 0 for layer in layers)
                worst = max(worst, compare_event(event, placed[key], out, source))
                placed[key].exercised |= exercises(event)
                for layer in layers:
                    uses[layer.index] -= 1
                    if not uses[layer.index] and not keep:
                        layer.forget()
            except ContradictionError as contradiction:
                failed = contradiction
            event.release_input()
        return out

    def run(m: nn.Module) -> Any:
        kept.append(call(m, example))
        return kept[0]

    tape = Recorder(module, example, observe, single).run(module, run)
    actual = [t.double() if t.is_floating_point() else t for t in leaves(kept) if isinstance(t, Tensor)]
    outputs = match_outputs(actual, source, single_norm)
    fails = f"the module's forward fails on the second input: {tape.failure}"
    problem = outputs.problem if tape.failure is None else fails
    failed = failed or (ContradictionError(None, problem) if problem else None)
    return Proof(tape, max(worst, outputs.difference), failed, outputs, used_more)


def _uses(search: Search) -> Counter[int]:
    """Count how often the target uses each layer of the source."""
    placed = search.placement.placed
    events = (node.event for node in search.tape.nodes if node.event is not None)
    keys = (event_key(search.tape, event) for event in events)
    return Counter(layer.index for key in keys if key in placed for layer in placed[key].assignment.layers)
