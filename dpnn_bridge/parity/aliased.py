"""Detect references that were saved too late, after a layer that computes in place had changed the values."""

from __future__ import annotations

from collections.abc import Iterator

from dpnn_bridge.conversion.noise import paired
from dpnn_bridge.objects import LuaObject
from dpnn_bridge.parity.buffers import is_restored, storages
from dpnn_bridge.parity.experiment import Experiment, Outcome


def discard_aliased(experiment: Experiment, outcome: Outcome, notes: list[str]) -> None:
    """Take back the failed comparisons with values that Torch7 had changed before they were saved.

    In a file that Torch7 wrote, values that shared memory still do. Only failures are taken back: a layer such as
    ``nn.ReLU(true)`` changes its input in a way that does not matter.
    """
    for name, (field, place, layer) in dict(_changed(experiment, outcome)).items():
        failed = [d for d in outcome.whole if not d.ok and d.name.startswith(_AFFECTED[name])]
        outcome.whole = [d for d in outcome.whole if not any(d is f for f in failed)]
        if any(not d.ok for d in outcome.layers[layer]):
            outcome.layers[layer] = [d for d in outcome.layers[layer] if d.ok]
            outcome.not_comparable[layer] = f"the reference's {field} was saved after this layer changed it"
        if failed:
            notes.append(
                f"Not compared: {', '.join(d.name for d in failed[:4])}{' …' if len(failed) > 4 else ''}. The "
                f"reference's {field} is the memory in which {place} computes in place, and was saved after it "
                "changed; save a copy (see docs/parity.md)."
            )


#: wrong field of the reference -> the comparisons that it invalidates
_AFFECTED = {
    "input": ("output", "gradInput", "gradParams", "after."),
    "output": ("output",),
    "gradOutput": ("gradInput", "gradParams"),
}


def _changed(experiment: Experiment, outcome: Outcome) -> Iterator[tuple[str, tuple[str, str, int]]]:
    """Yield reference values in the memory of a layer that computes in place, and the layer."""
    table, after = experiment.table, experiment.after
    if not isinstance(after, LuaObject) or not isinstance(table.get("after"), LuaObject):
        return
    numbers = {id(node.module): i for i, node in enumerate(outcome.nodes)}
    for module, obj in paired(outcome.module, after):
        if not obj.get("inplace") or id(module) not in numbers:
            continue
        i = numbers[id(module)]
        place = f"{outcome.nodes[i].path or 'the model'} ({obj.class_name})"
        if storages(table.get("input")) & storages(obj.get("output")):
            yield "input", ("input", place, i)
        if experiment.backward and is_restored(obj) and storages(table.get("output")) & storages(obj.get("output")):
            yield "output", ("output", place, i)
        if experiment.backward and storages(table.get("gradOutput")) & storages(obj.get("gradInput")):
            yield "gradOutput", ("gradOutput", place, i)
