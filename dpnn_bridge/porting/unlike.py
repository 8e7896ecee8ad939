"""Compare two filled networks again on inputs, calls and biases unlike the example's, which may hide a difference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from dpnn_bridge.base.display import shortened
from dpnn_bridge.porting.biases import SHIFTS, SMALL_SHIFTS, shifted
from dpnn_bridge.porting.probe import (
    batch_of,
    computes_samples,
    differ,
    differ_on_larger,
    differ_on_padding,
    has_masks,
    sorted_outputs,
)
from dpnn_bridge.porting.proof import Proof
from dpnn_bridge.porting.ranges import LARGER, has_other_ranges, has_ranges, missing_range, other_range
from dpnn_bridge.porting.report import Deviation
from dpnn_bridge.porting.search import Search

#: runs a network on inputs, one call after the other, and returns the last result
Run = Callable[..., Any]
_OTHER_BIASES = "with these weights, but not with other biases"


@dataclass
class Unlike:
    """Comparisons of two networks that are equal on the example.

    Attributes:
        search: the search that found the weights; its source ran on the second input.
        model: the source's module.
        examples: the first and the second input.
        runs: functions that run the source and the target without recording.
        prove: function that compares both networks on an input.
        run_source: function that records the source on an input.
        notes: inputs that one network does not accept, and states that one network does not keep.
    """

    search: Search
    model: nn.Module
    examples: tuple[Any, Any]
    runs: tuple[Run, Run]
    prove: Callable[[Any], Proof]
    run_source: Callable[[Any], None]
    notes: list[str] = field(default_factory=list)

    def deviation(self) -> Deviation | None:
        """Return the first deviation on an input, or with biases, unlike the example; None if there is none."""
        tapes = self.search.source.tape, self.search.tape
        single = any(node.single for node in tapes[0].nodes)  # rounding alone may exceed the tolerance on large inputs
        found = None
        if not single and any(map(has_ranges, tapes)):
            found = self._on_larger_input()
        if not single and found is None and any(map(has_masks, tapes)):
            found = self._on_padding()
        if not single and found is None:
            found = self._on_batch()
        return found or self._on_next_call() or self._with_other_biases()

    def _on_larger_input(self) -> Deviation | None:
        far = differ_on_larger(*self.runs, self.examples[1])
        proof = self.prove(far) if far is not None else None
        if proof is None or proof.failed is None:
            return None
        self.run_source(self.examples[0])
        hint = "an earlier operation has another range (a clip as in ReLU6, a threshold)"
        why = f"equal {LARGER}: {hint}; {proof.failed.why}"
        return other_range(self.search) or replace(proof.deviation(), reason=why)

    def _on_padding(self) -> Deviation | None:
        zeros = differ_on_padding(*self.runs, self.examples[1])
        hint = "but not if steps of the input are zero: one of the networks masks zeros, as MaskZero does"
        return None if zeros is None else self._deviation_on(zeros, f"equal on the example, {hint}")

    def _on_batch(self) -> Deviation | None:
        """Return the deviation on two samples, if the example is one; note if the target accepts one sample only."""
        source, target = self.runs
        batch = batch_of(self.examples)
        if batch is None:
            return None
        self.run_source(self.examples[1])
        try:
            batched = source(batch)
        except Exception:  # the model accepts one sample only
            return None
        if not computes_samples(batched, self.search.source.output):
            return None
        try:
            actual = sorted_outputs(target(batch))
        except Exception as error:
            why = f"fails: {shortened(str(error).partition(chr(10))[0])}"
        else:
            if not differ(sorted_outputs(batched), actual):
                return None
            if differ(sorted_outputs(target(self.examples[0])), actual):
                hint = "but not for a batch of two: an operation mixes samples"
                return self._deviation_on(batch, f"equal for one sample, {hint}")
            why = "returns the outputs of the first one"
        self.notes.append(f"equal for one sample, as in the example; with two samples, the module {why}")
        return None

    def _on_next_call(self) -> Deviation | None:
        """Return the deviation on a second call, if both networks keep a state; note if only one of them does."""
        example = self.examples[1]
        try:
            once, again = ([sorted_outputs(run(*calls)) for run in self.runs] for calls in ([example], [example] * 2))
        except Exception as error:  # a network that can be called only once
            why = shortened(str(error).partition("\n")[0])
            self.notes.append(f"equal on the first call; the next one was not compared, because it fails: {why}")
            return None
        keeps = [differ(*pair) for pair in zip(once, again, strict=True)]
        if all(keeps) and differ(*again):
            why = "equal on the first call, but not on the next one, which starts from the state of the first"
            return Deviation("", "", "", f"{why}; compare how both networks keep their state")
        if any(keeps) and not all(keeps):
            one, other = ("the source", "the module") if keeps[0] else ("the module", "the source")
            self.notes.append(f"{one} continues from the state of the call before, {other} does not")
        return None

    def _deviation_on(self, example: Any, when: str) -> Deviation | None:
        """Return the deviation on another input; ``when`` says on which input the networks differ."""
        proof = self.prove(example)
        return None if proof.failed is None else replace(proof.deviation(), reason=f"{when}; {proof.failed.why}")

    def _with_other_biases(self) -> Deviation | None:
        """Return the deviation with other biases, such as a ReLU in one network whose input is always positive."""
        source, target = self.runs
        example, search = self.examples[1], self.search
        for factor in SHIFTS + (SMALL_SHIFTS if has_other_ranges(search) else ()):
            with torch.no_grad(), shifted(search, self.model, factor):
                try:
                    expected, actual = sorted_outputs(source(example)), sorted_outputs(target(example))
                except Exception:  # mixed precisions that PyTorch rejects, or a check in the user's code
                    return None
                found = self._deviation_on(example, f"equal {_OTHER_BIASES}") if differ(expected, actual) else None
            if found is not None:
                self.run_source(self.examples[0])
                return missing_range(search, _OTHER_BIASES) or found
        return None
