"""Compare the output of every layer of a model with the output in a file that was converted from the model.

The bits of weights must agree, because weights are copies. Results need not: two runs of one model differ in their last
bits if its tensors have another layout in memory, or if the number of threads differs. So results may differ as much
as two runs of the source.
"""

from __future__ import annotations

import copy
import math
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
from dpnn_bridge.compare.memory import moved, relocate
from dpnn_bridge.compare.precision import full_precision
from dpnn_bridge.conversion.failure import failure_reason
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.errors import ConversionError, ConversionLimitError, OptionError
from dpnn_bridge.modules.several import Models
from dpnn_bridge.objects import LuaTable
from dpnn_bridge.outputs.written import Results, Written, run_modules
from dpnn_bridge.parity.accepted import accept_random, accept_rounding
from dpnn_bridge.parity.bounded import RunLimits
from dpnn_bridge.parity.judge import draws_of
from dpnn_bridge.parity.layers import Node, tree
from dpnn_bridge.parity.rounding import distances
from dpnn_bridge.parity.verification import Layer, Verification

#: accepted difference of a traced graph, which sums in another order
TRACED = Tolerance(1e-8, 1e-4)
#: limit in single precision: this much, or a multiple of our own distance from the result in double precision
TRACED_LEAST, TRACED_MARGIN = 32 * torch.finfo(torch.float32).eps, 5
#: a runtime may add up n values one after the other, whose rounding errors grow with the square root of n
SUM_MARGIN = 4
#: runs of the source in other memory: elements that its tensors are moved by, and threads (0: as many as there are)
MEMORIES = ((0, 1), (1, 0), (3, 0), (8, 1))
#: how far the file's result may be from the source's, in multiples of the largest distance between runs of the source:
#: these are a sample of a few layouts
MEMORY_MARGIN = 4
#: bits are compared, independent of the size of the values
BITS = Tolerance(0.0, 0.0, torch.finfo(torch.float64).tiny)


class NamedLayers:
    """The layers of a result by the names of PyTorch's modules.

    Args:
        result: With its layers, in the order of the tree.
        module: The model.
        nodes: Its tree before a run that may have changed it; default: as it is.
    """

    def __init__(self, result: Verification, module: nn.Module, nodes: Sequence[Node] | None = None) -> None:
        pairs = zip(tree(module) if nodes is None else nodes, result.layers, strict=True)
        self.by_id: dict[int, Layer] = {id(node.module): layer for node, layer in pairs}
        self.result, self.names = result, {id(m): name for name, m in module.named_modules()}
        self.by_name: dict[str, Layer] = {n: self.by_id[i] for i, n in self.names.items() if i in self.by_id}

    def of(self, name: str) -> Layer:
        """Return the layer that a module, or one that is hidden in it, represents."""
        while name not in self.by_name:
            name = name.rpartition(".")[0]
        return self.by_name[name]

    def of_module(self, module: nn.Module) -> Layer:
        """Return the layer of a module, or of the one that it is hidden in."""
        return self.by_id.get(id(module)) or self.of(self.names.get(id(module), ""))

    def set_order(self, ran: Results) -> None:
        """Set the order of the layers to that in which they finished."""
        names = [*(name for name in ran if name in self.by_name and name), ""]
        for i, name in enumerate(names, 1):
            self.by_name[name].order = self.by_name[name].order or i


class Source:
    """The model that was converted. Each run uses a copy, because recurrent modules keep their states.

    Args:
        module: The model.
        layers: Its layers.
        value: Its input.
        running: Limits the resources of a run.
    """

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
            given: Results that replace a layer's own.
            offset: Where its tensors lie in memory, see :func:`~dpnn_bridge.compare.memory.moved`.
            threads: How many compute; 0 leaves that as it is.
            like: Tensors by name whose order in memory the model's get.
            dtype: In which precision; default: as it is.
        """
        module = relocate(copy.deepcopy(self.module).to(dtype=dtype), offset, like)

        def placed(value: Any) -> Any:
            return nested.map_tensors(lambda t: moved(t, offset), nested.cast(value, dtype))

        value, given = placed(self.value), {name: placed(v) for name, v in (given or {}).items() if name}
        modules = {name: module.get_submodule(name) for name in self.names}
        torch.manual_seed(0)
        with torch.no_grad(), full_precision(), _threads(threads), self.running(module):
            return run_modules(modules, lambda: module(value), given)

    def inputs(self, names: Collection[str], given: Results) -> dict[str, tuple[Any, ...]]:
        """Run a copy of the model, and return the first arguments of each of these layers that runs."""
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
        """Count the elements of a layer's input that an element of its output depends on; 0 if nobody can tell."""
        layer = copy.deepcopy(self.module.get_submodule(name))
        try:
            taken = [nested.map_tensors(lambda t: t.detach().requires_grad_(t.is_floating_point()), a) for a in inputs]
            leaves = [t for t in nested.tensors(taken) if t.requires_grad]
            with torch.enable_grad(), full_precision(), self.running(layer):
                (output,) = nested.tensors(layer(*nested.map_tensors(torch.clone, taken)))
                gradients = torch.autograd.grad(output[index], leaves, allow_unused=True)
        except ConversionLimitError:
            raise
        except Exception:  # a layer without gradients
            return 0
        return sum(int(g.count_nonzero()) for g in gradients if g is not None)

    def spread(self, base: Results, given: Results, file: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
        """Measure how far runs in other memory are from one: name of the layer -> part of its result -> distance.

        Args:
            base: Results of one run.
            given: Results that replace a layer's own.
            file: Tensors of the file. Their elements may have another order in memory, for which PyTorch may choose
                another algorithm.
        """
        runs = [given, *(self.run(given, offset=offset, threads=threads) for offset, threads in MEMORIES)]
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

    Each layer of the file runs on the input of the model's layer, so that a deviation does not reach later layers.

    Args:
        layers: Receives the comparisons.
        module: The model.
        written: The converted file.
        table: Contains the ``input``, if there is one.
        path: Path of the file, for messages.
        running: Limits the resources of a run.
    """
    if written.run is None:
        return
    device = next((t.device for t in [*module.parameters(), *module.buffers()]), torch.device("cpu"))
    value = to_value(table["input"], device=device) if "input" in table else written.example
    if value is None:
        needs = "a key (--key) and an input" if isinstance(module, Models) else "an input"
        layers.result.notes.append(f"Only tensors were compared; with {needs} (--input) the layers run as well.")
        return
    floats = {t.dtype for t in module.state_dict().values() if t.is_floating_point()}
    value = nested.cast(value, floats.pop() if len(floats) == 1 else None)
    source = Source(module, layers, value, running)
    try:
        ours = source.run()
    except ConversionLimitError:
        raise
    except Exception as e:
        if "input" in table:
            raise ConversionError(f"the model cannot run on the input: {failure_reason(e)}") from e
        why = f"MODEL cannot run on the input in {path.name}: {failure_reason(e)}"
        layers.result.notes.append(
            f"{why}. Only tensors were compared; name an input (--input) to run the layers as well."
        )
        return
    torch.manual_seed(0)
    try:
        with full_precision():
            theirs = written.run(nested.copied(value), {name: v for name, v in ours.items() if name})
    except ConversionLimitError:
        raise
    except Exception as e:
        layers.result.whole.append(failed("converted", f"{path.name} does not run on this input: {e}"))
        return
    layers.set_order(ours)
    if written.exact:
        _compare_operations(layers, source, ours, theirs, written)
    else:
        _compare_graph(layers, source, ours, theirs)
        if written.dynamic:
            _compare_at_another_size(layers, source, written)


def failed(name: str, message: str) -> Difference:
    """Return a comparison without numbers that failed."""
    return Difference(name, math.inf, 0.0, message)


# ---------------------------------------------------------------------- the model's own operations
def _compare_operations(layers: NamedLayers, source: Source, ours: Results, theirs: Results, written: Written) -> None:
    """Compare the results of a file with the model's own operations; accept the distance of two runs."""
    given = {name: value for name, value in ours.items() if name in theirs}
    base = source.run(given)  # on its own results, where the file got them
    found = {name: _same_types(theirs[name], base[name]) for name in theirs if name in base}
    differs = any(not d.ok for each in found.values() for d in each)
    spread = source.spread(base, given, written.tensors) if differs else {}
    for name, each in found.items():
        if (layer := layers.by_name.get(name)) is None:
            continue
        for d in each:
            _allow(d, spread.get(name, {}).get(d.name, 0.0))
        layer.converted += _joined(each)
    for name in (ours.keys() - theirs.keys()) & layers.by_name.keys():
        layer = layers.by_name[name]
        if written.complete or not name:
            layer.converted.append(failed("output", "the layer does not run in the converted file"))
        else:  # a program computes some layers in the forward of the module around them
            layer.note = layer.note or "is no module of its own in the file"


def _same_types(theirs: Any, base: Any) -> list[Difference]:
    """Compare results, which must be of one precision."""
    types = [[v.dtype for v in nested.tensors(value)] for value in (theirs, base)]
    if types[0] != types[1]:
        found, wanted = (", ".join(str(t).removeprefix("torch.") for t in dict.fromkeys(each)) for each in types)
        return [failed("output", f"{found} in place of {wanted}")]
    return compare("output", theirs, base, BITS)


def _allow(d: Difference, distance: float) -> None:
    """Accept a difference that runs of the source in other memory explain."""
    if d.ok or d.mismatched or not d.absolute < math.inf:
        return
    d.tolerance = MEMORY_MARGIN * distance * d.error / d.absolute
    d.message = f"{d.message}; runs of MODEL in other memory differ by {distance:.3g}" if distance else d.message


def _joined(found: list[Difference]) -> list[Difference]:
    """Return one comparison in place of those of a table's parts, where all are the same bits."""
    return found if any(d.error for d in found) or not found else [Difference("output", 0.0, 0.0)]


# ---------------------------------------------------------------------- a traced graph
def _compare_graph(layers: NamedLayers, source: Source, ours: Results, theirs: Results) -> None:
    """Compare the results of a traced graph, which computes in another order."""
    allowed = _rounding(source, ours)
    # of a table a graph shows the values that the layer computes, and not those that it passes on
    names = [n for n in theirs if n in layers.by_name and (not n or isinstance(ours.get(n), Tensor))]
    whole_is_layer = any(theirs[name] is theirs.get("") for name in names if name)
    sums: list[tuple[str, Difference]] = []
    for name, found in ((n, theirs[n]) for n in names if n in ours):
        layer = layers.by_name[name]
        if name == "" and whole_is_layer:
            continue  # the output of the whole is compared where it is that of a layer
        compared = _nearly(ours[name], found, source, allowed.get(name))
        if name in allowed:
            inner = max((n for n in theirs if theirs[n] is found), key=len)  # whose result a container passes on
            sums += [(inner, d) for d in compared]
        layer.converted += compared
    _accept_sums(sums, source, ours)


def _accept_sums(compared: list[tuple[str, Difference]], source: Source, ours: Results) -> None:
    """Accept differences of layers in single precision that come of adding up many values one after the other."""
    asked = [(n, d) for n, d in compared if not d.ok and d.index is not None and d.error <= TRACED.single]
    inputs = source.inputs({name for name, _ in asked}, ours) if asked else {}
    for name, d in asked:
        assert d.index is not None
        count = source.summands(name, inputs[name], d.index) if name in inputs else 0
        limit = SUM_MARGIN * math.sqrt(count) * torch.finfo(torch.float32).eps
        if d.error <= limit:
            accept_rounding(d, f"rounding explains it: an element depends on {count:,} elements of the input", limit)


def _compare_at_another_size(layers: NamedLayers, source: Source, written: Written) -> None:
    """Compare the output for an input of other sizes, as far as they vary in the file."""
    assert written.run is not None
    assert written.dynamic is not None
    try:
        with source.running(source.module):
            *_, value = written.dynamic.examples(source.value, source.module)
    except OptionError as error:
        names = ", ".join(written.dynamic.names)
        layers.result.notes.append(f"The file lets {names} vary; no other size was compared: {error}")
        return
    other = Source(source.module, layers, value, source.running)
    name = f"output for {nested.sizes_text(value)}"
    ours = other.run()
    try:
        with full_precision():
            theirs = written.run(nested.copied(value), {})
    except Exception as e:
        layers.result.whole.append(failed(name, f"the file does not run on this input: {e}"))
        return
    allowed = _rounding(other, ours)
    compared = _nearly(ours[""], theirs[""], other, allowed.get(""))
    if allowed:
        _accept_sums([("", d) for d in compared], other, {})
    for d in compared:
        d.name = d.name.replace("output", name, 1)
        layers.result.whole.append(d)


def _rounding(source: Source, ours: Results) -> Mapping[str, float]:
    """Return the accepted difference of each layer of a traced graph in single precision."""
    if all(t.dtype != torch.float32 for t in nested.tensors(ours.get(""))):
        return {}
    try:
        exact = source.run(ours, dtype=torch.float64)
    except ConversionLimitError:
        raise
    except Exception:  # a layer that cannot be cast
        return {}

    def far(name: str, value: Any) -> float:
        size = min((scale_of(t.double(), TRACED) for t in nested.tensors(value)), default=1.0)
        return max(distances("output", exact[name], value).values(), default=0.0) / size

    return {name: max(TRACED_LEAST, TRACED_MARGIN * far(name, v)) for name, v in ours.items() if name in exact}


def _nearly(ours: Any, theirs: Any, source: Source, allowed: float | None) -> list[Difference]:
    flat, others = list(nested.leaves(ours)), list(nested.leaves(theirs))
    if len(flat) == len(others) == 1 and isinstance(flat[0], Tensor) and isinstance(others[0], Tensor):
        flat, others = flat[0].detach().cpu(), others[0].detach().cpu()
        if flat.numel() == others.numel():
            others = others.reshape(flat.shape)
    limit = TRACED if allowed is None else replace(TRACED, single=min(TRACED.single, allowed))
    found = compare("output", others, flat, limit)
    for d in found:
        if d.ok or d.mismatched:
            continue
        if names := draws_of(copy.deepcopy(source.module), nested.copied(source.value)):
            accept_random(d, names, ", in the file others than here")
        elif allowed is not None and d.error <= allowed:
            accept_rounding(d, limit=allowed)
    return found
