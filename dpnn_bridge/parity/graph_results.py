"""Compare the output of every layer of a model with its output in a traced graph, which computes in another order."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dpnn_bridge.base.cached import cached_property
from dpnn_bridge.compare import nested
from dpnn_bridge.compare.differences import BITS, HALF, Difference, Tolerance, compare, scale_of
from dpnn_bridge.compare.limited import without_repeats
from dpnn_bridge.compare.precision import full_precision
from dpnn_bridge.compare.verdict import Verdict
from dpnn_bridge.errors import ConversionLimitError, OptionError
from dpnn_bridge.outputs.written import Results, Written
from dpnn_bridge.parity.accepted import accept_random, accept_rounding
from dpnn_bridge.parity.judge import SEEDS, draws_of
from dpnn_bridge.parity.named_layers import NamedLayers, failed, other_dtypes
from dpnn_bridge.parity.new_export import NewExport
from dpnn_bridge.parity.rounding import distances
from dpnn_bridge.parity.source import Source, run_file

#: accepted difference of a traced graph, which computes sums in another order
TRACED = Tolerance(1e-8, 1e-4)
#: in single precision: minimum of the accepted difference; factor of the model's own rounding error for larger ones
TRACED_MIN, TRACED_MARGIN = 32 * torch.finfo(torch.float32).eps, 5
#: number of runs with perturbed operations, which measure what other implementations of them explain
PERTURBED_RUNS = 3
#: difference beyond which a value of a graph is no result of a layer, whatever the rounding errors are
RESEMBLING = Tolerance(1e-2, 1e-2)
#: factor of sqrt(n) eps, the accepted rounding error of a sum of n values that a runtime adds sequentially
SUM_MARGIN = 4

#: name of the comparison of the output of a run without results of the model
ALONE = "output of the file alone"

#: result of a comparison: name of a layer -> its differences
_Compared = dict[str, list[Difference]]
#: note of a layer whose output the graph does not have
NO_VALUE = "is computed together with other layers in the file"


def compare_graph(
    layers: NamedLayers, source: Source, written: Written, expected: Results, export: NewExport
) -> Exception | None:
    """Compare the results of a traced graph with the results of the model.

    The operations of a layer show which value of the graph is its output. An exporter can have removed or merged some
    of them, for example two transposes of neighboring layers that cancel each other. If a value differs, a new export
    of the model shows whether the value is the output. If it is not, the comparison omits the layer.

    Args:
        layers: the layers, to which the comparisons are added.
        source: the model and its input.
        written: the file.
        expected: results of the model.
        export: new export of the model.

    Returns:
        The error if the file does not run.
    """
    error, compared = _run_and_compare(layers, source, written, expected, None)
    if error is not None or _differs(compared):
        known, omitted = _known_results(layers, source, expected, export)
        if omitted:
            error, again = _run_and_compare(layers, source, written, expected, known)
            for name in layers.by_name.keys() & omitted:
                layers.by_name[name].note = layers.by_name[name].note or NO_VALUE
            compared = again
    for name, differences in compared.items():
        layers.by_name[name].converted += differences
    return error


def _differs(compared: _Compared) -> bool:
    return any(not d.ok for differences in compared.values() for d in differences)


def _run_and_compare(
    layers: NamedLayers, source: Source, written: Written, expected: Results, known: set[str] | None
) -> tuple[Exception | None, _Compared]:
    """Run a file on the results of the model's layers and compare; ``known`` selects layers, None selects all."""
    given = {n: v for n, v in expected.items() if n and (known is None or n in known)}
    found = run_file(written, source.value, given)
    if isinstance(found, Exception):
        return found, {}
    if known is not None:
        found = {n: v for n, v in found.items() if not n or n in known}
    return None, _compare_found(layers, source, expected, found)


def _known_results(
    layers: NamedLayers, source: Source, expected: Results, export: NewExport
) -> tuple[set[str], set[str]]:
    """Return the layers whose outputs are values of a right graph, and the layers for which other values were found."""
    right = export.written
    if right is None or right.run is None:
        return set(), set()
    try:
        with full_precision():
            found = right.run(nested.copied(source.value), {})  # a wrong value in place of a result could have no shape
    except Exception:
        return set(), set()
    everything = found.keys() - {""}
    random = _Rounding(source, expected, everything).random
    known = {n for n in everything if n in random or (n in expected and _resembles(expected[n], found[n]))}
    while known:
        error, compared = _run_and_compare(layers, source, right, expected, known)
        wrong = {n for n, differences in compared.items() if not all(d.ok for d in differences)}
        if error is None and not wrong:
            break
        known = known - wrong if wrong - {""} else set()
    return known, everything - known


def _resembles(expected: Any, found: Any) -> bool:
    """Return whether two results are equal except for the rounding errors of all layers before."""
    if not isinstance(expected, Tensor) or not isinstance(found, Tensor) or expected.shape != found.shape:
        return not isinstance(expected, Tensor)  # tables are not compared
    return all(d.ok for d in compare("output", found.cpu(), expected.cpu(), RESEMBLING))


def _compare_found(layers: NamedLayers, source: Source, expected: Results, found: Results) -> _Compared:
    """Compare the results of a traced graph, which computes in another order."""
    rounding = _Rounding(source, expected, found.keys())
    # a layer that returns a table is omitted: the graph has only those parts of the table that the layer computes
    names = [n for n in found if n in layers.by_name and (not n or isinstance(expected.get(n), Tensor))]
    output_is_of_layer = any(found[n] is found.get("") and _same(expected.get(n), expected.get("")) for n in names if n)
    names_of: dict[int, list[str]] = {}  # containers return the result of a layer inside
    for name, value in found.items():
        names_of.setdefault(id(value), []).append(name)
    sums: list[tuple[str, Difference]] = []
    result: _Compared = {}
    for name, value in ((n, found[n]) for n in names if n in expected):
        if name == "" and output_is_of_layer:
            continue  # compared as the output of the layer
        compared = rounding.compare(name, value, names_of[id(value)])
        if name in rounding.allowed:
            inner = max(names_of[id(value)], key=len)
            sums += [(inner, d) for d in compared]
        result[name] = compared
    _accept_sums(sums, source, expected)
    return result


def _same(a: Any, b: Any) -> bool:
    """Return whether two results are equal, bit for bit."""
    return all(d.ok for d in compare("output", a, b, BITS))


def _accept_sums(compared: list[tuple[str, Difference]], source: Source, results: Results) -> None:
    """Accept differences of layers in single precision that rounding in sequential sums of many values explains."""
    candidates = [(n, d) for n, d in compared if not d.ok and d.index is not None and d.error <= TRACED.single]
    inputs = source.inputs({name for name, _ in candidates}, results) if candidates else {}
    for name, d in candidates:
        assert d.index is not None
        count = source.summands(name, inputs[name], d.index) if name in inputs else 0
        limit = SUM_MARGIN * math.sqrt(count) * torch.finfo(torch.float32).eps
        if d.error <= limit:
            accept_rounding(d, f"rounding explains it: an element depends on {count:,} elements of the input", limit)


def compare_alone(layers: NamedLayers, source: Source, written: Written, expected: Results) -> Exception | None:
    """Compare the output of a file that runs without results of the model, its shape and its dtype.

    The result of a layer in the file can have the elements in the right order and another shape or dtype. The model's
    result in its place hides this from the later layers.

    Returns:
        The error if the file does not run.
    """
    found = run_file(written, source.value, {})
    if isinstance(found, Exception):
        return found
    a, b = _leaves(expected[""]), _leaves(found[""])
    if (other := other_dtypes(ALONE, b, a)) is not None:
        layers.result.whole.append(other)
        return None
    if any(not d.ok for d in compare(ALONE, b, a, _tolerance(a))):
        rounding = _Rounding(source, expected)
        if rounding.alone > RESEMBLING.single:
            layers.result.notes.append(
                "The output of the file without results of MODEL was not compared: rounding errors in MODEL change its "
                f"output by {rounding.alone:.1%}."
            )
            return None
        compared = rounding.compare_alone(b, a)
        layers.result.whole += [d for d in compared if d.verdict is not Verdict.EQUAL]
    return None


def _leaves(value: Any) -> Any:
    """Return a tensor, or the list of several tensors: a graph returns a flat list."""
    found = list(nested.leaves(value))
    return found[0] if len(found) == 1 else found


def _tolerance(expected: Any) -> Tolerance:
    """Return the accepted difference of a graph in the precision of the expected values."""
    return next((HALF.get(t.dtype, TRACED) for t in nested.tensors(expected)), TRACED)


def compare_at_another_size(layers: NamedLayers, source: Source, written: Written) -> None:
    """Compare the output for an input with other sizes of the dynamic axes."""
    assert written.run is not None
    assert written.dynamic is not None
    try:
        with source.running(source.module):
            *_, value = written.dynamic.examples(source.value, source.module)
    except OptionError as error:
        names = ", ".join(written.dynamic.names)
        layers.result.notes.append(f"The file has the dynamic axes {names}, but no other size was compared: {error}")
        return
    other = Source(source.module, layers, value, source.running)
    name = f"output for {nested.sizes_text(value)}"
    expected = other.run()
    try:
        with full_precision():
            found = written.run(nested.copied(value), {})
    except Exception as e:
        layers.result.whole.append(failed(name, f"the file does not run on this input: {e}"))
        return
    rounding = _Rounding(other, expected)
    compared = rounding.compare("", found[""], [n for n in found if found[n] is found[""]])
    if rounding.allowed:
        _accept_sums([("", d) for d in compared], other, {})
    for d in compared:
        d.name = d.name.replace("output", name, 1)
        layers.result.whole.append(d)


class _Rounding:
    """The accepted relative differences of a traced graph in single precision, by the name of the layer.

    Args:
        source: the model and its input.
        results: results of the model's layers.
        given: names of the layers whose results the file's later layers run on; without, rounding errors add up.
    """

    def __init__(self, source: Source, results: Results, given: Collection[str] = ()) -> None:
        self.source, self.results, self.given = source, results, results if given else {}
        self.replaced = {name: results[name] for name in given if name in results}
        single = any(t.dtype == torch.float32 for t in nested.tensors(results.get("")))
        errors = self._errors(dtype=torch.float64) if single else {}
        self.allowed = {name: max(TRACED_MIN, TRACED_MARGIN * error) for name, error in errors.items()}

    def compare(self, name: str, found: Any, names: Collection[str]) -> list[Difference]:
        """Compare the result of a layer with a value of the graph, which is the result of all layers in ``names``.

        A difference beyond the tolerance of single precision is not explained by last bits: where these change an
        index, as that of a glimpse, any result would be explained.
        """
        expected, allowed = self.results[name], self.allowed.get(name)
        compared = self._compare(names, expected, found, allowed)
        different = [d for d in compared if not d.ok]
        if allowed is None or not different or any(d.mismatched or not d.error <= TRACED.single for d in different):
            return compared
        more = TRACED_MARGIN * self._of_operations.get(name, 0.0)
        if not allowed < more <= TRACED.single:
            return compared
        return self._compare(names, expected, found, more)

    def compare_alone(self, found: Any, expected: Any) -> list[Difference]:
        """Compare the output of a graph that runs without results of the model, as :func:`compare_alone` does."""
        limit, error = _tolerance(expected), self.alone
        compared = compare(ALONE, found, expected, Tolerance(max(limit.double, error), max(limit.single, error)))
        self._accept_draws([""], compared)
        return compared

    @cached_property
    def alone(self) -> float:
        """The relative difference of the output that rounding explains if no results of the model are given."""
        return max(self.allowed.get("", 0.0), TRACED_MARGIN * self._of_operations.get("", 0.0))

    def _compare(self, names: Collection[str], expected: Any, found: Any, allowed: float | None) -> list[Difference]:
        """Compare a result; ``allowed`` is the accepted relative difference in single precision."""
        a, b = _leaves(expected), _leaves(found)
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            a, b = a.detach().cpu(), b.detach().cpu()
            if a.numel() == b.numel():
                b = b.reshape(a.shape)
        tolerance = _tolerance(expected)
        limit = tolerance if allowed is None else replace(tolerance, single=min(tolerance.single, allowed))
        compared = compare("output", b, a, limit)
        self._accept_draws(names, compared)
        for d in compared:
            if not d.ok and not d.mismatched and allowed is not None and d.error <= allowed:
                accept_rounding(d, limit=allowed)
        return compared

    def _accept_draws(self, names: Collection[str], compared: list[Difference]) -> None:
        """Accept the differences of a result if that of one of these layers changes with the random numbers."""
        different = [d for d in compared if not d.ok and not d.mismatched]
        if different and not self.random.isdisjoint(names):
            for d in different:
                accept_random(d, self._draws, ", other ones in the file than in MODEL")

    @cached_property
    def _draws(self) -> list[str]:
        """The layers that draw random numbers."""
        return draws_of(copy.deepcopy(self.source.module), nested.copied(self.source.value))

    @cached_property
    def random(self) -> set[str]:
        """The names of the results that change with the random numbers."""
        found: set[str] = set()
        for seed in range(1, SEEDS + 1) if self._draws else ():
            again = self.source.run(self.replaced, seed=seed)
            found |= {n for n, v in self.results.items() if n not in found and n in again and not _same(v, again[n])}
        return found

    @cached_property
    def _of_operations(self) -> dict[str, float]:
        """The differences of runs whose operations have other last bits, which cancelled numbers make large."""
        runs = [self._errors(perturbed=seed) for seed in range(PERTURBED_RUNS)]
        return {name: max(run.get(name, 0.0) for run in runs) for name in runs[0]}

    def _errors(self, **options: Any) -> dict[str, float]:
        """Return the relative differences of the results from those of another run; see :meth:`Source.run`."""
        try:
            other = self.source.run(self.given, **options)
        except ConversionLimitError:
            raise
        except Exception:  # a layer that cannot be cast
            return {}
        return {name: _relative(other[name], v) for name, v in self.results.items() if name in other}


def _relative(exact: Any, value: Any) -> float:
    size = min((scale_of(without_repeats(t)[0].double(), TRACED) for t in nested.tensors(value)), default=1.0)
    return max(distances("output", exact, value).values(), default=0.0) / size
