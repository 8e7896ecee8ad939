"""Detect references whose values were saved after a layer that computes in place had overwritten them."""

from __future__ import annotations

from collections.abc import Iterator

from dpnn_bridge.conversion.noise import paired
from dpnn_bridge.objects import LuaObject
from dpnn_bridge.parity.buffers import storages
from dpnn_bridge.parity.experiment import Experiment, Outcome
from dpnn_bridge.parity.in_place import is_restored


def discard_aliased(experiment: Experiment, outcome: Outcome, notes: list[str]) -> None:
    """Remove failed comparisons with reference values that Torch7 overwrote before they were saved.

    In a file that Torch7 wrote, values that shared memory still share it. Successful comparisons are kept: for example,
    ``nn.ReLU(true)`` overwrites its input, but computes the same output for the overwritten input.

    Args:
        experiment: the reference.
        outcome: the comparisons, which are changed.
        notes: notes of the report, to which the removed comparisons are added.
    """
    for field, (description, layer) in dict(_changed(experiment, outcome)).items():
        failed = [d for d in outcome.whole if not d.ok and d.name.startswith(_AFFECTED[field])]
        outcome.whole = [d for d in outcome.whole if not any(d is f for f in failed)]
        if any(not d.ok for d in outcome.layers[layer]):
            outcome.layers[layer] = [d for d in outcome.layers[layer] if d.ok]
            outcome.not_comparable[layer] = f"the reference's {field} was saved after this layer changed it"
        if failed:
            notes.append(
                f"Not compared: {', '.join(d.name for d in failed[:4])}{' …' if len(failed) > 4 else ''}. The "
                f"reference's {field} is the memory in which {description} computes in place, and was saved after this "
                "layer ran; save a copy (see docs/parity.md)."
            )


#: overwritten field of the reference -> beginnings of the names of the comparisons that it invalidates
_AFFECTED = {
    "input": ("output", "gradInput", "gradParams", "after."),
    "output": ("output",),
    "gradOutput": ("gradInput", "gradParams"),
}


def _changed(experiment: Experiment, outcome: Outcome) -> Iterator[tuple[str, tuple[str, int]]]:
    """Yield the reference values that a layer overwrote.

    Yields:
        Field of the reference, and a tuple of the layer's description and number.
    """
    table, after = experiment.table, experiment.after
    if not isinstance(after, LuaObject) or not isinstance(table.get("after"), LuaObject):
        return
    numbers = {id(node.module): i for i, node in enumerate(outcome.nodes)}
    for module, obj in paired(outcome.module, after):
        if not obj.get("inplace") or id(module) not in numbers:
            continue
        i = numbers[id(module)]
        description = f"{outcome.nodes[i].path or 'the model'} ({obj.class_name})"
        if storages(table.get("input")) & storages(obj.get("output")):
            yield "input", (description, i)
        if experiment.backward and is_restored(obj) and storages(table.get("output")) & storages(obj.get("output")):
            yield "output", (description, i)
        if experiment.backward and storages(table.get("gradOutput")) & storages(obj.get("gradInput")):
            yield "gradOutput", (description, i)
