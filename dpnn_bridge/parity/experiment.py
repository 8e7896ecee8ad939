"""Run a model and compare its results with a reference.

An experiment can run several times: unchanged, with Torch7's results as inputs of layers, in double precision, and
perturbed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

import dpnn_bridge.training as training
from dpnn_bridge.base.cached import cached_property
from dpnn_bridge.compare import nested
from dpnn_bridge.compare.differences import Difference, Tolerance, compare
from dpnn_bridge.conversion.lua_values import to_expected, to_value
from dpnn_bridge.conversion.options import Options
from dpnn_bridge.errors import DpnnBridgeError
from dpnn_bridge.lua.module import LuaModule
from dpnn_bridge.objects import LuaObject, LuaTable
from dpnn_bridge.parity.bounded import RunLimits
from dpnn_bridge.parity.buffers import changed_inside, is_filled, lua_tensors, overwritten, storages
from dpnn_bridge.parity.faults import Faults, compare_output
from dpnn_bridge.parity.fixture import check_module, floating_buffers
from dpnn_bridge.parity.in_place import is_restored, may_share_memory
from dpnn_bridge.parity.layers import Calls, Given, Node, in_plain_containers, is_inplace, object_of, recorded, tree
from dpnn_bridge.parity.left_results import LeftResults
from dpnn_bridge.parity.lua_layers import compare_field, input_after_forward, returns_field
from dpnn_bridge.parity.seeds import manual_seed

#: identifies a comparison: number of the layer in the tree, or -1 for the complete model, and name of the comparison
Key = tuple[int, str]

#: reason why a layer that ran is not compared
NO_RESULT = "Torch7 stored no result"


@dataclass
class Outcome:
    """The results of one run.

    Attributes:
        module: the model that ran.
        nodes: the tree of its modules.
        calls: ``id(module)`` -> results of the module.
        whole: comparisons of the complete model.
        layers: comparisons of each layer of the tree.
        not_comparable: number of a layer -> reason why its stored result cannot be compared, such as a reused buffer.
        other_gradients: layers whose stored gradInput differs, while the model's agrees on the same values.
        inexact: numbers of layers that agree within the tolerance, although their stored results may have been changed.
        overwritten: number of a layer -> number of the layer that overwrote its output in Torch7's memory.
    """

    module: nn.Module
    nodes: list[Node]
    calls: dict[int, Calls]
    whole: list[Difference]
    layers: list[list[Difference]] = field(default_factory=list)
    not_comparable: dict[int, str] = field(default_factory=dict)
    other_gradients: list[int] = field(default_factory=list)
    inexact: set[int] = field(default_factory=set)
    overwritten: dict[int, int] = field(default_factory=dict)

    def entry(self, i: int) -> Calls | None:
        """Return the calls of a layer; None if the layer did not run as a module."""
        return self.calls.get(id(self.nodes[i].module))

    def added(self) -> Iterator[tuple[int, nn.Module]]:
        """Yield the modules that the run added, such as clones, each with the number of the layer around it."""
        numbers, around = {id(node.module): i for i, node in enumerate(self.nodes)}, []
        for node in tree(self.module):
            del around[node.depth :]
            around.append(numbers.get(id(node.module), around[-1] if around else 0))
            if id(node.module) not in numbers:
                yield around[-1], node.module

    def order(self) -> dict[int, int]:
        """Return ``id(module)`` -> position of its last call in the order in which calls of all modules ended."""
        return {i: entry.last for i, entry in self.calls.items()}

    def by_key(self) -> dict[Key, Difference]:
        """Return all comparisons by their keys."""
        found = {(-1, d.name): d for d in self.whole}
        return found | {(i, d.name): d for i, layer in enumerate(self.layers) for d in layer}

    def rounding_candidates(self, threshold: float) -> dict[Key, Difference]:
        """Return the comparisons for the rounding test: failures, and outputs with an error above ``threshold``."""
        return {
            key: d
            for key, d in self.by_key().items()
            if not d.ok
            or (d.accepted is None and not d.is_gradient and key[0] not in self.inexact and d.error > threshold)
        }

    def values(self) -> Iterator[tuple[int, str, Any]]:
        """Yield all results as ``(number of the layer, name, value)``; the number is -1 for the complete model."""
        for i, _ in enumerate(self.nodes):
            entry = self.entry(i)
            for name, values in (("output", entry.outputs), ("gradInput", entry.grad_inputs)) if entry else ():
                if values:
                    yield i, name, values[-1]
                    if i == 0:
                        yield -1, name, values[-1]
        yield from ((-1, f"gradParams[{i}]", g) for i, g in enumerate(training.parameters(self.module)[1], 1))
        yield from ((-1, f"after.{name}", b.clone()) for name, b in floating_buffers(self.module))


class Experiment:
    """A model and its reference, which can run several times.

    Args:
        fresh: function that creates the model, in the mode of the run. Each run uses a new model, because recurrent
            modules keep states.
        table: the reference.
        after: Lua object whose modules contain the results of Torch7's run, or None.
        device, dtype: device and precision of the run.
        single: whether the results or the reference are in single precision.
        tolerance, gradient_tolerance: accepted differences.
        measured: whether outputs in single precision need the rounding test even within the tolerance.
        gradients: whether to run backward if the reference contains gradients.
        options: options of the conversion.
        remake: function that computes the reference again in another precision, or None.
        mark: function that accepts known differences.
        running: limits the resources of a run.
    """

    def __init__(
        self,
        fresh: Callable[[], nn.Module],
        table: LuaTable,
        after: LuaObject | None,
        *,
        device: str,
        dtype: torch.dtype | None,
        single: bool,
        tolerance: Tolerance,
        gradient_tolerance: Tolerance,
        measured: bool = False,
        gradients: bool,
        options: Options,
        remake: Callable[[torch.dtype], LuaTable] | None = None,
        mark: Callable[[list[Difference]], None],
        running: RunLimits,
    ) -> None:
        self.fresh, self.table, self.after = fresh, table, after
        self.device, self.dtype, self.options, self.mark = device, dtype, options, mark
        self.backward = gradients and ("gradInput" in table or "gradParams" in table)
        self.single, self.tolerance, self.gradient_tolerance = single, tolerance, gradient_tolerance
        self.measured = measured and single
        self.remake, self.running = remake, running
        self._overwriters: dict[str, dict[int, int]] = {}  # of the first run

    @property
    def runs_single(self) -> bool:
        """Whether the runs in PyTorch have the precision of the reference."""
        return not self.single or self.dtype != torch.float64

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU computed the reference."""
        return any(t.class_name.startswith("torch.Cuda") for t in lua_tensors(self.table.get("output")))

    @cached_property
    def doubled(self) -> Experiment | None:
        """The experiment in double precision, with a recomputed reference; None if that is impossible or pointless."""
        if self.remake is None or not self.single:
            return None
        try:
            table = self.remake(torch.float64)
        except DpnnBridgeError:  # Torch7 cannot cast some classes
            return None
        after = table.get("after")
        return Experiment(
            self.fresh,
            table,
            after if isinstance(after, LuaObject) else None,
            device=self.device,
            dtype=torch.float64,
            single=False,
            tolerance=Tolerance(),
            gradient_tolerance=Tolerance(),
            gradients=self.backward,
            options=self.options,
            mark=self.mark,
            running=self.running,
        )

    def run(
        self,
        module: nn.Module | None = None,
        *,
        dtype: torch.dtype | None = None,
        given: Mapping[int, Given] | None = None,
        seed: int = 0,
        while_running: Callable[[nn.Module], AbstractContextManager[Any]] | None = None,
    ) -> Outcome:
        """Run the model and compare its results with the reference.

        Args:
            module: a new model; default: ``fresh()``.
            dtype: precision of this run; default: the experiment's.
            given: number of a layer -> results that replace the layer's results for the other layers.
            seed: seed of PyTorch's random numbers, and of those of Lua layers.
            while_running: function of the model that returns a context manager for the run.
        """
        module = self.fresh() if module is None else module
        dtype = dtype or self.dtype
        module.to(device=self.device, dtype=dtype)
        nodes = list(tree(module))
        given_results = {id(nodes[i].module): values for i, values in (given or {}).items()}
        faults = Faults(module)
        manual_seed(module.modules(), seed)
        with (
            recorded(module, gradients=self.backward, given=given_results) as calls,
            while_running(module) if while_running else nullcontext(),
        ):
            checked = check_module(
                module,
                self.table,
                device=self.device,
                dtype=dtype,
                tolerance=self.tolerance,
                gradient_tolerance=self.gradient_tolerance,
                gradients=self.backward,
                options=self.options,
                running=self.running,
                faults=faults,
            )
        outcome = Outcome(module, nodes, calls, checked.differences, [[] for _ in nodes])
        self.mark(outcome.whole)
        if self.after is not None:
            self._compare_layers(outcome, faults, given is not None)
        return outcome

    # ------------------------------------------------------------------ layers
    def _compare_layers(self, outcome: Outcome, faults: Faults, on_given: bool) -> None:
        """Compare the results of every layer with the results in its Lua object.

        Args:
            outcome: the run, to which the comparisons are added.
            faults: the faults of Torch7 in the model.
            on_given: whether the run used given results; then a fault of Torch7 affects only its own module.
        """
        assert self.after is not None
        objects = object_of(outcome.nodes, self.after)
        of_model = {n: [d.ok for d in outcome.whole if d.name.startswith(n)] for n in ("output", "gradInput")}
        agrees = {name: bool(found) and all(found) for name, found in of_model.items()}
        order = None if on_given else outcome.order()
        same_gradient = set() if may_share_memory(outcome.module) else in_plain_containers(outcome.nodes)
        for name in ("output", "gradInput") if self.backward else ("output",):
            overwriters = self._overwritten(outcome, objects, name)
            if name == "output":
                outcome.overwritten = overwriters
            tolerance = self.tolerance if name == "output" else self.gradient_tolerance
            for i, node in list(enumerate(outcome.nodes))[1:]:
                obj, entry = objects.get(id(node.module)), outcome.entry(i)
                values = [] if entry is None else entry.outputs if name == "output" else entry.grad_inputs
                if not values or obj is None or not is_filled(obj.get(name)) or is_restored(obj):
                    if name == "output":
                        outcome.not_comparable[i] = NO_RESULT if values else "does not run as a separate module"
                    continue
                expected = to_expected(obj[name])
                if name == "output":
                    found = compare_output(node.module, values[-1], expected, tolerance)
                else:
                    found = _compare_grad_input(values[-1], expected, tolerance)
                if not all(d.ok for d in found):
                    found = compare_field(node.module, name, expected, tolerance) or found
                self.mark(found)
                for d in (d for d in found if not d.ok):
                    faults.accept(d, node.module, name, order)
                backward, mismatched = name == "gradInput", any(d.mismatched for d in found)
                other_gradient = i not in same_gradient and all(d.ok for d in outcome.layers[i])
                if not all(d.ok for d in found):
                    reason = ""
                    if i in overwriters:
                        reason = f"Torch7 reused the buffer in {outcome.nodes[overwriters[i]].path or 'the model'}"
                    elif len(values) > 1:
                        reason = f"ran {len(values)} times, Torch7 stores one result"
                    elif agrees[name] and (other_gradient if backward else mismatched):
                        reason = "is computed in another way in PyTorch"
                        if backward:
                            outcome.other_gradients.append(i)
                        else:
                            reason = f"{reason}; the model's output agrees"
                    if reason:
                        outcome.not_comparable.setdefault(i, f"{name}: {reason}")
                        continue
                if i in overwriters or len(values) > 1:
                    outcome.inexact.add(i)
                outcome.layers[i] += found

    def _overwritten(self, outcome: Outcome, objects: dict[int, LuaObject], name: str) -> dict[int, int]:
        """Return number of each layer whose result was overwritten in Torch7's memory -> number of the other layer."""
        modules = [(i, node.module) for i, node in enumerate(outcome.nodes)]
        modules += [(~i, module) for i, module in outcome.added()]  # negative numbers, which are not those of layers
        ran = [(e.last, i, module, e) for i, module in modules if (e := outcome.calls.get(id(module))) and e.outputs]
        ran.sort(key=lambda run: run[0], reverse=name == "gradInput")
        results, restored = [], {}
        for _, i, module, entry in ran:
            obj = objects.get(id(module))
            values = entry.outputs if name == "output" else entry.grad_inputs
            if obj is None or not values or not is_filled(obj.get(name)):
                continue
            if is_restored(obj):
                restored.update(dict.fromkeys(storages(obj[name]), i))
            if name == "output":
                restored.update(dict.fromkeys(storages(changed_inside(obj)), i))
            results.append((i, values[-1], obj[name]))
        of_layers = [result for result in results if result[0] >= 0]
        if name not in self._overwriters:
            # the first run: in later ones a container returns Torch7's result, which its last layer did not compute
            found = overwritten(results)
            found |= {i: restored[s] for i, _, buffer in results for s in storages(buffer) if s in restored}
            found = {i: max(j, ~j) for i, j in found.items() if i >= 0}
            self._overwriters[name] = found | self._overwritten_earlier(outcome, of_layers, found, name)
        overwriters = {**self._overwriters[name]}
        if name == "output":
            self._overwritten_in_lua(outcome, of_layers, overwriters)
        return overwriters

    def _overwritten_earlier(
        self, outcome: Outcome, results: list[tuple[int, Any, Any]], overwriters: dict[int, int], name: str
    ) -> dict[int, int]:
        """Return other layers whose stored result is what a layer in place that runs several times left in it.

        This layer stores only the memory of its last run.
        """
        left = []
        for i, node in enumerate(outcome.nodes):
            entry = outcome.entry(i) if is_inplace(node.module) else None
            values = [] if entry is None else entry.outputs if name == "output" else entry.grad_inputs
            tensors = [v for v in values if isinstance(v, Tensor)]
            left += [(i, v) for v in tensors if len(tensors) > 1]
        if not left:
            return {}
        tolerance = self.tolerance if name == "output" else self.gradient_tolerance
        search = LeftResults(left, partial(self._agrees, tolerance=tolerance))
        found = ((i, search.layer_of(v, to_expected(buffer))) for i, v, buffer in results if i not in overwriters)
        return {i: j for i, j in found if j is not None}

    def _agrees(self, value: Any, expected: Any, *, tolerance: Tolerance | None = None) -> bool:
        return all(d.ok for d in compare("result", value, expected, tolerance or self.tolerance))

    def _overwritten_in_lua(
        self, outcome: Outcome, results: list[tuple[int, Any, Any]], overwriters: dict[int, int]
    ) -> None:
        """Add layers whose stored output is what the next layer, which runs in Lua, leaves of its input."""
        fresh: list[Node] = []
        for (i, value, buffer), (j, _, _) in pairwise(results):
            if i in overwriters or not isinstance(outcome.nodes[j].module, LuaModule):
                continue
            expected = to_expected(buffer)
            if self._agrees(value, expected):
                continue
            fresh = fresh or list(tree(self.fresh()))
            left = input_after_forward(fresh[j].module, value)
            if left is not None and self._agrees(left, expected):
                overwriters[i] = j

    def given(self, outcome: Outcome) -> dict[int, Given]:
        """Return number of a layer -> Torch7's results, for each layer that ran once and was not overwritten."""
        assert self.after is not None
        objects = object_of(outcome.nodes, self.after)
        found: dict[int, Given] = {}
        for name in ("output", "gradInput"):
            overwriters = self._overwritten(outcome, objects, name)
            for i, node in list(enumerate(outcome.nodes))[1:]:
                obj, entry = objects.get(id(node.module)), outcome.entry(i)
                if obj is None or entry is None or i in overwriters or not is_filled(obj.get(name)) or is_restored(obj):
                    continue
                values = entry.outputs if name == "output" else entry.grad_inputs
                if len(values) != 1 or not returns_field(node.module, name, values[0]):
                    continue
                attribute = "output" if name == "output" else "grad_input"
                setattr(found.setdefault(i, Given()), attribute, to_value(obj[name], device=self.device))
        return found


def _compare_grad_input(actual: Any, expected: Any, tolerance: Tolerance) -> list[Difference]:
    pairs = list(zip(nested.leaves(actual), nested.leaves(expected), strict=False))
    found = [(a, e) for a, e in pairs if isinstance(a, Tensor) and isinstance(e, Tensor) and a.numel() == e.numel()]
    several = len(found) > 1
    return [
        d
        for k, (a, e) in enumerate(found, 1)
        for d in compare(f"gradInput[{k}]" if several else "gradInput", a.reshape(e.shape), e, tolerance)
    ]
