"""Port the weights of a Torch7 model into the user's network."""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from functools import partial
from math import inf
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.base.arguments import checks_arguments
from dpnn_bridge.base.boundary import wrap_errors
from dpnn_bridge.base.similar import did_you_mean
from dpnn_bridge.errors import ConversionError, ConversionLimitError, OptionError
from dpnn_bridge.files import load
from dpnn_bridge.modules.several import Models
from dpnn_bridge.porting.composites import COMPOSITE_KINDS, composites
from dpnn_bridge.porting.constants import explain_constants, input_distance
from dpnn_bridge.porting.explain import Explanation, deviation_at
from dpnn_bridge.porting.later import later_deviations
from dpnn_bridge.porting.networks import (
    Call,
    call_source,
    call_target,
    check_registered,
    check_writable,
    copy_for_run,
    double_copy,
    fill,
    inputs,
    lua_path_of,
    named_tensors,
    running_networks,
    sharing_memory,
    single_buffers,
    trace,
)
from dpnn_bridge.porting.notes import matches_of, notes_of, of_lua, of_rounding, overflowing
from dpnn_bridge.porting.probe import check_deterministic, check_random
from dpnn_bridge.porting.proof import Proof, prove
from dpnn_bridge.porting.ranges import OTHER_INPUT, has_other_ranges, missing_range
from dpnn_bridge.porting.report import Deviation, PortReport
from dpnn_bridge.porting.search import Search
from dpnn_bridge.porting.sides import sides_of
from dpnn_bridge.porting.source import Source
from dpnn_bridge.porting.tape import Tape, leaves
from dpnn_bridge.porting.unlike import Run, Unlike
from dpnn_bridge.porting.values import SINGLE, difference


@checks_arguments
@wrap_errors(ConversionError, "porting the weights")
@running_networks()
def port(
    model: str | PathLike[str] | nn.Module,
    module: nn.Module,
    example: Any,
    *,
    key: str | None = None,
    source: Call | None = None,
    target: Call | None = None,
    allow_unset: Iterable[str] = (),
    later: bool = False,
) -> PortReport:
    """Load the weights of a Torch7 model into another implementation of its network, and prove that both are equal.

    Copies of both networks run on the same input, on the CPU in double precision and evaluation mode. Weights are
    matched by the values that flow through both networks, not by names or order: an operation gets the weights of the
    layer that receives the same input. The module is filled only if the results of all operations with weights, and
    the output, are equal on two inputs.

    Args:
        model: A ``.t7`` file or a converted module.
        module: The implementation to fill. It is unchanged unless the report is ``equal``.
        example: An input, a tuple of inputs, or a function that takes a seed and returns an input or a tuple, different
            for each seed. Without a function, the second input is the example with shuffled elements and added noise.
        key: Path of the model in the file, as in :func:`dpnn_bridge.load`.
        source: Function that runs the Torch7 model, ``source(model, example)``. Default: ``model(example)``; a tuple is
            passed as a list.
        target: Function that runs the module, ``target(module, example)``. Default: ``module(example)``; a tuple is
            passed as separate arguments.
        allow_unset: Names of module parameters that may keep their values.
        later: Also list the deviations after the first one, in ``report.later``. Each assumes that the earlier ones are
            fixed.

    Returns:
        The report; see :class:`~dpnn_bridge.porting.PortReport`.

    Raises:
        OptionError: An argument has the wrong type, ``key`` is given for a module, the file contains several models and
            neither ``key`` nor ``source`` is given, or the inputs prove nothing: NaN, equal elements, equal inputs.
        ConversionError: A network fails on the example, is not deterministic, or draws random numbers in evaluation
            mode.

    Examples:
        >>> report = dpnn_bridge.port("model.t7", Net(), torch.randn(2, 3, 224, 224))   # doctest: +SKIP
        >>> report.equal, report.first                                                   # doctest: +SKIP
    """
    return Port(model, module, example, key, source, target, allow_unset, later).run()


class Port:
    """A run of :func:`port`, with the same arguments: runs both networks, finds the weights, proves and reports.

    Attributes:
        composites: whether modules that compute one operation in several steps are recorded as this operation. This is
            the second attempt, because the source may have the same steps.
    """

    composites = False

    def __init__(
        self,
        model: str | PathLike[str] | nn.Module,
        module: nn.Module,
        example: Any,
        key: str | None,
        source: Call | None,
        target: Call | None,
        allow_unset: Iterable[str],
        later: bool,
    ) -> None:
        if isinstance(model, nn.Module) and key is not None:
            raise OptionError("key= selects a model of a file, and the model is a module already; omit it")
        model = model if isinstance(model, nn.Module) else load(model, key=key)
        if isinstance(model, Models) and source is None:
            raise OptionError(f"the file contains several models; select one with key= (--key): {', '.join(model)}")
        check_writable(module)
        check_registered(module)
        self.user, self.allowed, self.examples, self.later = module, _unset(allow_unset, module), inputs(example), later
        self.model, self.target = double_copy(model, "the model"), double_copy(module, "the module")
        self.call_source, self.call_target = source or call_source, target or call_target
        self.source = Source(lua_path_of(self.model), single_buffers(model))
        self.single = single_buffers(module)

    def run(self) -> PortReport:
        report = self._attempt()
        names = composites(self.target) if not report.equal else {}
        if not names:
            return report
        again = copy(self)
        again.composites, again.target = True, double_copy(self.user, "the module")
        other = again._attempt()
        found = {n.event.kind for n in again.search.tape.nodes if n.owner in names and n.event is not None}
        if not (other.equal or found & COMPOSITE_KINDS & {layer.kind for layer in self.source.layers}):
            return report
        vars(self).update(vars(again))
        return other

    def _attempt(self) -> PortReport:
        first, second = self.examples
        target = copy_for_run(self.target, self.call_target)
        tape = trace(target, self.call_target, first, self.single, self.composites)
        check_random(tape, "the module")
        self._run_source(first)
        check_random(self.source.tape, "the model")
        tensors = {n: t for n, t in named_tensors(self.target).items() if n in tape.roots.values()}
        self.search = search = Search(tape, self.source, tensors)
        contradiction = search.run()
        values = self._values(search)
        self.sides = sides_of(search)
        if contradiction is not None:
            self._check_deterministic()
            explanation = Explanation(contradiction, search)
            deviation = explanation.deviation()
            at = contradiction.node
            distance = search.outputs.almost if at is None else input_distance(contradiction, search)
            deviation = explain_constants(distance, at, tape, self.source, explanation.vague) or deviation
            report = self._report(search, values, deviation, 0.0, [])
            if self.later and report.first is not None:
                values.update({name: value.clone() for name, value in values.items()})
                restart = partial(Search, tape, self.source, tensors)
                record = partial(self._run_source, first)
                report.later = list(later_deviations(explanation, report.first, record, restart))
            return report
        proof = self.prove(second)
        if proof.failed is not None:
            self._check_deterministic()
            almost = proof.outputs.almost if proof.failed.node is None else inf
            hidden = explain_constants(almost, None, proof.tape, self.source)
            if hidden is None and has_other_ranges(search):
                self._run_source(first)
                hidden = missing_range(search, OTHER_INPUT)
            first = hidden or self._explain_shared_memory(proof) or proof.deviation()
            return self._report(search, values, first, proof.difference, [])
        untested = _unexercised(search, self.source.output)
        if untested is not None:
            return self._report(search, values, untested, proof.difference, [])
        distance = max(proof.difference, self._single_difference(tape))
        notes = [
            *proof.outputs.notes,
            *search.windows.values(),
            *notes_of(search.placement, self.source, self.model, tape),
            *of_rounding(self.user, values),
        ]
        unlike = Unlike(search, self.model, self.examples, self._runs(), self.prove, self._run_source)
        first = unlike.deviation() or overflowing(self.user, values)
        return self._report(search, values, first, distance, notes + unlike.notes)

    def prove(self, example: Any, module: nn.Module | None = None) -> Proof:
        """Run the source and the filled module, or ``module``, on an input and compare them."""
        for keep in (False, True):
            self._run_source(example)
            target = copy_for_run(module or self.target, self.call_target)
            proof = prove(target, self.call_target, example, self.search, self.single, keep, self.composites)
            if proof.failed is None or not proof.used_more:
                break
        return proof

    def _explain_shared_memory(self, proof: Proof) -> Deviation | None:
        """Explain a layer whose weights were overwritten because its parameter shares memory with another one."""
        node = proof.failed.node if proof.failed is not None else None
        if node is None or node.event is None:
            return None
        weights = [w for w in node.event.weights.values() if w is not None]
        names = {name for w in weights for name in proof.tape.root_names(w.slot)}
        shared = next((group for group in sharing_memory(self.target) if group & names), None)
        if shared is None:
            return None
        hint = "but have different values in the source: give each parameter its own memory"
        return deviation_at(node, "", f"{' and '.join(sorted(shared))} are one tensor here, {hint}")

    def _check_deterministic(self) -> None:
        """Raise an error if a network is not deterministic, which would explain the difference."""
        check_deterministic(self.model, self.call_source, self.examples[0], "the model")
        check_deterministic(self.target, self.call_target, self.examples[0], "the module")

    def _runs(self) -> tuple[Run, Run]:
        """Return functions that run the source and the target without recording."""

        def runs(module: nn.Module, call: Call) -> Run:
            def run(example: Any, *later: Any) -> Any:
                own = copy_for_run(module, call)
                result = call(own, example)
                for other in later:
                    result = call(own, other)
                return result

            return torch.no_grad()(run)

        return runs(self.model, self.call_source), runs(self.target, self.call_target)

    def _run_source(self, example: Any) -> None:
        self.source.record(copy_for_run(self.model, self.call_source), self.call_source, example)
        failure = self.source.tape.failure
        if isinstance(failure, ConversionLimitError):
            raise failure
        if failure is not None:
            what = f"{type(failure).__name__}: {failure}"
            hint = "check the shape of example= (--input). In Python, source= can call the model differently"
            raise ConversionError(f"the Torch7 model fails on the input: {what}; {hint}") from failure

    def _single_difference(self, tape: Tape) -> float:
        """Return the difference of the outputs if a network computes in single precision, else 0.

        The recorder computes such operations in double precision, so both networks run again without it.
        """
        if not any(node.single for node in (*self.source.tape.nodes, *tape.nodes)):
            return 0.0
        source, target = self._runs()
        try:
            expected, actual = source(self.examples[1]), target(self.examples[1])
        except RuntimeError:  # some operations do not accept both double and single precision
            return SINGLE
        pairs = zip(_flat(actual), _flat(expected), strict=False)
        return max((difference(a, b) for a, b in pairs if a.shape == b.shape), default=SINGLE)

    def _values(self, search: Search) -> dict[str, Tensor]:
        written = search.parameters.written
        return {n: t for n, t in search.parameters.tensors.items() if bool(written[n].any())}

    def _report(
        self, search: Search, values: dict[str, Tensor], first: Deviation | None, difference: float, notes: list[str]
    ) -> PortReport:
        matches = [match for match in matches_of(search) if match.parameter in values]
        tensors = named_tensors(self.user)
        allowed = {id(tensors[n]) for n in self.allowed}  # a shared parameter has several names
        unset = [
            n
            for n, p in self.user.named_parameters()
            if id(p) not in allowed and not (n in values and search.parameters.is_written(n))
        ]
        unused = [layer.name for layer in search.unused()]
        report = PortReport(first is None, difference, first, matches, notes, unused, unset)
        if first is None and unset:
            hint = "remove it, or name it in allow_unset"
            what = f"a part of the parameter {unset[0]}" if unset[0] in values else f"the parameter {unset[0]}"
            reason = f"the source has no values for {what}; {hint}"
            report.equal, report.first = False, Deviation(unset[0].rpartition(".")[0], "", "", reason)
        if not report.equal:
            report.notes += of_lua(self.model, self.source)
        report.sides = self.sides
        self.values = values
        report._fill = partial(fill, self.user, values)  # keeps these values, and not the recordings of the port
        if report.equal:
            report.apply()
        return report


def _unset(names: Iterable[str], module: nn.Module) -> set[str]:
    """Return the names in ``allow_unset``; OptionError if the module has no such parameter or buffer."""
    allowed = set(names)
    known = [n for n, _ in (*module.named_parameters(remove_duplicate=False), *module.named_buffers())]
    for name in sorted(allowed.difference(known)):
        hint = did_you_mean(name, known, "see named_parameters()")
        raise OptionError(f"allow_unset: the module has no parameter {name!r}; {hint}")
    return allowed


def _flat(value: Any) -> list[Tensor]:
    return [t.flatten() for t in leaves(value) if isinstance(t, Tensor) and t.is_floating_point()]


def _unexercised(search: Search, second: list[Tensor]) -> Deviation | None:
    """Return the first part of the target that the example does not test; None if it tests all.

    Args:
        second: outputs of the source for the second input.
    """
    for placed in search.placement.placed.values():
        if placed.assignment.layers and not placed.exercised:
            layer = placed.assignment.layer
            reason = "every input of this layer is zero, so nothing is proven; pass an example with nonzero values here"
            return deviation_at(placed.event.node, layer.name if layer else "", reason)
    if search.outputs.constant and not _vary(search.output, second):
        reason = "every element of the output is equal, so nothing is proven; pass another example"
        return Deviation("", "", "", reason)
    return None


def _vary(first: list[Tensor], second: list[Tensor]) -> bool:
    """Return whether outputs whose elements are all equal, such as a single score, change with the input."""
    numbers = [torch.tensor(sorted(float(t.flatten()[0]) for t in ts if t.numel())) for ts in (first, second)]
    return len(numbers[0]) == len(numbers[1]) and difference(*numbers) > SINGLE
