"""A module that Torch7 saved after use: what we write of it runs in Torch7 as the module itself does.

A field that says that a buffer is current (a size, a batch, a flag) must go when the buffer goes: ``LuaClass.resets``.
"""

from __future__ import annotations

import os
import re
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from conftest import FIXTURES
from test_torch7 import groups, problems, run_values
from torch import Tensor

import dpnn_bridge
from dpnn_bridge.compare import nested
from dpnn_bridge.compare.differences import Tolerance, compare
from dpnn_bridge.conversion import to_torch
from dpnn_bridge.conversion.lua_values import lua_value, to_value
from dpnn_bridge.objects import LuaObject, LuaTable
from dpnn_bridge.parity.torch7_jobs import class_names, job, run_jobs

pytestmark = pytest.mark.torch7

STEPS = ("garbage", "load", "forward", "zeroGradParameters", "backward", "again")
TOLERANCE = Tolerance(1e-9, 1e-4).in_single()
#: fixtures whose own module goes on with what no file says, and why
EXPLAINED = {
    r"LinearWeightNorm__.*_eval": "evaluation keeps the weight that it made, of weights that were changed since",
    r"Dropout__lazy_mono__double_train": "its noise is one row expanded, which nn divides once for each sample",
    r"SparseLinear__legacy3d.*": "its gradient is never set",
}

#: fixtures whose input has no larger one of this kind, and why
NO_LARGER = {
    r"IndexLinear__flat.*": "the sizes would add up to more than there are keys: Torch7 writes beyond its memory"
}


def with_one_more(value: Any) -> Any:
    """A Lua value whose tensors have one more sample."""

    def larger(tensor: Tensor) -> Tensor:
        return torch.cat([tensor, tensor[-1:]]) if tensor.dim() else tensor

    return lua_value(nested.map_tensors(larger, to_value(value)))


def values_of(fixture: LuaTable, larger: bool) -> dict[str, Any]:
    values = {k: v for k, v in run_values(fixture).items() if k != "gradOutput"}
    if larger:
        values |= {k: with_one_more(v) for k, v in values.items() if k in ("input", "target", "reward")}
    return values


def defined(original: LuaTable, run: Any, program: str) -> set[str]:
    """The steps in which Torch7's own module gives one value, whatever is in memory and however often it runs."""

    def value(result: LuaTable, step: str) -> Any:
        return to_value(result.get(step, LuaTable()).get("value"))

    def same(a: Any, b: Any) -> bool:
        return all(d.ok for d in compare("", a, b, TOLERANCE))

    runs = []
    for byte in (0x3F, 0x40):
        tunables = f"glibc.malloc.tcache_count=0:glibc.malloc.perturb={byte ^ 0xFF}"
        with mock.patch.dict(os.environ, GLIBC_TUNABLES=tunables):
            runs.append(run_jobs([run(garbage=byte * 100)], program=program)[0])
    steady = same(value(original, "forward"), value(original, "again")) or "seed" not in run.keywords
    if "error" in original["load"] or not steady:
        return set()
    return {step for step in STEPS if same(value(runs[0], step), value(runs[1], step))}


@pytest.mark.parametrize("larger", [False, True], ids=["same", "larger"])
@pytest.mark.parametrize(("class_name", "variable"), groups())
def test_what_was_used_runs_on(class_name: str, variable: str, larger: bool, tmp_path: Path) -> None:
    program = os.environ.get(variable)
    if not program:
        pytest.skip(f"{variable} names no Torch7")
    originals, ours, names = [], [], []
    for entry in groups()[class_name, variable]:
        fixture = dpnn_bridge.read_t7(FIXTURES / entry["file"])
        after = fixture.get("after")
        if not isinstance(after, LuaObject) or "input" not in fixture:
            continue
        if larger and any(re.fullmatch(p, entry["name"]) for p in NO_LARGER):
            continue
        file = tmp_path / entry["file"].replace("/", "_")
        dpnn_bridge.write_t7(file, to_torch(after))
        values, classes = values_of(fixture, larger), class_names(fixture)
        keys = LuaTable.from_list(["after"])
        originals.append(partial(job, FIXTURES / entry["file"], classes, STEPS, keys=keys, **values))
        ours.append(job(file, classes, STEPS, garbage=2000, **values))
        names.append(entry["name"])
    if not names:
        pytest.skip("no fixture holds a module after use")
    failed = []
    results = run_jobs([run(garbage=1000) for run in originals], program=program)
    for name, run, original, found in zip(names, originals, results, run_jobs(ours, program=program), strict=True):
        if original["load"].get("error", "").startswith("no class") or any(re.fullmatch(p, name) for p in EXPLAINED):
            continue
        different = problems(original, found, TOLERANCE)
        steps = defined(original, run, program) if different else set()
        failed += [f"{name}: {what}" for what in different if what.split(":")[0] in steps]
    assert not failed, "\n".join(failed)
