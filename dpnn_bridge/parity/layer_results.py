"""Compare the output of every layer of a model with the output in a file that was converted from the model.

Weights are copied, so their bits must agree. Results of two runs of one model can differ by rounding if the tensors
have other memory layouts or the number of threads differs. So results may differ by as much as two runs of the model.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.compare import nested
from dpnn_bridge.compare.differences import Difference, Tolerance, compare, scale_of
from dpnn_bridge.compare.limited import without_repeats
from dpnn_bridge.compare.memory import moved, relocate
from dpnn_bridge.compare.precision import full_precision
from dpnn_bridge.conversion.failure import failure_reason
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.errors import ConversionError, ConversionLimitError, OptionError
from dpnn_bridge.modules.inputs import accepted_instead
from dpnn_bridge.modules.several import Models
from dpnn_bridge.objects import LuaTable
from dpnn_bridge.outputs.written import Results, Written, run_modules
from dpnn_bridge.parity.accepted import accept_random, accept_rounding
from dpnn_bridge.parity.bounded import RunLimits
from dpnn_bridge.parity.judge import draws_of
from dpnn_bridge.parity.layers import Node, tree
from dpnn_bridge.parity.rounding import distances
from dpnn_bridge.parity.seeds import manual_seed
from dpnn_bridge.parity.verification import Layer, Verification

#: accepted difference of a traced graph, which computes sums in another order
TRACED = Tolerance(1e-8, 1e-4)
#: in single precision: minimum of the accepted difference; factor of the model's own rounding error for larger ones
TRACED_MIN, TRACED_MARGIN = 32 * torch.finfo(torch.float32).eps, 5
#: factor of sqrt(n) eps, the accepted rounding error of a sum of n values that a runtime adds sequentially
SUM_MARGIN = 4
#: variations of the model's run: offset of its tensors in memory in elements, number of threads (0: unchanged)
VARIATIONS = ((0, 1), (1, 0), (3, 0), (8, 1))
#: factor of the largest difference between these runs: they are only a sample of the possible layouts
VARIATION_MARGIN = 4
#: tolerance for comparing bits, independent of the size of the values
BITS = Tolerance(0.0, 0.0, torch.finfo(torch.float64).tiny)


class NamedLayers:
    """The layers of a verification by the names of their modules in PyTorch.

    Args:
        result: the verification; its layers are in the order of the tree.
        module: the model.
        nodes: the tree of the model before a run that changed it; default: the current tree.
    """

    def __init__(self, result: Verification, module: nn.Module, nodes: Sequence[Node] | None = None) -> None:
        pairs = zip(tree(module) if nodes is None else nodes, result.layers, strict=True)
        self.by_id: dict[int, Layer] = {id(node.module): layer for node, layer in pairs}
        self.result, self.names = result, {id(m): name for name, m in module.named_modules()}
        self.by_name: dict[str, Layer] = {n: self.by_id[i] for i, n in self.names.items() if i in self.by_id}

    def of(self, name: str) -> Layer:
        """Return the layer of the module with this name; for a submodule that is not a layer, the layer around it."""
        while name not in self.by_name:
            name = name.rpartition(".")[0]
        return self.by_name[name]

    def of_module(self, module: nn.Module) -> Layer:
        """Return the layer of a module, or of the module around it."""
        return self.by_id.get(id(module)) or self.of(self.names.get(id(module), ""))

    def set_order(self, ran: Results) -> None:
        """Set the order of the layers to the order of the keys of ``ran``, in which their calls ended."""
        names = [*(name for name in ran if name in self.by_name and name), ""]
        for i, name in enumerate(names, 1):
            self.by_name[name].order = self.by_name[name].order or i


class Source:
    """The model that was converted, and its input. Each run uses a copy, because recurrent modules keep states."""

    def __init__(self, module: nn.Module, layers: NamedLayers, value: Any, running: RunLimits) -> None:
        self.module, self.names, self.value, self.running = module, layers.by_name.keys(), value, running

    def run(
        self,
        given: Results | None = None,
        *,
        offset: int = 0,
        threads: int = 0,
        like: Mapping[str, Tensor] | None = None,
        dtype: torch.dtype | None = None,
    ) -> Results:
        """Run a copy of the model.

        Args:
            given: name of a layer -> value that replaces its result.
            offset: offset of the tensors in memory, see :func:`~dpnn_bridge.compare.memory.moved`.
            threads: number of threads; 0 to keep the current number.
            like: tensors by name, whose strides the model's tensors get.
            dtype: precision of the run; default: unchanged.
        """
        module = relocate(copy.deepcopy(self.module).to(dtype=dtype), offset, like)

        def prepared(value: Any) -> Any:
            return nested.map_tensors(lambda t: moved(t, offset), nested.cast(value, dtype))

        value, given = prepared(self.value), {name: prepared(v) for name, v in (given or {}).items() if name}
        modules = {name: module.get_submodule(name) for name in self.names}
        manual_seed(module.modules(), 0)
        with torch.no_grad(), full_precision(), _threads(threads), self.running(module):
            return run_modules(modules, lambda: module(value), given)

    def inputs(self, names: Collection[str], given: Results) -> dict[str, tuple[Any, ...]]:
        """Run a copy of the model and return the arguments of the first call of each layer in ``names``."""
        found: dict[str, tuple[Any, ...]] = {}

        def record(name: str, _: nn.Module, args: tuple[Any, ...]) -> None:
            if name not in found:
                found[name] = nested.copied(args)

        hooks = [self.module.get_submodule(n).register_forward_pre_hook(partial(record, n)) for n in names]
        try:
            self.run(given)
        finally:
            for hook in hooks:
                hook.remove()
        return found

    def summands(self, name: str, inputs: tuple[Any, ...], index: tuple[int, ...]) -> int:
        """Count the elements of a layer's input on which the output's element at ``index`` depends; 0 if unknown."""
        layer = copy.deepcopy(self.module.get_submodule(name))
        try:
            args = [nested.map_tensors(lambda t: t.detach().requires_grad_(t.is_floating_point()), a) for a in inputs]
            leaves = [t for t in nested.tensors(args) if t.requires_grad]
            with torch.enable_grad(), full_precision(), self.running(layer):
                (output,) = nested.tensors(layer(*nested.map_tensors(torch.clone, args)))
                gradients = torch.autograd.grad(output[index], leaves, allow_unused=True)
        except ConversionLimitError:
            raise
        except Exception:  # a layer without gradients
            return 0
        return sum(int(g.count_nonzero()) for g in gradients if g is not None)

    def spread(self, base: Results, given: Results, file: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
        """Measure the largest differences of runs with other memory layouts and numbers of threads from one run.

        Args:
            base: results of the run.
            given: see :meth:`run`.
            file: tensors of the file. If they have other strides, PyTorch may choose another algorithm.
        """
        runs = [given, *(self.run(given, offset=offset, threads=threads) for offset, threads in VARIATIONS)]
        runs.append(self.run(given, like=file))
        found: dict[str, dict[str, float]] = {}
        for name, value in base.items():
            parts = found.setdefault(name, {})
            for run in runs:
                for part, distance in distances("output", value, run.get(name)).items():
                    parts[part] = max(parts.get(part, 0.0), distance)
        return found


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if count:
            torch.set_num_threads(before)


def compare_results(
    layers: NamedLayers, module: nn.Module, written: Written, table: LuaTable, path: Path, running: RunLimits
) -> None:
    """Compare the results of every layer.

    Each layer of the file runs on the results of the model's layers, so a difference does not affect later layers.

    Args:
        layers: the layers, to which the comparisons are added.
        module: the model.
        written: the converted file.
        table: the reference; contains ``input``, if there is one.
        path: path of the file, for messages.
        running: limits the resources of a run.
    """
    if written.run is None:
        return
    device = next((t.device for t in [*module.parameters(), *module.buffers()]), torch.device("cpu"))
    value = to_value(table["input"], device=device) if "input" in table else written.example
    if value is None:
        options = "--key and --input" if isinstance(module, Models) else "--input"
        layers.result.notes.append(f"Outputs of layers were not compared; pass {options} to compare them.")
        return
    floats = {t.dtype for t in module.state_dict().values() if t.is_floating_point()}
    value = nested.cast(value, floats.pop() if len(floats) == 1 else None)
    source = Source(module, layers, value, running)
    try:
        expected = source.run()
    except ConversionLimitError:
        raise
    except Exception as e:
        if "input" in table:
            reason = f"{failure_reason(e)}{accepted_instead(module, value)}"
            raise ConversionError(f"the model cannot run on the input: {reason}") from e
        reason = f"MODEL cannot run on the input in {path.name}: {failure_reason(e)}"
        layers.result.notes.append(f"{reason}. Outputs of layers were not compared; pass --input to compare them.")
        return
    manual_seed(written.modules.values(), 0)
    try:
        with full_precision():
            found = written.run(nested.copied(value), {name: v for name, v in expected.items() if name})
    except ConversionLimitError:
        raise
    except Exception as e:
        layers.result.whole.append(failed("converted", f"{path.name} does not run on this input: {e}"))
        return
    layers.set_order(expected)
    if written.exact:
        _compare_operations(layers, source, expected, found, written)
    else:
        _compare_graph(layers, source, expected, found)
        if written.dynamic:
            _compare_at_another_size(layers, source, written)


def failed(name: str, message: str) -> Difference:
    """Return a failed comparison without numbers."""
    return Difference(name, math.inf, 0.0, message)


# ---------------------------------------------------------------------- files with the same operations as the model
def _compare_operations(
    layers: NamedLayers, source: Source, expected: Results, found: Results, written: Written
) -> None:
    """Compare the results of a file with the same operations; accept differences as between two runs of the model."""
    given = {name: value for name, value in expected.items() if name in found}
    base = source.run(given)  # the layers run on the same results as in the file
    compared = {name: _compare_exactly(base[name], found[name]) for name in found if name in base}
    differs = any(not d.ok for each in compared.values() for d in each)
    spread = source.spread(base, given, written.tensors) if differs else {}
    for name, each in compared.items():
        if (layer := layers.by_name.get(name)) is None:
            continue
        for d in each:
            _allow(d, spread.get(name, {}).get(d.name, 0.0))
        layer.converted += _merged(each)
    for name in (expected.keys() - found.keys()) & layers.by_name.keys():
        layer = layers.by_name[name]
        if written.complete or not name:
            layer.converted.append(failed("output", "the layer does not run in the converted file"))
        else:  # a program computes some layers in the forward of the module around them
            layer.note = layer.note or "is not a separate module in the file"


def _compare_exactly(expected: Any, found: Any) -> list[Difference]:
    """Compare dtypes and bits of results."""
    dtypes = [[v.dtype for v in nested.tensors(value)] for value in (found, expected)]
    if dtypes[0] != dtypes[1]:
        names = (", ".join(str(t).removeprefix("torch.") for t in dict.fromkeys(each)) for each in dtypes)
        return [failed("output", " instead of ".join(names))]
    return compare("output", found, expected, BITS)


def _allow(d: Difference, distance: float) -> None:
    """Accept a difference that runs of the model, which differ by up to ``distance``, explain."""
    if d.ok or d.mismatched or not d.absolute < math.inf:
        return
    allowed = VARIATION_MARGIN * distance
    d.tolerance = min(allowed / d.scale, sys.float_info.max if d.absolute <= allowed else d.error / 2)
    if distance:
        d.message = f"{d.message}; runs of MODEL with other memory layouts differ by {distance:.3g}"


def _merged(found: list[Difference]) -> list[Difference]:
    """Return one comparison instead of the comparisons of a table's parts if all bits are equal."""
    return found if any(d.error for d in found) or not found else [Difference("output", 0.0, 0.0)]


# ---------------------------------------------------------------------- traced graphs
def _compare_graph(layers: NamedLayers, source: Source, expected: Results, found: Results) -> None:
    """Compare the results of a traced graph, which computes in another order."""
    allowed = _rounding(source, expected)
    # a layer that returns a table is omitted: the graph has only those parts of the table that the layer computes
    names = [n for n in found if n in layers.by_name and (not n or isinstance(expected.get(n), Tensor))]
    output_is_of_layer = any(found[n] is found.get("") and _same(expected.get(n), expected.get("")) for n in names if n)
    sums: list[tuple[str, Difference]] = []
    for name, value in ((n, found[n]) for n in names if n in expected):
        layer = layers.by_name[name]
        if name == "" and output_is_of_layer:
            continue  # compared as the output of the layer
        compared = _compare_approximately(expected[name], value, source, allowed.get(name))
        if name in allowed:
            inner = max((n for n in found if found[n] is value), key=len)  # the layer whose result containers return
            sums += [(inner, d) for d in compared]
        layer.converted += compared
    _accept_sums(sums, source, expected)


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


def _compare_at_another_size(layers: NamedLayers, source: Source, written: Written) -> None:
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
    allowed = _rounding(other, expected)
    compared = _compare_approximately(expected[""], found[""], other, allowed.get(""))
    if allowed:
        _accept_sums([("", d) for d in compared], other, {})
    for d in compared:
        d.name = d.name.replace("output", name, 1)
        layers.result.whole.append(d)


def _rounding(source: Source, results: Results) -> Mapping[str, float]:
    """Return name of a layer -> accepted relative difference of a traced graph in single precision."""
    if all(t.dtype != torch.float32 for t in nested.tensors(results.get(""))):
        return {}
    try:
        exact = source.run(results, dtype=torch.float64)
    except ConversionLimitError:
        raise
    except Exception:  # a layer that cannot be cast
        return {}

    def error(name: str, value: Any) -> float:
        size = min((scale_of(without_repeats(t)[0].double(), TRACED) for t in nested.tensors(value)), default=1.0)
        return max(distances("output", exact[name], value).values(), default=0.0) / size

    return {name: max(TRACED_MIN, TRACED_MARGIN * error(name, v)) for name, v in results.items() if name in exact}


def _compare_approximately(expected: Any, found: Any, source: Source, allowed: float | None) -> list[Difference]:
    """Compare results of a traced graph; ``allowed`` is the accepted relative difference in single precision."""
    a, b = list(nested.leaves(expected)), list(nested.leaves(found))
    if len(a) == len(b) == 1 and isinstance(a[0], Tensor) and isinstance(b[0], Tensor):
        a, b = a[0].detach().cpu(), b[0].detach().cpu()
        if a.numel() == b.numel():
            b = b.reshape(a.shape)
    limit = TRACED if allowed is None else replace(TRACED, single=min(TRACED.single, allowed))
    differences = compare("output", b, a, limit)
    for d in differences:
        if d.ok or d.mismatched:
            continue
        if names := draws_of(copy.deepcopy(source.module), nested.copied(source.value)):
            accept_random(d, names, ", other ones in the file than in MODEL")
        elif allowed is not None and d.error <= allowed:
            accept_rounding(d, limit=allowed)
    return differences
