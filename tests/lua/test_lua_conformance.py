"""Small Lua cases whose results real Torch7 recorded, run on the bridge. See conformance/README.md."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("lupa")

from dpnn_bridge.lua import LuaBridge
from dpnn_bridge.lua.dispatch import FUNCTIONS

FOLDER = Path(__file__).parent / "conformance"
AREAS = sorted(p.stem for p in (FOLDER / "expected").glob("*.jsonl"))
#: folder with checkouts of torch/nn and others; without it nn's areas and suites cannot run
SOURCES = os.environ.get("DPNN_LUA_SOURCES") and os.path.abspath(os.environ["DPNN_LUA_SOURCES"])
#: what only LuaJIT has: C pointers, and the sign of a constant -0.0
LUAJIT_ONLY = ("shape/data/", "shape/cdata/", "print/zero")
#: classes have no __gc: Lua frees their objects like tables, which a finalizer would put off
NO_FINALIZERS = ["names missing: __gc"]


def _comparer():
    spec = importlib.util.spec_from_file_location("conformance_compare", FOLDER / "compare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


COMPARE = _comparer()


def _failures(area: str, out: Path, runtime: str) -> list[str]:
    bridge = LuaBridge(SOURCES or (), runtime=runtime)
    bridge.execute("CONF = ...", {"dir": str(FOLDER), "out": str(out), "files": [area], "t7": False})
    threads = torch.get_num_threads()
    try:
        bridge.run_file(FOLDER / "run.lua")
    finally:
        torch.set_num_threads(threads)  # one case sets them
    expected, actual = (COMPARE.load(folder / f"{area}.jsonl") for folder in (FOLDER / "expected", out))
    assert expected, area
    unrecorded = [f"{area}/{name}: no record; see conformance/README.md" for name in actual if name not in expected]
    return unrecorded + [
        f"{area}/{name}: {why}"
        for name, record in expected.items()
        for outcome, why in [COMPARE.compare(record, actual.get(name))]
        if outcome == "fail" and why != NO_FINALIZERS
    ]


@pytest.mark.parametrize("area", AREAS)
def test_every_case_of_an_area_is_as_torch7_recorded_it(area: str, tmp_path: Path) -> None:
    if area.startswith("nn_") and not SOURCES:
        pytest.skip("nn's layers in Lua: set DPNN_LUA_SOURCES to a folder with a checkout of torch/nn")
    assert _failures(area, tmp_path, "auto") == []


@pytest.mark.parametrize("area", ["class", "print", "random", "serial", "shape"])
def test_lua51_differs_only_where_it_has_no_c_pointers(area: str, tmp_path: Path) -> None:
    failures = _failures(area, tmp_path, "lua51")
    assert [f for f in failures if not f.startswith(LUAJIT_ONLY)] == []


def test_no_record_is_lost() -> None:
    records = [COMPARE.load(FOLDER / "expected" / f"{area}.jsonl") for area in AREAS]
    assert len(AREAS) >= 18
    assert sum(map(len, records)) >= 7631


def test_every_function_has_a_case_or_a_test() -> None:
    files = [*(FOLDER / "cases").glob("*.lua"), *FOLDER.parent.glob("test_*.py")]
    words = {word for file in files for word in re.findall(r"\w+", file.read_text(encoding="utf-8"))}
    missing = [name for name in FUNCTIONS if name.rstrip("_") not in words]
    assert missing == [], "add cases to tests/lua/conformance/cases, see README.md there"
