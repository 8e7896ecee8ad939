"""What Windows and macOS lack: simulated, for want of these systems here."""

from __future__ import annotations

import ast
import json
import ntpath
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import dpnn_bridge
from dpnn_bridge.batch import tasks
from dpnn_bridge.cli.inputs import example_input

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("windows")


@pytest.fixture(scope="module")
def outcome(folder: Path) -> dict[str, Any]:
    if sys.platform != "linux":
        pytest.skip("what is open is read from /proc")
    program = Path(__file__).with_name("without_posix.py")
    command = [sys.executable, "-X", "warn_default_encoding", program, folder]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_everything_but_the_sandbox_is_imported(outcome: dict[str, Any]) -> None:
    assert outcome["failed"].keys() == {"dpnn_bridge.lua.confined", "dpnn_bridge.lua.confinement"}
    assert all("needs Linux or macOS" in reason for reason in outcome["failed"].values())


def test_the_commands_do_without_posix(outcome: dict[str, Any], folder: Path) -> None:
    refused = {"lua --sandbox": 7, "convert --lua --sandbox": 7, "convert over a file that is open": 6}
    found = outcome["commands"]
    wrong = {name: text for name, (code, *text) in found.items() if code != refused.get(name, 0)}
    assert not wrong, "\n".join(map(str, wrong.values()))
    assert "needs Linux or macOS" in found["lua --sandbox"][1]
    assert "nothing was written" in found["convert over a file that is open"][1]
    assert [p.name for p in folder.rglob(".dpnn-*")] == []


@pytest.mark.parametrize(
    ("sources", "targets"),
    [
        ([r"C:\models\a\x.t7", r"C:\models\b\y.t7"], [r"a\x.pt", r"b\y.pt"]),
        ([r"C:\models\x.t7", r"D:\other\y.t7"], ["x.pt", "y.pt"]),
        ([r"\\server\share\x.t7", r"C:\y.t7"], ["x.pt", "y.pt"]),
    ],
)
def test_files_of_several_drives(monkeypatch: pytest.MonkeyPatch, sources: list[str], targets: list[str]) -> None:
    monkeypatch.setattr(tasks, "PurePath", PureWindowsPath)
    monkeypatch.setattr(tasks, "os", SimpleNamespace(path=ntpath, fspath=str))
    monkeypatch.setattr(tasks, "location_of", PureWindowsPath)
    monkeypatch.setattr(tasks, "absolute", str)
    found = tasks.tasks_for([Path(s) for s in sources], Path(r"D:\out"), ".pt")
    assert [str(task.target) for task in found] == [rf"D:\out\{name}" for name in targets]


def test_a_drive_is_no_type_of_an_input(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A shape beside a file takes the type of the model, unless the other one names its own."""
    name = r"C:\x.t7"
    monkeypatch.chdir(tmp_path)
    dpnn_bridge.write_t7(name, 1)
    model = torch.nn.Embedding(3, 2)
    assert example_input([name, "2x1"], model)[1].dtype == torch.int64
    assert example_input(["2x1:float32", "2x1"], model)[1].dtype == torch.float32


def _without_encoding(source: str) -> Iterator[int]:
    """The lines that read or write text in the encoding of the machine."""
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call):
            continue
        method = isinstance(call.func, ast.Attribute)
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        modes = [given.get("mode"), *call.args[1:2]]
        binary = any("b" in ast.unparse(mode) for mode in modes if mode)
        reads = method and name in ("read_text", "write_text")
        opens = not method and name == "open" and not binary
        runs = name in ("run", "Popen", "check_output") and "text" in given
        if (reads or opens or runs) and "encoding" not in given:
            yield call.lineno


def test_every_text_names_its_encoding() -> None:
    """Windows takes cp1252 for a file that names none."""
    files = [p for room in ("dpnn_bridge", "docs", "examples") for p in (ROOT / room).rglob("*.py")]
    assert len(files) > 400
    assert [f"{p}:{line}" for p in files for line in _without_encoding(p.read_text(encoding="utf-8"))] == []


def test_a_missing_encoding_is_found() -> None:
    source = "open(p)\nopen(p, 'w')\np.read_text()\nrun(c, text=True)\nopen(p, 'rb')\np.open('rb')\nwrite_text(p, t)\n"
    assert list(_without_encoding(source)) == [1, 2, 3, 4]
