"""One run of a model against a reference, every result placed with its layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge import training
from dpnn_bridge.compare import nested
from dpnn_bridge.compare.differences import Difference, Tolerance, compare, errors, scale_of
from dpnn_bridge.conversion import fields, registry
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.conversion.options import Options
from dpnn_bridge.objects import LuaObject, LuaTable
from dpnn_bridge.parity.fixture import check_module
from dpnn_bridge.parity.layers import Calls, Node, decades, is_filled, is_restored, object_of, recorded, storages
from dpnn_bridge.parity.verification import Layer, Verification


class _Run:
    """One run of the model on the reference's input."""

    def __init__(
        self,
        module: nn.Module,
        nodes: list[Node],
        table: LuaTable,
        tolerance: Tolerance,
        gradient_tolerance: Tolerance,
        dtype: torch.dtype | None,
        mark: Callable[[list[Difference]], None],
    ) -> None:
        self.module, self.nodes, self.table, self.dtype, self.mark = module, nodes, table, dtype, mark
        single = dtype not in (None, torch.float64) or any(p.dtype != torch.float64 for p in module.parameters())
        self.tolerance = tolerance.in_single() if single else tolerance
        self.gradient_tolerance = gradient_tolerance.in_single() if single else gradient_tolerance
        self.histogram: Counter[int] = Counter()

    def compare(self, result: Verification, obj: LuaObject | None, options: Options, gradients: bool) -> None:
        """Runs, and adds all comparisons to ``result``."""
        after = self._results(obj, result)
        backward = gradients and ("gradInput" in self.table or "gradParams" in self.table)
        with recorded(self.module, gradients=backward and after is not None) as calls:
            checked = check_module(
                self.module,
                self.table,
                device=result.device,
                dtype=self.dtype,
                tolerance=self.tolerance,
                gradient_tolerance=self.gradient_tolerance,
                gradients=gradients,
                options=options,
            )
        result.whole = checked.differences
        self.mark(result.whole)
        for layer, node in zip(result.layers, self.nodes, strict=True):
            layer.order = calls[id(node.module)].last if id(node.module) in calls else 0
        results = ("output", "gradInput", "forward", "backward")
        result.layers[0].differences += [d for d in result.whole if d.name.startswith(results)]
        if id(self.module) in calls and calls[id(self.module)].outputs:
            self._count(calls[id(self.module)].outputs[-1], to_value(self.table.get("output")), self.tolerance)
        if after is not None:
            objects = object_of(self.nodes, after)
            self._compare_layers(result, calls, objects, "output", self.tolerance)
            if backward:
                self._compare_layers(result, calls, objects, "gradInput", self.gradient_tolerance)
        self._place(result)
        result.histogram = dict(sorted(self.histogram.items()))

    def _results(self, obj: LuaObject | None, result: Verification) -> LuaObject | None:
        """The Lua object whose modules hold the results of this very call."""
        after = self.table.get("after")
        if isinstance(after, LuaObject):
            return after
        expected = self.table.get("output")
        if obj is None or len(self.nodes) == 1:
            return None
        if not is_filled(obj.get("output")):
            result.notes.append(
                "The reference holds the results of the whole model only. For those of each layer, save the module "
                "after its forward (without clearState) as the field `after` of the reference."
            )
            return None
        stored = compare("output", to_value(obj["output"]), to_value(expected), self.tolerance)
        if all(d.ok for d in stored):
            return obj
        result.notes.append(
            "The results that Torch7 left in the model file belong to another input; they are not used."
        )
        return None

    def _compare_layers(
        self,
        result: Verification,
        calls: dict[int, Calls],
        objects: dict[int, LuaObject],
        name: str,
        tolerance: Tolerance,
    ) -> None:
        """The results of every layer against the field ``name`` of its Lua object."""
        ran = [pair for pair in zip(result.layers, self.nodes, strict=True) if pair[0].order]
        ran.sort(key=lambda pair: pair[0].order, reverse=name == "gradInput")
        last_user: dict[int, Layer] = {}
        for layer, node in ran:
            if id(node.module) in objects:
                last_user.update(dict.fromkeys(storages(objects[id(node.module)].get(name)), layer))
        agree = all(d.ok and not d.known for d in result.whole if d.name.startswith(name[:4]))
        for layer, node in zip(result.layers[1:], self.nodes[1:], strict=True):
            obj, entry = objects.get(id(node.module)), calls.get(id(node.module))
            values = [] if entry is None else entry.outputs if name == "output" else entry.grad_inputs
            if not values or obj is None or not is_filled(obj.get(name)) or is_restored(obj):
                nothing = "Torch7 kept no result here" if values else "does not run as a module of its own"
                layer.note = layer.note or (nothing if name == "output" else "")
                continue
            expected = to_value(obj[name])
            found = self._compare_result(name, values[-1], expected, tolerance)
            if not all(d.ok for d in found):
                users = {u.path: u for s in storages(obj[name]) if (u := last_user.get(s)) is not None}
                others = [path or "the model" for path, user in users.items() if user is not layer]
                reason = ""
                if others:
                    reason = "Torch7 reused the buffer in " + ", ".join(others)
                elif len(values) > 1:
                    reason = f"ran {len(values)} times, Torch7 keeps one result"
                elif agree and (name == "gradInput" or any(d.mismatched for d in found)):
                    reason = "is computed in another way here; that of the model agrees"
                if reason:
                    layer.note = layer.note or f"{name}: {reason}"
                    continue
            self.mark(found)
            layer.differences += found
            self._count(values[-1], expected, tolerance)

    @staticmethod
    def _compare_result(name: str, actual: Any, expected: Any, tolerance: Tolerance) -> list[Difference]:
        if name == "output":
            return compare(name, actual, expected, tolerance)
        pairs = list(zip(nested.leaves(actual), nested.leaves(expected), strict=False))
        found = [(a, e) for a, e in pairs if isinstance(a, Tensor) and isinstance(e, Tensor) and a.numel() == e.numel()]
        return [d for a, e in found for d in compare(name, a.reshape(e.shape), e, tolerance)]

    def _place(self, result: Verification) -> None:
        """Gives every parameter, gradient and buffer of ``result.whole`` to the layer that owns it."""
        by_id = {id(node.module): layer for node, layer in zip(self.nodes, result.layers, strict=True)}
        owners = list(registry.parameters(self.module))
        for prefix in ("params[", "gradParams["):
            found = [d for d in result.whole if d.name.startswith(prefix)]
            for (owner, name, spec), difference in zip(
                owners, found if len(found) == len(owners) else [], strict=False
            ):
                field = name if prefix == "params[" else fields.grad_field(name, spec)
                _give(by_id.get(id(owner)), difference, field)
        modules = {name: id(m) for name, m in self.module.named_modules()}
        for difference in result.whole:
            if difference.name.startswith("after."):
                name, _, leaf = difference.name.removeprefix("after.").rpartition(".")
                _give(by_id.get(modules.get(name, 0)), difference, leaf)
        if any(d.name.startswith("grad") for d in result.whole) and self.table.get("gradParams") is not None:
            scale = self.table.get("scale")
            grads = [g if scale is None else g * scale for g in training.parameters(self.module)[1]]
            self._count(grads, to_value(self.table["gradParams"]), self.gradient_tolerance)

    def _count(self, actual: Any, expected: Any, tolerance: Tolerance) -> None:
        """Adds the relative differences of a nested value to the histogram."""
        for a, e in zip(nested.leaves(actual), nested.leaves(expected), strict=False):
            if isinstance(a, Tensor) and isinstance(e, Tensor) and a.numel() == e.numel() > 0:
                a, e = a.detach().to("cpu", torch.float64).reshape(e.shape), e.to("cpu", torch.float64)
                self.histogram.update(decades(errors(a, e) / scale_of(e, tolerance)))


def _give(layer: Layer | None, difference: Difference, field: str) -> None:
    """Puts a comparison of the whole model to its layer, under the name of the Lua field."""
    if layer is not None:
        difference.name = f"{layer.path}.{field}" if layer.path else field
        layer.differences.append(difference)
