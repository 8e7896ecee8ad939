"""A real Torch7 loads what we write and runs it: the same values as the file it came from, whatever was done to it.

``DPNN_TORCH7=/path/to/th`` names the program; ``DPNN_TORCH7_2015`` and ``DPNN_TORCH7_2016`` name stacks of those years,
for the fixtures that they made.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FIXTURES, manifest

import dpnn_bridge
from dpnn_bridge import training
from dpnn_bridge.compare import nested
from dpnn_bridge.compare.differences import Tolerance, compare
from dpnn_bridge.conversion import to_torch
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor
from dpnn_bridge.parity.fixture import random_numbers
from dpnn_bridge.parity.gradients import zero_grad
from dpnn_bridge.parity.torch7_judge import STEPS, class_names, job, judge

PROGRAMS = {None: "DPNN_TORCH7", "head": "DPNN_TORCH7", "2015": "DPNN_TORCH7_2015", "2016": "DPNN_TORCH7_2016"}
TYPES = {"double": ("torch.DoubleTensor", torch.float64), "float": ("torch.FloatTensor", torch.float32)}
RATE = 0.1
#: what Torch7 does to the original before it is compared with a module that made a step in PyTorch
BEFORE = ("load", "cast", "forward", "zeroGradParameters", "backward", "step")
#: fixtures that differ: pattern of the name, ways of writing (all where empty), reason
EXPLAINED = [
    (r"WeightNorm.*_eval", "double step", "Torch7 keeps the weight of evaluation mode until the next call in training"),
    (r"siamese|shared_module_twice", "step", "updateParameters steps a shared weight once for each place that has it"),
    (r"SoftMaxTree|SoftMaxForest", "step", "parameters() lists the nodes of the last call"),
    (r"IndexLinear|Dictionary|SparseLinear", "step", "gradients list the rows of the last call alone"),
    (r"PartialLinear|SpatialClassifier|TemporalRow", "step", "open: not looked into"),
    (r"SpatialDepthWise", "step", "Torch7 leaves its weight in another shape after a call"),
    (r"eval_backward", "step", "gradients of recurrent modules in evaluation: Torch7 overwrites what backward needs"),
    (r"used", "", "a module in the middle of a sequence begins anew: its clones of steps are not written"),
    (r"light", "", "nn.Serial without results writes gradients of another shape, with which Torch7 raises"),
    (r"SpatialColorTransform|SparseLinear__legacy3d", "", "gradients are memory that nothing ever set"),
]

pytestmark = pytest.mark.torch7


def groups() -> dict[tuple[str, str], list[dict[str, Any]]]:
    """The fixtures of each class and stack of Torch7: one process runs them all."""
    found = defaultdict(list)
    for entry in manifest(kind=("module", "criterion", "sequence")):
        found[entry["class"], PROGRAMS[entry.get("tree")]].append(entry)
    return dict(sorted(found.items()))


def run_values(fixture: LuaTable) -> dict[str, Any]:
    """What a fixture runs on; of a recorded trace the first input and gradient."""
    names = ("input", "target", "gradOutput", "reward", "scale", "forwards", "seed")
    values = {name: fixture[name] for name in names if fixture.get(name) is not None}
    hooks = fixture.get("hooks")
    if isinstance(hooks, LuaTable) and hooks.get("fwd") == "twice":
        values["forwards"] = 2
    for call in fixture["calls"].as_list() if "calls" in fixture else ():
        if call["op"] in ("forward", "updateOutput", "backward") and not call.get("on") and not call.get("at"):
            for name in ("input", "target", "gradOutput"):
                if call.get(name) is not None:
                    values.setdefault(name, call[name])
    return {"seed": 123, **values}


def step(module: torch.nn.Module, fixture: LuaTable, values: dict[str, Any]) -> None:
    """What Torch7 does in :data:`BEFORE`, in PyTorch."""
    inputs = nested.require_grad(to_value(values["input"]))
    with random_numbers(module, fixture):
        for _ in range(int(values.get("forwards", 1))):
            output = module(inputs)
    if "reward" in values:
        training.reinforce(module, to_value(values["reward"]))
    zero_grad(module)
    nested.backward(output, to_value(values["gradOutput"]))
    for parameter in module.parameters():
        if parameter.grad is not None:
            parameter.grad *= values.get("scale", 1)
    with torch.no_grad():
        training.update_parameters(module, RATE)


def written(entry: dict[str, Any], how: str, fixture: LuaTable, values: dict[str, Any], file: Path) -> bool:
    """Writes what the fixture's module became; False where ``how`` does not apply."""
    options = {}
    if how in TYPES:
        module = dpnn_bridge.load(FIXTURES / entry["file"], key="module", dtype=TYPES[how][1])
    else:
        module = to_torch(fixture["module"])
    if how == "pt":
        dpnn_bridge.save(file.with_suffix(".pt"), module)
        module = dpnn_bridge.load(file.with_suffix(".pt"))
    elif how == "ascii":
        options["mode"] = "ascii"
    elif how == "step":
        refused = any(fixture.get(k) is not None for k in ("forward_error", "backward_error", "backwardError"))
        if entry["kind"] != "module" or refused or "gradOutput" not in values:
            return False
        step(module, fixture, values)
    dpnn_bridge.write_t7(file, module, **options)
    return True


def tensor_classes(value: Any) -> list[str]:
    if isinstance(value, LuaTensor):
        return [value.class_name]
    return [n for k in sorted(value, key=str) for n in tensor_classes(value[k])] if isinstance(value, LuaTable) else []


def problems(original: LuaTable, ours: LuaTable, tolerance: Tolerance) -> list[str]:
    """What Torch7 did with one and not with the other."""
    found = []
    for name in STEPS if "error" not in ours["load"] else ("load",):
        expected, got = original[name], ours.get(name, LuaTable())
        if "error" in expected or "error" in got:
            if "error" not in expected:
                found.append(f"{name}: raises {got['error']}")
            elif "error" not in got:
                found.append(f"{name}: does not raise {expected['error']}")
            continue
        wanted, value = expected.get("value"), got.get("value")
        if tensor_classes(wanted) != tensor_classes(value):
            found.append(f"{name}: {tensor_classes(value)} in place of {tensor_classes(wanted)}")
        failed = [d for d in compare(name, to_value(value), to_value(wanted), tolerance) if not d.ok]
        found += [f"{name}: {d.name}: {d.message}" for d in failed]
    return found


@pytest.mark.parametrize(("class_name", "variable"), groups())
@pytest.mark.parametrize("how", ["as read", "ascii", "pt", "double", "float", "step"])
def test_torch7_runs_what_we_write(class_name: str, variable: str, how: str, tmp_path: Path) -> None:
    program = os.environ.get(variable)
    if not program:
        pytest.skip(f"{variable} names no Torch7")
    jobs, cases = [], []
    for entry in groups()[class_name, variable]:
        fixture = dpnn_bridge.read_t7(FIXTURES / entry["file"])
        values = run_values(fixture)
        file = tmp_path / f"{len(cases)}.t7"
        if not isinstance(fixture.get("module"), LuaObject) or "input" not in values:
            continue
        if not written(entry, how, fixture, values, file):
            continue
        kind = TYPES[how][0] if how in TYPES else None
        steps = (*BEFORE, *STEPS[2:]) if how == "step" else STEPS
        key = LuaTable.from_list(["module"])
        original = FIXTURES / entry["file"]
        jobs.append(job(original, class_names(fixture), steps, keys=key, type=kind, rate=RATE, **values))
        steps = [name for name in STEPS if name != "cast"] if kind else STEPS
        jobs.append(job(file, class_names(fixture["module"]), steps, type=kind, ascii=how == "ascii", **values))
        cases.append(entry)
    if not cases:
        pytest.skip("nothing to run")
    results = judge(jobs, program=program)
    failed, skipped, opened = [], [], []
    for number, entry in enumerate(cases):
        original, ours = results[2 * number : 2 * number + 2]
        if "error" in original["load"]:
            skipped.append(original["load"]["error"])
            continue
        tolerance = Tolerance(1e-9, 1e-4) if how == "step" else Tolerance(1e-12, 1e-6)
        single = entry.get("dtype") != "double" or how == "float"
        reasons = [
            r for name, ways, r in EXPLAINED if re.search(name, entry["name"]) and how in (ways.split() or [how])
        ]
        if reasons:
            opened += [r for r in reasons if r.startswith("open")]
            continue
        found = problems(original, ours, tolerance.in_single() if single else tolerance)
        failed += [f"{entry['name']}: {what}" for what in found]
    assert not failed, "\n".join(failed)
    if opened:
        pytest.xfail(opened[0])
    if len(skipped) == len(cases):
        pytest.skip(skipped[0][:200])
