"""A real Torch7 loads what we write and runs it: the same values as the file it came from, whatever was done to it.

``DPNN_TORCH7=/path/to/th`` names the program; ``DPNN_TORCH7_2015`` and ``DPNN_TORCH7_2016`` name stacks of those years,
for the fixtures that they made.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pytest
import torch
from conftest import FIXTURES, manifest

import dpnn_bridge
from dpnn_bridge import training
from dpnn_bridge.compare import nested
from dpnn_bridge.compare.differences import Tolerance, compare
from dpnn_bridge.conversion import to_torch
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.memory import forget
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor
from dpnn_bridge.parity.fixture import random_numbers
from dpnn_bridge.parity.gradients import zero_grad
from dpnn_bridge.parity.torch7_jobs import STEPS, class_names, job, run_jobs
from dpnn_bridge.training.lua_parameters import all_parameters

PROGRAMS = {None: "DPNN_TORCH7", "head": "DPNN_TORCH7", "2015": "DPNN_TORCH7_2015", "2016": "DPNN_TORCH7_2016"}
TYPES = {"double": ("torch.DoubleTensor", torch.float64), "float": ("torch.FloatTensor", torch.float32)}
RATE = 0.1
#: what Torch7 does to the original before it is compared with a module that made a step in PyTorch
BEFORE = ("garbage", "load", "cast", "forward", "zeroGradParameters", "backward", "step", "zeroGradParameters")
CASTS, READ, ANY = "double,float", "as read,ascii,pt,double,float", "as read,ascii,pt,double,float,step"


class Explained(NamedTuple):
    """A difference that Torch7 makes itself, which the test has it show.

    Attributes:
        name: pattern of the fixtures' names.
        hows: ways of writing.
        steps: what differs.
        shown: how Torch7 shows it. ``"raises"``: it cannot do this with its own module, and says ``detail``, a pattern;
            ``"undefined"``: its own module gives other values when other garbage is in memory; ``"unsteady"``: its own
            module gives two values for one input; else a step of the job, after which its own module agrees.
        detail: the message; the step behind which the other one is put.
        reason: in words.
    """

    name: str
    hows: str
    steps: str
    shown: str
    detail: str
    reason: str


_NOT_FLAT = "forward params backward gradParams again clone type"
_ALL = f"{_NOT_FLAT} getParameters"
EXPLAINED = [
    Explained(
        r"LSTM__(x|h0_x|c0_h0_x|remember|remember_cleared)__.*",
        CASTS,
        "cast",
        "raises",
        "bad argument #1 to 'pairs'",
        "rnn cannot cast what torch-rnn's LSTM is",
    ),
    Explained(
        r"Sequential__pushpull3?__.*",
        CASTS,
        "cast",
        "raises",
        "stack overflow",
        "dpnn, loaded by then, sets the serial modes of a PushTable and its PullTables in turn without end",
    ),
    Explained(r"SpatialFovea__.*", CASTS, "cast", "raises", "SpatialFovea.lua:339", "nnx casts what it has not made"),
    Explained(
        r"(Spatial|Volumetric)MaxUnpooling__.*",
        CASTS,
        "forward backward again clone getParameters",
        "raises",
        "cannot convert",
        "nn casts the indices, which have to stay integers",
    ),
    Explained(
        r"2016_SeqBRNN__used__.*",
        CASTS,
        "forward backward gradParams again clone getParameters type",
        "raises",
        "SeqReverseSequence.lua",
        "rnn casts the indices, which have to stay integers",
    ),
    Explained(
        r"(2016_)?(Sequencer|BiSequencer)__(used|mlp_used|recurrence_used)_eval__.*",
        READ,
        "backward gradParams getParameters",
        "anew",
        "load",
        "backward in evaluation reads what the clones of the last training held; they are not written",
    ),
    Explained(
        r"Sequencer__lstm_eval_backward__.*",
        "step",
        "backward gradParams getParameters",
        "anew",
        "step",
        "the same, after the run before the step",
    ),
    Explained(
        r"(2016_)?BiSequencerLM__used__.*",
        ANY,
        "backward",
        "anew",
        "load",
        "a longer sequence than before overwrites its own gradients; their table is not written",
    ),
    Explained(
        r"(2016_)?Serial__.*light__.*",
        READ,
        "backward gradParams getParameters again clone type forward",
        "raises",
        "too many indices|invalid arguments|Torch object, table, thread",
        "a light file holds no gradients, and Torch7 cannot train it; ours are zeros",
    ),
    Explained(r"Balance__eval.*", ANY, "backward", "undefined", "", "evaluation makes no sums for backward"),
    Explained(r"DistMarginCriterion__batch.*", ANY, "backward", "undefined", "", "its gradient is not set everywhere"),
    Explained(r"SparseLinear__legacy3d.*", ANY, "backward", "undefined", "", "its gradient is never set"),
    Explained(r"SpatialColorTransform__.*", ANY, "getParameters", "undefined", "", "its gradients are never set"),
    Explained(
        r"SpatialContrastiveNormalization__threshold.*",
        ANY,
        "getParameters",
        "undefined",
        "",
        "the gradients of the convolutions inside are never set",
    ),
    Explained(
        r"(Linear)?WeightNorm__.*_eval",
        "step",
        "getParameters",
        "modes|undefined",
        "assign",
        "evaluation keeps the weight it made, whose gradient nothing sets",
    ),
    Explained(
        r"(Linear)?WeightNorm__.*_eval", "step", _NOT_FLAT, "modes", "assign", "evaluation keeps the weight it made"
    ),
    Explained(
        r"2016\.NCEModule\.train_Zauto\.train\..*",
        "step",
        "forward backward gradParams again clone getParameters type",
        "normaliser",
        "assign",
        "the first forward makes Z from the samples that it draws; ours were those of the fixture",
    ),
    Explained(
        r"TemporalRowConvolution__single_stride.*", "step", _ALL, "unsteady", "", "it depends on what its buffers held"
    ),
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
    """What Torch7 does in :data:`BEFORE`, in PyTorch, with Torch7's gradients: ours are compared elsewhere."""
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
    given = to_value(fixture.get("gradParams"))
    entries = list(all_parameters(module))
    shapes = [entry.read().shape for entry in entries]
    if entries and isinstance(given, list) and [getattr(g, "shape", None) for g in given] == shapes:
        zero_grad(module)
        with torch.no_grad():
            for entry, gradient in zip(entries, given, strict=True):
                before = entry.read_gradient() if entry.repeats else 0
                entry.write_gradient(before + gradient)
    with torch.no_grad():
        training.update_parameters(module, RATE)
    zero_grad(module)
    forget(module)


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
        expected, got = original.get(name, LuaTable()), ours.get(name, LuaTable())
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


class Case:
    """A fixture, its module as it was written, and the runs of both in Torch7."""

    def __init__(self, entry: dict[str, Any], how: str, folder: Path) -> None:
        self.entry, self.how = entry, how
        self.fixture = dpnn_bridge.read_t7(FIXTURES / entry["file"])
        self.values = run_values(self.fixture)
        self.file = folder / entry["file"].replace("/", "_")  # fixtures of several packages may have one name
        can_run = isinstance(self.fixture.get("module"), LuaObject) and "input" in self.values
        self.applies = can_run and written(entry, how, self.fixture, self.values, self.file)

    def original(self, *, treatment: str = "", after: str = "load", ours: LuaTable, garbage: int = 1000) -> LuaTable:
        """The job for the file that Torch7 wrote, with one more step behind another.

        After a step the module gets our parameters: how Torch7 makes them is compared elsewhere, and some modules draw
        samples or step what is no parameter here.
        """
        steps: list[str] = [*BEFORE, *STEPS[2:]] if self.how == "step" else ["garbage", *STEPS]
        if self.how == "step":
            steps.insert(steps.index("step") + 1, "assign")
        if treatment:
            steps.insert(steps.index(after) + 1, treatment)
        given = {"keys": LuaTable.from_list(["module"]), "type": self.kind, "rate": RATE, "garbage": garbage}
        params = ours.get("given", LuaTable()).get("value")
        classes = class_names(self.fixture)
        given |= {"params": params, "other": str(self.file)}
        return job(FIXTURES / self.entry["file"], classes, steps, **given, **self.values)

    def ours(self) -> LuaTable:
        """The job for the file that we wrote."""
        steps = ["garbage", "load", "given", *(name for name in STEPS[1:] if name != "cast" or not self.kind)]
        given = {"type": self.kind, "ascii": self.how == "ascii", "garbage": 2000}
        return job(self.file, class_names(self.fixture["module"]), steps, **given, **self.values)

    @property
    def kind(self) -> str | None:
        return TYPES[self.how][0] if self.how in TYPES else None

    def differences(self, original: LuaTable, ours: LuaTable) -> list[str]:
        tolerance = Tolerance(1e-9, 1e-4) if self.how == "step" else Tolerance(1e-12, 1e-6)
        single = self.entry.get("dtype") != "double" or self.how == "float"
        return problems(original, ours, tolerance.in_single() if single else tolerance)

    def unexplained(self, found: list[str], original: LuaTable, ours: LuaTable, program: str) -> list[str]:
        """Differences without an entry, and entries that Torch7 does not bear out."""
        for entry in EXPLAINED:
            if not re.fullmatch(entry.name, self.entry["name"]) or self.how not in entry.hows.split(","):
                continue
            own = [text for text in found if text.split(":")[0] in entry.steps.split()]
            ways = (entry._replace(shown=way) for way in entry.shown.split("|"))
            if own and not any(self._shown(way, own, original, ours, program) for way in ways):
                return [f"{text} (explained as: {entry.reason}, which Torch7 does not show)" for text in own]
            if not own and entry.shown != "undefined":
                return [f"{entry.steps}: no longer different; {entry.reason}"]
            found = [text for text in found if text not in own]
        return found

    def _shown(self, entry: Explained, found: list[str], original: LuaTable, ours: LuaTable, program: str) -> bool:
        steps = {text.split(":")[0] for text in found}
        if entry.shown == "raises":
            errors = {step: original[step]["error"] for step in STEPS if step in steps and "error" in original[step]}
            return bool(errors) and all(re.search(entry.detail, text) for text in errors.values())
        if entry.shown == "unsteady":
            return bool(self._differ(original["forward"]["value"], original["again"]["value"]))
        if entry.shown == "undefined":
            one, other = (self._filled(byte, ours, program) for byte in (0x3F, 0x40))
            return all(self._differ(one[step]["value"], other[step]["value"]) for step in steps)
        treated = run_jobs([self.original(treatment=entry.shown, after=entry.detail, ours=ours)], program=program)[0]
        return not any(text.split(":")[0] in entry.steps.split() for text in self.differences(treated, ours))

    def _filled(self, byte: int, ours: LuaTable, program: str) -> LuaTable:
        """The original where memory is full of this byte until it is set."""
        tunables = f"glibc.malloc.tcache_count=0:glibc.malloc.perturb={byte ^ 0xFF}"
        with mock.patch.dict(os.environ, GLIBC_TUNABLES=tunables):
            return run_jobs([self.original(ours=ours, garbage=byte * 100)], program=program)[0]

    def _differ(self, a: Any, b: Any) -> bool:
        return any(not d.ok for d in compare("", to_value(a), to_value(b), Tolerance(1e-12, 1e-6)))


def both(cases: list[Case], program: str) -> Iterator[tuple[Case, LuaTable, LuaTable]]:
    """Cases with what Torch7 makes of its own modules and of ours."""
    ours = run_jobs([case.ours() for case in cases], program=program)
    originals = run_jobs(
        [case.original(ours=result) for case, result in zip(cases, ours, strict=True)], program=program
    )
    return zip(cases, originals, ours, strict=True)


@pytest.mark.parametrize(("class_name", "variable"), groups())
@pytest.mark.parametrize("how", ["as read", "ascii", "pt", "double", "float", "step"])
def test_torch7_runs_what_we_write(class_name: str, variable: str, how: str, tmp_path: Path) -> None:
    program = os.environ.get(variable)
    if not program:
        pytest.skip(f"{variable} names no Torch7")
    cases = [Case(entry, how, tmp_path) for entry in groups()[class_name, variable]]
    cases = [case for case in cases if case.applies]
    if not cases:
        pytest.skip("nothing to run")
    failed, skipped = [], []
    for case, original, ours in both(cases, program):
        if original["load"].get("error", "").startswith("no class"):
            skipped.append(original["load"]["error"])
            continue
        found = case.unexplained(case.differences(original, ours), original, ours, program)
        failed += [f"{case.entry['name']}: {what}" for what in found]
    assert not failed, "\n".join(failed)
    if len(skipped) == len(cases):
        pytest.skip(skipped[0][:200])
