"""Random nets of layers, containers, graphs and recurrent modules compute what Torch7 computes.

Each net is made, used and saved by Torch7 and checked three times: loaded; converted to ``.pt`` and loaded; written to
``.t7`` again and run by Torch7. The variables are those of ``test_random.py``, and ``DPNN_RANDOM_NETS=500`` makes more.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from explained import repeated_weight_norms, restored_inputs
from hypothesis import Phase
from instances import Instance
from nets import composed
from test_random import FAILURES, QUIET, SEED
from torch7 import differences, run, save

import dpnn_bridge
from dpnn_bridge import parity
from dpnn_bridge.compare.differences import Difference, compare
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.objects import LuaTable

COUNT = int(os.environ.get("DPNN_RANDOM_NETS") or 20)
#: nets that Hypothesis draws from one seed: it varies what it drew before
FAMILY = 10


def drawn(count: int) -> list[Instance]:
    """Different nets."""
    found: dict[str, Instance] = {}
    family = 0
    while len(found) < count:

        @hypothesis.seed(f"{SEED} {family}")
        @hypothesis.settings(max_examples=FAMILY, phases=[Phase.generate], **QUIET)
        @hypothesis.given(composed())
        def collect(case: Instance) -> None:
            found.setdefault(repr(case), case)

        collect()
        family += 1
    return list(found.values())[:count]


def messages(differences: Iterable[Difference], fixture: LuaTable) -> list[str]:
    """What differs, but for calls that Torch7 refuses: those that work here are no difference in numbers."""
    found = [d for d in differences if not d.message.startswith("Torch7 refused")]
    known: set[str] = set()
    if any(d.name.startswith("gradParams[") for d in found):
        known = repeated_weight_norms(fixture) | restored_inputs(fixture)
    return [f"{d.name}: {d.message}" for d in found if d.name not in known]


def through_pt(fixture: Any, folder: Path) -> list[str]:
    """What differs in the converted file."""
    dpnn_bridge.write_t7(folder / "net.t7", fixture["module"], force=True)
    dpnn_bridge.convert(folder / "net.t7", folder / "net.pt", force=True)
    result = parity.check_module(dpnn_bridge.load(folder / "net.pt"), fixture)
    return [f".pt: {message}" for message in messages(result.failures, fixture)]


def written_back(case: Instance, fixture: Any) -> Instance:
    """The same net, but written by this package."""
    module = dpnn_bridge.to_lua(dpnn_bridge.to_torch(fixture["module"]))
    return Instance("", case.input, None, case.dtype, case.mode, seed=case.seed, module=module)


def in_torch7(first: LuaTable, second: LuaTable) -> list[str]:
    """What Torch7 computes otherwise with the net that was written back.

    In evaluation outputs only: backward of recurrent modules works there on buffers of another call.
    """
    if "refused" in second:
        return [f"Torch7 refuses what was written: {second['refused']}"]
    names = [
        n for n in ("output", "gradInput", "gradParams") if n in first and (first["mode"] == "train" or n == "output")
    ]
    found = [d for name in names for d in compare(name, to_value(second.get(name)), to_value(first[name]))]
    return [f"written back: {d.name}: {d.message}" for d in found if not d.ok]


@pytest.mark.torch7
def test_random_nets_compute_what_torch7_computes(tmp_path: Path, record_property: Any) -> None:
    cases = drawn(COUNT)
    made = [(case, fixture) for case, fixture in zip(cases, run(cases), strict=True) if "refused" not in fixture]
    again = run([written_back(case, fixture) for case, fixture in made])
    counts = Counter(refused=COUNT - len(made))
    wrong = []
    for (case, fixture), second in zip(made, again, strict=True):
        found = messages(differences(fixture), fixture) or [*through_pt(fixture, tmp_path), *in_torch7(fixture, second)]
        counts["different" if found else "equal"] += 1
        if found:
            wrong.append((len(case.lua), case, fixture, found))
    for outcome, count in counts.items():
        record_property(outcome, count)
    assert counts["refused"] < COUNT / 4
    if wrong:
        _, case, fixture, found = min(wrong, key=lambda entry: entry[0])
        path = save(FAILURES, fixture, "net")
        pytest.fail(
            f"{len(wrong)} of {COUNT} nets differ (DPNN_RANDOM_SEED={SEED}); {case}: {found[:3]}; kept as {path}"
        )
