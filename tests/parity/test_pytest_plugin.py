"""pytest --t7-fixtures: every fixture file of a folder is one test."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import FIXTURES, KNOWN_FILE, RESIDUAL, manifest
from samples import SAMPLES

import dpnn_bridge
from dpnn_bridge.objects import LuaObject, LuaTable

pytest_plugins = ["pytester"]

PLUGIN = ("-p", "dpnn_bridge.pytest_plugin")


Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester, warm: str) -> Run:
    """In a process of its own: inside this one pytester would have parts of PyTorch imported anew, which it refuses."""
    program = [*shlex.split(warm), "pytest:console_main", "pytest", "-p", "no:hypothesispytest"]
    return lambda *arguments: pytester.run(*program, *arguments)


@pytest.fixture
def folder(pytester: pytest.Pytester, deviating: Path) -> Path:
    folder = pytester.mkdir("fixtures")
    (folder / "good.t7").symlink_to(RESIDUAL)  # as in the caches of git-annex and DVC
    (folder / "bad.t7").write_bytes(deviating.read_bytes())
    (folder / "reference.t7").write_bytes((SAMPLES / "torch-demos__mnist_convnet" / "ref.t7").read_bytes())
    return folder


def test_pytest_plugin(run: Run, folder: Path) -> None:
    result = run(*PLUGIN, "--t7-fixtures", str(folder), "-v")
    result.assert_outcomes(passed=1, failed=1, skipped=1)
    result.stdout.fnmatch_lines(["*good.t7::parity PASSED*", "*bad.t7:", "*output: expected *relative error*"])
    result = run(*PLUGIN, "--t7-fixtures", str(folder), str(folder / "good.t7"))
    result.assert_outcomes(passed=1)
    result = run(*PLUGIN, str(folder))  # without the option .t7 files are none of its business
    result.assert_outcomes()


def test_a_fixture_from_others_fails(run: Run, pytester: pytest.Pytester) -> None:
    folder = pytester.mkdir("fixtures")
    (folder / "\x1b[31ma\nPASSED b.t7").touch()
    padding = LuaObject("nn.Padding", LuaTable([("pad", 1 << 40), ("dim", 1), ("value", 0)]))
    fixture = {"module": padding, "input": torch.ones(2), "output": torch.ones(2), "mode": "eval"}
    dpnn_bridge.write_t7(folder / "padding.t7", fixture)
    result = run(*PLUGIN, "--t7-fixtures", str(folder), "-rA")
    result.assert_outcomes(failed=2)
    assert "\x1b" not in result.stdout.str()
    assert "PASSED b.t7" not in result.stdout.lines
    listed = run(*PLUGIN, "--t7-fixtures", str(folder), "--collect-only").stdout
    assert "\x1b" not in listed.str()
    assert "PASSED b.t7>" not in listed.lines
    result.stdout.fnmatch_lines(["padding.t7:", "*takes more than *--t7-unbounded runs it anyway*"])


def test_pytest_plugin_reports_known_differences(run: Run, pytester: pytest.Pytester, folder: Path) -> None:
    known = pytester.path / "known.json"
    arguments = (*PLUGIN, "--t7-fixtures", str(folder), "--t7-known-differences", str(known))
    known.write_text('[{"files": ["bad"], "compared": ["params*", "output", "grad*", "after*"], "reason": "a weight"}]')
    result = run(*arguments)
    result.assert_outcomes(passed=1, xfailed=1, skipped=1)
    result.stdout.fnmatch_lines(["*known differences from Torch7*", "  1 fixture   a weight"])
    known.write_text('[{"files": ["bad"], "compared": ["params*"], "reason": "a weight"}]')
    result = run(*arguments)
    result.assert_outcomes(passed=1, failed=1, skipped=1)
    known.write_text("[")
    result = run(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--t7-known-differences: *known.json: *"])


def test_pytest_plugin_on_fixtures_of_the_repository(run: Run) -> None:
    """Random ones that hold a seed and no noise, and those with known differences, among all of a package."""
    result = run(
        *PLUGIN,
        "--t7-fixtures",
        str(FIXTURES),
        "--t7-known-differences",
        str(KNOWN_FILE),
        str(FIXTURES / "dpnn"),
    )
    outcomes = result.parseoutcomes()
    assert result.ret == 0, outcomes
    expected = [e for e in manifest(kind=("module", "criterion")) if e["set"] == "dpnn"]
    expected += [e for e in manifest(kind="hidden") if e["name"].startswith("serial_graph")]  # they hold a run, too
    assert outcomes["passed"] + outcomes["xfailed"] == len(expected)


def test_nothing_in_a_fixture_folder_is_run(run: Run, folder: Path, tmp_path: Path) -> None:
    """Neither conftest.py, nor test files, nor what a configuration there names; also outside of the root folder.

    Before any plugin exists, pytest reads the configuration in a folder that is an argument of its own, without -c.
    """
    outside = tmp_path / "outside"
    folder.rename(outside)
    mark = tmp_path / "was_run"
    for name in ("conftest.py", "test_evil.py", "evil.py"):
        (outside / name).write_text(f"open({str(mark)!r}, 'w').close()\nclass W(Warning): pass\n")
    check_nothing_runs(run, outside, mark, ["--t7-fixtures", str(outside)])
    check_nothing_runs(run, outside, mark, ["--t7-fixtures", str(outside), str(outside / "good.t7")])
    (outside / "pytest.ini").write_text(
        "[pytest]\npythonpath = .\nfilterwarnings = ignore::evil.W\naddopts = -p no:randomly\npython_files = *.py\n"
    )
    check_nothing_runs(run, outside, mark, [f"--t7-fixtures={outside}"])
    (outside / "pytest.ini").write_text("[pytest]\npythonpath = .\naddopts = -p evil\n")
    (tmp_path / "own.ini").touch()
    check_nothing_runs(run, outside, mark, [f"--t7-fixtures={outside}", "-k", "good"])
    own = ["-c", str(tmp_path / "own.ini"), f"--t7-fixtures={outside}", str(outside / "good.t7")]
    check_nothing_runs(run, outside, mark, own)


def check_nothing_runs(run: Run, outside: Path, mark: Path, arguments: list[str]) -> None:
    result = run(*PLUGIN, *arguments)
    assert result.parseoutcomes()["passed"] == 1, result.stdout.str()
    assert not mark.exists(), arguments


def test_a_device_that_is_not_there_is_one_error(run: Run, folder: Path) -> None:
    for device in ("cuda:99", "npu"):
        result = run(*PLUGIN, "--t7-fixtures", str(folder), "--t7-device", device)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([f"*--t7-device: device={device}*PyTorch cannot use this device*available: cpu*"])


def test_a_file_in_two_folders_is_one_test(run: Run, folder: Path) -> None:
    inner = folder / "inner"
    inner.mkdir()
    (folder / "good.t7").rename(inner / "good.t7")
    again = [f"--t7-fixtures={path}" for path in (folder, inner, folder)]
    run(*PLUGIN, *again).assert_outcomes(passed=1, failed=1, skipped=1)


def test_options_that_select_nothing_are_errors(run: Run, folder: Path) -> None:
    for message, *arguments in (
        ("--t7-fixtures: *missing is not a folder", f"--t7-fixtures={folder / 'missing'}"),
        ("no .t7 file: *typo.t7", f"--t7-fixtures={folder}", str(folder / "typo.t7"), str(folder / "good.t7")),
        ("--t7-rtol: nan is not a finite number*", f"--t7-fixtures={folder}", "--t7-rtol=nan"),
    ):
        result = run(*PLUGIN, *arguments)
        assert result.ret == pytest.ExitCode.USAGE_ERROR, message
        result.stderr.fnmatch_lines([f"*{message}"])


def test_a_fixture_without_results_is_incomplete(run: Run, folder: Path) -> None:
    table = dpnn_bridge.read_t7(folder / "good.t7")
    for name in ("output", "gradInput", "gradParams"):
        del table[name]
    dpnn_bridge.write_t7(folder / "good.t7", table, force=True)
    result = run(*PLUGIN, f"--t7-fixtures={folder}", str(folder / "good.t7"), "-rs")
    result.stdout.fnmatch_lines(["*an incomplete fixture: *no results*"])


def test_a_reason_of_two_lines_counts_once(run: Run, pytester: pytest.Pytester, folder: Path) -> None:
    known = pytester.path / "known.json"
    known.write_text('[{"files": ["bad"], "compared": ["*"], "reason": "a weight\\nof two lines"}]')
    result = run(*PLUGIN, f"--t7-fixtures={folder}", "--t7-known-differences", str(known))
    result.stdout.fnmatch_lines(["  1 fixture   a weight of two lines"])
    result.stdout.no_fnmatch_line("  1 fixture   of two lines")
