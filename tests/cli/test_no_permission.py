"""A file without permission has exit code 1 in each command and option, and the message says what to do."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import dpnn_bridge
from dpnn_bridge.base.regular import is_accepted, read_file
from dpnn_bridge.cli.convert import convert_command
from dpnn_bridge.cli.inputs import example_input
from dpnn_bridge.cli.inspect import inspect_command
from dpnn_bridge.cli.lua import lua_command
from dpnn_bridge.cli.verify import verify_command
from dpnn_bridge.errors import FileAccessError, OptionError, T7FormatError
from dpnn_bridge.lua import LuaBridge
from dpnn_bridge.lua.checkouts import find_module

COMMANDS: dict[str, Any] = {
    "convert": convert_command,
    "inspect": inspect_command,
    "lua": lua_command,
    "verify": verify_command,
}


def refuse_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``stat`` fail for files whose names start with ``no``, as in a closed folder. Root may read everything."""
    stat = os.stat

    def refused(path: Any, *args: Any, **options: Any) -> os.stat_result:
        if isinstance(path, (str, Path)) and Path(path).name.startswith("no"):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, *args, **options)

    monkeypatch.setattr(os, "stat", refused)


@pytest.mark.parametrize(
    "words",
    [
        "verify no.t7",
        "verify m.t7 no.npz",
        "verify m.t7 --reference no.t7",
        "verify m.t7 --known-differences no.json",
        "verify m.t7 --lua-path no",
        "convert m.t7 o.pt --plugin no.py",
        "convert m.t7 o.pt --lua no.lua",
        "convert no.t7 o.pt",
        "inspect no.t7",
        "lua no.lua",
    ],
)
def test_a_file_without_permission(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exit codes were 1, 2 and 3."""
    monkeypatch.chdir(tmp_path)
    dpnn_bridge.save("m.t7", nn.Linear(3, 2))
    refuse_files(monkeypatch)
    command, *arguments = words.split()
    result = CliRunner().invoke(COMMANDS[command], arguments)
    assert result.exit_code == 1
    assert "permission denied; check the permissions of the file and its folders" in result.stderr


@pytest.mark.parametrize("suffix", ["py", "pt2", "onnx"])
def test_a_converted_file_without_permission(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The libraries that read these files have errors of their own, for which the exit codes were 3 and 4."""
    monkeypatch.chdir(tmp_path)
    dpnn_bridge.save("m.t7", nn.Linear(3, 2))
    Path(f"no.{suffix}").touch()
    open_descriptor = os.open

    def refused(path: Any, *args: Any, **options: Any) -> int:
        if str(path).endswith(f"no.{suffix}"):
            raise PermissionError(13, "Permission denied", str(path))
        return open_descriptor(path, *args, **options)

    monkeypatch.setattr(os, "open", refused)
    result = CliRunner().invoke(verify_command, ["m.t7", f"no.{suffix}", "--input", "1x3"])
    assert result.exit_code == 1
    assert result.stderr.endswith("permission denied; check the permissions of the file and its folders\n")


def test_click_does_not_check_permissions() -> None:
    """Its check of an unreadable file ended with exit code 2."""
    for command in COMMANDS.values():
        assert not [p.name for p in command.params if getattr(p.type, "readable", False)]


def test_an_unreadable_candidate_is_not_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> os.stat_result:
        raise PermissionError(13, "Permission denied", "x")

    monkeypatch.setattr(os, "stat", refused)
    assert not is_accepted(tmp_path)
    with pytest.raises(FileAccessError):
        read_file(tmp_path)


def test_a_closed_folder_beside_a_script_does_not_stop_require(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "closed").mkdir()
    monkeypatch.setattr(Path, "is_file", refused)
    assert find_module([tmp_path], "paths") is None


def test_a_truncated_archive_is_called_damaged(tmp_path: Path) -> None:
    """The advice was to load it with torch.load."""
    path = tmp_path / "x.pt"
    torch.save(torch.ones(300), path)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(T7FormatError, match=r"the archive is damaged: .*copy or download the file again"):
        example_input([str(path)])


@pytest.mark.parametrize("lua", [3, object(), [3], [None], b"a.lua", True])
def test_lua_takes_only_paths(lua: Any, tmp_path: Path) -> None:
    dpnn_bridge.save(tmp_path / "m.t7", nn.Linear(3, 2))
    with pytest.raises(OptionError, match=r"lua= \(--lua\): expected a path or several paths, found"):
        dpnn_bridge.load(tmp_path / "m.t7", lua=lua)
    with pytest.raises(OptionError, match=r"lua= \(--lua\): expected a path or several paths, found"):
        dpnn_bridge.convert(tmp_path / "m.t7", tmp_path / "m.pt", lua=lua)


def test_a_bridge_runs_only_paths() -> None:
    with pytest.raises(OptionError, match="argument path: expected a string or a path, found 3"):
        LuaBridge().run_file(3)  # type: ignore[arg-type]


def test_a_target_in_a_closed_folder_is_not_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("m.t7", "no.pt"):
        (tmp_path / name).write_bytes(b"")
    line = {"source": str(tmp_path / "m.t7"), "target": str(tmp_path / "no.pt"), "verdict": "equal"}
    (tmp_path / "done.jsonl").write_text(json.dumps(line) + "\n")
    refuse_files(monkeypatch)
    result = CliRunner().invoke(verify_command, [str(tmp_path / "done.jsonl"), "--trust-manifest"])
    assert "no.pt: reading the files: permission denied; check the permissions of the file" in result.stderr
