"""Define the result of a verification: all layers and all comparisons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from dpnn_bridge.base.display import counted
from dpnn_bridge.base.json_text import finite
from dpnn_bridge.base.notebook import table
from dpnn_bridge.compare.differences import Difference
from dpnn_bridge.compare.verdict import MARKS, Verdict, worst_verdict
from dpnn_bridge.parity.evidence import evidence_of


@dataclass
class Layer:
    """A module and its comparisons.

    Attributes:
        path: path of the module in Lua, such as ``modules[3]``; empty for the model itself.
        depth: number of modules around the module.
        class_name, torch_type: class of the module in Lua and in PyTorch.
        parameters: number of elements of its own parameters.
        differences: comparisons with Torch7: ``output``, ``gradInput``, ``gradWeight``, …
        converted: comparisons with the converted file.
        note: reason why the output was not compared, or empty.
        order: position of its last call in the order in which calls of all modules ended.
        overwritten_by: path of the layer that overwrote its output in Torch7's memory, so that it was not compared.
    """

    path: str
    depth: int
    class_name: str
    torch_type: str
    parameters: int
    differences: list[Difference] = field(default_factory=list)
    converted: list[Difference] = field(default_factory=list)
    note: str = ""
    order: int = 0
    overwritten_by: str | None = None

    @property
    def compared(self) -> list[Difference]:
        """All comparisons."""
        return [*self.differences, *self.converted]

    @property
    def ok(self) -> bool:
        return all(d.ok for d in self.compared)

    @property
    def verdict(self) -> Verdict | None:
        """The worst verdict of the comparisons; None if there are none."""
        return worst_verdict(d.verdict for d in self.compared)

    @property
    def forward_failures(self) -> list[Difference]:
        """Failed comparisons other than gradients: outputs, parameters and buffers."""
        return [d for d in self.compared if not d.ok and not d.is_gradient]

    @property
    def failure(self) -> Difference | None:
        """The failed comparison that reports show: the first forward failure, else the first failed gradient."""
        failed = [d for d in self.compared if not d.ok]
        return next(iter([*self.forward_failures, *failed]), None)

    @property
    def worst(self) -> Difference | None:
        """The comparison with the worst verdict, and among those with the largest error relative to its tolerance."""
        return worst(self.compared)


@dataclass(repr=False)
class Verification:
    """The result of :func:`verify`.

    Attributes:
        model, reference, converted: names of the model, the reference and the converted file; empty if not given.
        computed_by: program that computed the reference, from its provenance.
        key: path of the model inside its file.
        mode, device, dtype: mode, device and dtype of the run.
        layers: all layers, in the order of the file.
        whole: comparisons of the complete model: parameters, output, gradients, updated buffers.
        histogram: decade of the relative difference -> number of compared elements.
        notes: remarks, such as on results that were not compared.
        module: the model that ran.
    """

    model: str
    reference: str
    converted: str
    computed_by: str
    key: str
    mode: str
    device: str
    dtype: str
    layers: list[Layer] = field(default_factory=list)
    whole: list[Difference] = field(default_factory=list)
    histogram: dict[int, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    module: nn.Module | None = field(default=None, repr=False, compare=False)

    @property
    def differences(self) -> list[Difference]:
        """All comparisons; a comparison that is in ``whole`` and in a layer counts once."""
        of_model = {id(d) for d in self.whole}
        inner = [d for layer in self.layers for d in [*layer.differences, *layer.converted] if id(d) not in of_model]
        return [*self.whole, *inner]

    @property
    def without_layer(self) -> list[Difference]:
        """Comparisons of the complete model that do not belong to a layer."""
        assigned = {id(d) for layer in self.layers for d in layer.differences}
        return [d for d in self.whole if id(d) not in assigned]

    @property
    def ok(self) -> bool:
        """Whether no comparison failed; True if nothing was compared, see :attr:`verdict`."""
        return all(d.ok for d in self.differences)

    @property
    def forward(self) -> Verdict | None:
        """The worst verdict of outputs, parameters and buffers; None if nothing was compared."""
        return worst_verdict(d.verdict for d in self.differences if not d.is_gradient)

    @property
    def gradients(self) -> Verdict | None:
        """The worst verdict of gradients; None if nothing was compared."""
        return worst_verdict(d.verdict for d in self.differences if d.is_gradient)

    @property
    def verdict(self) -> Verdict | None:
        """The worst verdict of all comparisons; None if nothing was compared."""
        return worst_verdict(d.verdict for d in self.differences)

    @property
    def suspects(self) -> list[Layer]:
        """The first layer that deviates, after the layers whose results it overwrote in Torch7's memory."""
        first = self.first_deviating
        if first is None or not first.forward_failures:
            return [] if first is None else [first]
        return [*(layer for layer in self.layers if layer.overwritten_by == first.path and layer is not first), first]

    @property
    def first_deviating(self) -> Layer | None:
        """The first failing layer in the order of the forward pass; of the backward pass if only gradients fail.

        In the order of calls that end, a layer precedes the module that contains it.
        """
        failing = [layer for layer in self.layers if layer.forward_failures]
        if failing:
            return min(failing, key=lambda layer: layer.order)
        failing = [layer for layer in self.layers if not layer.ok]
        containers = {container for layer in failing for container in _containers(layer.path)}
        inner = [layer for layer in failing if layer.path not in containers]
        return max(inner, key=lambda layer: layer.order, default=None)

    @property
    def worst(self) -> Difference | None:
        """The comparison with the worst verdict and largest error, among those without an accepted reason."""
        return worst([d for d in self.differences if d.accepted is None])

    def __repr__(self) -> str:
        return f"Verification({self.model}: {summary(self)})"

    def _repr_html_(self) -> str:
        rows = []
        for layer in self.layers:
            w = layer.worst
            verdict = f"{MARKS[layer.verdict]} {layer.verdict.text if layer.verdict else ''}".strip()
            name = "\u2003" * layer.depth + (layer.path or "the model")
            error = (f"{w.error:.1e}", f"{w.tolerance:.0e}") if w else ("", layer.note)
            rows.append((verdict, name, layer.class_name, w.name if w else "", *error))
        columns = ("verdict", "layer in Lua", "class", "worst comparison", "#relative", "#allowed")
        return table(f"{self.model}: {summary(self)}", columns, rows, self.notes)

    def classes(self) -> list[dict[str, Any]]:
        """Return the Lua classes of the model: PyTorch class, number of modules, and how the class was tested."""
        counts = Counter((layer.class_name, layer.torch_type) for layer in self.layers)
        return [
            {"class_name": name, "torch_type": torch_type, "count": count, **evidence_of(name, torch_type)}
            for (name, torch_type), count in counts.most_common()
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain data for JSON; infinite errors become the string ``"inf"``."""
        data = {name: getattr(self, name) for name in ("model", "reference", "converted", "computed_by", "key")}
        data |= {"mode": self.mode, "device": self.device, "dtype": self.dtype, "ok": self.ok}
        data |= {"verdict": self.verdict, "forward": self.forward, "gradients": self.gradients}
        first = self.first_deviating
        data["first_deviating"] = first.path if first else None
        data["layers"] = [
            {**asdict(layer), "ok": layer.ok, "verdict": layer.verdict}
            | {k: [_plain(d) for d in getattr(layer, k)] for k in _LISTS}
            for layer in self.layers
        ]
        data["whole"] = [_plain(d) for d in self.whole]
        return data | {"classes": self.classes(), "histogram": self.histogram, "notes": self.notes}


def _containers(path: str) -> list[str]:
    """Return the paths of the modules that contain a module."""
    return [path[:i] for i, character in enumerate(path) if character == "."] + ([""] if path else [])


_LISTS = ("differences", "converted")


def worst(differences: Sequence[Difference]) -> Difference | None:
    """Return the comparison with the worst verdict, among those the one with the largest error per tolerance."""

    def badness(d: Difference) -> tuple[int, float]:
        return d.verdict.severity, d.error / d.tolerance if d.tolerance else d.error

    return max(differences, key=badness, default=None)


def _plain(difference: Difference) -> dict[str, Any]:
    data = {**asdict(difference), "ok": difference.ok, "verdict": difference.verdict}
    del data["accepted"]
    return finite(data)


def headline(result: Verification) -> str:
    """Describe the model, its run and its reference in one line."""
    parameters = [] if result.module is None else [*result.module.parameters()]  # shared ones once
    facts = [f"{sum(p.numel() for p in parameters):,} parameters", f"{result.mode} mode"]
    facts += [f for f in (result.dtype, result.device) if f]
    reference = f"{result.reference} (computed by {result.computed_by})" if result.computed_by else result.reference
    compared = " and ".join(filter(None, [reference, result.converted]))
    return f"{', '.join(facts)}" + (f"; compared with {compared}" if compared else "")


def verdicts(result: Verification) -> str:
    """Return both verdicts as text: ``forward equal, gradients rounding only``."""
    found = {"forward": result.forward, "gradients": result.gradients}
    return ", ".join(f"{name} {verdict.text}" for name, verdict in found.items() if verdict is not None)


def summary(result: Verification) -> str:
    """Return a summary in one line: the verdicts, and the first layer that deviates."""
    differences = result.differences
    if not differences:
        return "NOT COMPARED: there is no reference; the table shows how each class was tested"
    if result.ok:
        equal = [d for d in differences if d.verdict is Verdict.EQUAL]
        facts = [counted(len(differences), "comparison")]
        if equal:
            largest = max(d.error for d in equal)
            facts.append(f"largest relative difference {largest:.2g}" if largest else "all bit-identical")
        if len(equal) < len(differences):
            facts.append(f"{len(differences) - len(equal)} accepted")
        return f"PASS: {verdicts(result)} ({', '.join(facts)})"
    failed = [d for d in differences if not d.ok]
    count = f"FAIL: {verdicts(result)}; {len(failed)} of {len(differences)} comparisons"
    suspects = result.suspects
    if not suspects:
        return f"{count}; {failed[0].name}: {failed[0].message}"
    first = suspects[-1]
    found = first.failure or failed[0]
    names = " or ".join(f"{layer.path or 'the model'} ({layer.class_name})" for layer in suspects)
    return f"{count}; first layer that deviates: {names}, {what_differs(first, found)}: {found.message}"


def reasons(result: Verification) -> dict[tuple[Verdict, str], list[str]]:
    """Return ``(verdict, reason) -> names`` of the accepted differences."""
    found: dict[tuple[Verdict, str], list[Difference]] = {}
    for d in result.differences:
        if d.ok and d.verdict is not Verdict.EQUAL:
            found.setdefault((d.verdict, d.reason), []).append(d)
    layers = {id(d): layer for layer in result.layers for d in layer.compared}

    def name(d: Difference) -> str:
        layer = layers.get(id(d))
        return f"{layer.path}.{d.name}" if layer and layer.path and not d.name.startswith(layer.path) else d.name

    return {(verdict, f"{why}{_undetectable(each)}"): [name(d) for d in each] for (verdict, why), each in found.items()}


def _undetectable(differences: Sequence[Difference]) -> str:
    """Describe the largest error that rounding could hide; empty if it was not measured."""
    rounding = max(d.rounding for d in differences)
    if not rounding:
        return ""
    return f"; with this reference, an error of less than {rounding:.2g} cannot be detected"


def what_differs(layer: Layer, difference: Difference) -> str:
    """Return the name of a comparison of a layer without the path of the layer."""
    return difference.name.removeprefix(f"{layer.path}.") if layer.path else difference.name
