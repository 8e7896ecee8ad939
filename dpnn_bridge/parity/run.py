"""Compare a model with a reference: assign every comparison to its layer, and find the reasons of differences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import dpnn_bridge.training as training
from dpnn_bridge.base.display import listed
from dpnn_bridge.compare import nested
from dpnn_bridge.compare.differences import Difference, Tolerance, errors, scale_of
from dpnn_bridge.compare.limited import take_comparison, without_repeats
from dpnn_bridge.compare.verdict import Verdict
from dpnn_bridge.conversion import fields, registry
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.lua_values import to_expected
from dpnn_bridge.objects import LuaObject
from dpnn_bridge.parity.accepted import accept_as
from dpnn_bridge.parity.aliased import discard_aliased
from dpnn_bridge.parity.experiment import NO_RESULT, Experiment, Outcome
from dpnn_bridge.parity.faults import without_affected
from dpnn_bridge.parity.judge import judge, random_layers
from dpnn_bridge.parity.layers import decades, object_of
from dpnn_bridge.parity.named_layers import NamedLayers
from dpnn_bridge.parity.new_memory import UninitializedBuffers
from dpnn_bridge.parity.rounding import floor
from dpnn_bridge.parity.temporary_memory import discard_temporary
from dpnn_bridge.parity.verification import Layer, Verification

OTHER_INPUT = "The results that Torch7 stored in the model file belong to another call, so they are not used."
EARLIER_CALL = (
    "The results that Torch7 stored in the model file belong to an earlier call of a model that continues a sequence. "
    "A call on the same input returns other results, so they are not used."
)
WITHOUT_LAYERS = (
    "To compare every layer, save the module after its forward (without clearState) as the field `after` of the "
    "reference."
)
ON_TORCH7S_VALUES = (
    "A result differs. So each layer ran again on Torch7's results of the other layers: a layer that differs does not "
    "affect the comparisons of later layers."
)


def compare_with_reference(result: Verification, experiment: Experiment, outcome: Outcome) -> None:
    """Add all comparisons of a run to ``result``. If one fails, further runs find the layer and the reason.

    Args:
        result: the verification; its layers are in the order of the tree.
        experiment: the experiment.
        outcome: results of its run.
    """
    random: list[str] = []
    per_layer = outcome
    uninitialized = UninitializedBuffers(experiment)
    discard_temporary(experiment, outcome, result.notes)
    uninitialized.discard(outcome, result.notes)
    discard_aliased(experiment, outcome, result.notes)
    if outcome.rounding_candidates(floor(experiment)):
        random = random_layers(experiment)
        if experiment.after is not None and len(outcome.nodes) > 1:
            given = experiment.given(outcome)
            per_layer = experiment.run(given=given)
            discard_temporary(experiment, per_layer, [])
            uninitialized.discard(per_layer, [])
            discard_aliased(experiment, per_layer, [])
            _accept_repeated(outcome, per_layer)
            judge(experiment, per_layer, given, random)
            if any(d.error > d.tolerance for d in per_layer.by_key().values()):
                result.notes.append(ON_TORCH7S_VALUES)
        judge(experiment, outcome, None, random)
    whole = outcome.whole
    if per_layer is not outcome and any(not d.ok for d in per_layer.by_key().values()):
        # the other differences may be consequences
        whole = [d for d in whole if d.name.startswith(WHOLE) or d.name in UNASSIGNED]
    elif per_layer is not outcome:  # the layers contain the parameters of the second run
        whole = [d for d in whole if not d.name.startswith("params[")]
    result.whole += whole  # those of a converted file are before them
    for i, (layer, found) in enumerate(zip(result.layers, per_layer.layers, strict=True)):
        entry = outcome.entry(i)
        layer.order = entry.last if entry else 0
        layer.differences += found
        if i in per_layer.not_comparable and not any(d.name.startswith("output") for d in found):
            layer.note = per_layer.not_comparable[i]
        if i in per_layer.overwritten and layer.note:
            layer.overwritten_by = result.layers[per_layer.overwritten[i]].path
    if experiment.after is None and len(outcome.nodes) > 1 and OTHER_INPUT not in result.notes:
        result.notes.append(f"{_resolution(outcome, experiment)} {WITHOUT_LAYERS}")
    if per_layer.other_gradients:
        layers = [f"{result.layers[i].path} ({result.layers[i].class_name})" for i in per_layer.other_gradients]
        of_model = [d.verdict for d in outcome.whole if d.name.startswith("gradInput")]
        agrees = "but the model's gradInput agrees, so PyTorch may compute it in another way"
        text = "and so does the model's gradInput" if {Verdict.KNOWN, Verdict.DIFFERENT} & {*of_model} else agrees
        result.notes.append(f"Not compared: the stored gradInput of {listed(layers)}. It differs, {text}.")
    result.layers[0].differences += [d for d in outcome.whole if d.name.startswith(WHOLE)]
    _assign(result, per_layer)
    if experiment.after is not None:
        result.notes += _about_after(outcome, per_layer, experiment.after)
    result.histogram = dict(sorted(_histogram(outcome, experiment).items()))


def _about_after(outcome: Outcome, per_layer: Outcome, after: LuaObject) -> Iterator[str]:
    """Yield notes about layers that were not compared, because the module after the run lacks them or their results."""
    found = object_of(outcome.nodes, after)  # also of Torch7's clones, which are not layers
    missing, number = sum(id(node.module) not in found for node in outcome.nodes), len(outcome.nodes)
    if missing:
        yield f"{missing} of {number} layers were not found in the reference's `after`, so they were not compared."
    records = [(node, record_of(node.module), found.get(id(node.module))) for node in outcome.nodes]
    other = [
        f"{node.path or 'the model'} ({obj.class_name}, not {record.class_name})"
        for node, record, obj in records
        if record and obj and record.class_name.rpartition(".")[2] != obj.class_name.rpartition(".")[2]
    ]
    if other:
        yield f"The reference's `after` contains layers of other classes than the model: {listed(other)}."
    ran = {i for i, (_, _, obj) in enumerate(records) if i and obj is not None and outcome.entry(i) is not None}
    if ran and ran <= {i for i, reason in per_layer.not_comparable.items() if reason == NO_RESULT}:
        yield f"The reference's `after` contains no results of layers, as after clearState. {WITHOUT_LAYERS}"


def _accept_repeated(outcome: Outcome, per_layer: Outcome) -> None:
    """Accept differences of the second run that equal accepted differences of the first run.

    Args:
        outcome: the first run.
        per_layer: the second run: each layer on Torch7's results, for layers that have them.
    """
    before = outcome.by_key()
    for key, d in per_layer.by_key().items():
        known = before.get(key)
        if not d.ok and known and d.worst_element == known.worst_element:
            accept_as(d, known)


def _resolution(outcome: Outcome, experiment: Experiment) -> str:
    """Describe the smallest error that the output of the complete model can detect."""
    text = "The reference contains only the results of the complete model"
    outputs = [d for d in outcome.whole if d.name.startswith("output")]
    if not (experiment.measured and outputs):
        return f"{text}."
    detectable = max(max(d.rounding, floor(experiment)) for d in outputs)
    return (
        f"{text}, in single precision: an error that changes the output by less than {detectable:.2g} of its largest "
        "value cannot be detected."
    )


#: beginnings of the names of comparisons that belong to the complete model
WHOLE = ("output", "gradInput", "forward", "backward")
#: names of comparisons of lists with different lengths, whose elements cannot be assigned to layers
UNASSIGNED = ("params", "gradParams", "after")


def _assign(result: Verification, outcome: Outcome) -> None:
    """Assign every comparison of a parameter, gradient or buffer to the layer that owns it or contains its owner."""
    layers = NamedLayers(result, outcome.module, outcome.nodes)
    owners = list(registry.parameters(outcome.module))
    for prefix in ("params[", "gradParams["):
        found = [d for d in outcome.whole if d.name.startswith(prefix)]
        for (owner, name, spec), difference in zip(owners, found if len(found) == len(owners) else [], strict=False):
            field = name if prefix == "params[" else fields.grad_field(name, spec)
            _add(layers.of_module(owner), difference, field)
    for difference in outcome.whole:
        kind, _, path = difference.name.partition(".")
        if kind in ("after", "params"):
            name, _, leaf = path.rpartition(".")
            _add(layers.of(name), difference, leaf or kind)  # without a path: lists or keys that do not match


def _add(layer: Layer, difference: Difference, field: str) -> None:
    """Add a comparison to a layer, under the name of the Lua field."""
    difference.name = f"{layer.path}.{field}" if layer.path else field
    layer.differences.append(difference)


def _histogram(outcome: Outcome, experiment: Experiment) -> Counter[int]:
    """Return the number of result elements of the complete model, by the decade of their relative difference."""
    histogram: Counter[int] = Counter()
    table, entry = experiment.table, outcome.entry(0)
    if entry and entry.outputs:
        expected = without_affected(outcome.module, entry.outputs[-1], to_expected(table.get("output")))
        _count(histogram, entry.outputs[-1], expected, experiment.tolerance)
    if experiment.backward and entry and entry.grad_inputs and table.get("gradInput") is not None:
        expected = to_expected(table["gradInput"])
        _count(histogram, entry.grad_inputs[-1], expected, experiment.gradient_tolerance)
    if experiment.backward and table.get("gradParams") is not None:
        scale = table.get("scale")
        grads = [g if scale is None else g * scale for g in training.parameters(outcome.module)[1]]
        expected = to_expected(table["gradParams"])
        pairs = zip(grads, expected, strict=False) if isinstance(expected, list) else [(grads, expected)]
        for grad, gradient in pairs:
            _count(histogram, grad, gradient, experiment.gradient_tolerance)
    return histogram


def _count(histogram: Counter[int], actual: Any, expected: Any, tolerance: Tolerance) -> None:
    """Add the relative differences of a nested value to the histogram."""
    for a, e in zip(nested.leaves(actual), nested.leaves(expected), strict=False):
        if isinstance(a, Tensor) and isinstance(e, Tensor) and a.numel() == (total := e.numel()) > 0:
            a, e = without_repeats(a.detach().reshape(e.shape), e)
            repeats = total // e.numel()
            take_comparison(e)
            a, e = a.to("cpu", torch.float64), e.to("cpu", torch.float64)
            found = decades(errors(a, e) / scale_of(e, tolerance))
            histogram.update({decade: count * repeats for decade, count in found.items()})
