"""A disk that is full from any write on: one error, and of each output the whole file or none."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

import dpnn_bridge
from dpnn_bridge.__main__ import main
from dpnn_bridge.base import writing
from dpnn_bridge.base.atomic import write_text
from dpnn_bridge.cli import draw

#: commands, with the files that exist together or not at all
COMMANDS = {
    **{f"convert m.t7 out/m.{s}": [f"m.{s}"] for s in ("pt", "npz", "py", "t7")},
    **{f"convert data.t7 out/d.{s}": [f"d.{s}"] for s in ("pt", "npz", "json")},
    "convert data.t7 out/d.safetensors": ["d.safetensors"],
    "convert data.t7 out/d.t7": ["d.t7"],
    "convert m.t7 out/m.pt --report out/r.json": ["m.pt"],
    "convert m.t7 out/m.pt --into net.py:Net --input 1x3": ["m.pt"],
    "convert m.t7 out/m.safetensors --into net.py:Net --input 1x3 --report out/r.html": ["m.safetensors"],
    "inspect m.t7 --html out/p.html": ["p.html"],
    "verify m.t7 --input 1x3 --html out/p.html": ["p.html"],
    "lua save.lua": ["a.t7", "b.t7"],
}

NETWORK = """
from torch import nn

def Net():
    return nn.Sequential(nn.Linear(3, 2), nn.Tanh())
"""
SCRIPT = """
require 'torch'
torch.save('out/a.t7', 'a')
torch.save('out/b.t7', {'b'}, 'ascii')
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("inputs")
    dpnn_bridge.save(home / "m.t7", nn.Sequential(nn.Linear(3, 2), nn.Tanh()))
    dpnn_bridge.write_t7(home / "data.t7", {"a": torch.ones(3), "b": torch.ones(2)})
    (home / "net.py").write_text(NETWORK)
    (home / "save.lua").write_text(SCRIPT)
    return home


@pytest.fixture
def run(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], tuple[Result, int]]:
    """Runs a command on a disk that is full from the write of this number on; returns the number of writes too."""
    monkeypatch.chdir(tmp_path)
    for file in inputs.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "out").mkdir()
    real = writing.retry_eagain

    def ran(command: str, full: int) -> tuple[Result, int]:
        writes = 0

        def retry_eagain(act: Callable[[], Any], name: str) -> Any:
            nonlocal writes
            writes += "out/" in name
            if "out/" in name and writes >= full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
            return real(act, name)

        monkeypatch.setattr(writing, "retry_eagain", retry_eagain)
        return CliRunner().invoke(main, command.split()), writes

    return ran


@pytest.mark.parametrize("command", COMMANDS)
def test_a_disk_that_fills_at_any_write(command: str, run: Any, tmp_path: Path) -> None:
    whole, count = run(command, 10**9)
    assert whole.exit_code == 0, whole.output
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "out").iterdir()}
    assert count >= 3 * len(sizes)  # each is opened, written and moved
    for full in range(1, count + 1):
        for path in (tmp_path / "out").iterdir():
            path.unlink()
        result, _ = run(command, full)
        assert result.exit_code == (7 if "lua" in command else 6), result.output
        assert "No space left on device" in result.stderr
        assert len(result.stderr.splitlines()) == 1 or "lua" in command
        left = {path.name: path.stat().st_size for path in (tmp_path / "out").iterdir()}
        assert left.items() <= sizes.items()
        for name in left:
            assert f"{name} was written" in result.stderr or "lua" in command


@pytest.mark.parametrize(
    "command", [command for command in COMMANDS if "--report" not in command and "lua" not in command]
)
def test_a_disk_that_loses_what_was_written(
    command: str, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors of the libraries that read a file back had exit code 5 or 3; weights and pages were not read back."""
    real = writing._OutputFile.close

    def close(file: Any) -> None:
        if not file.closed and "out/" in os.fspath(file.name):
            os.ftruncate(file.fileno(), os.fstat(file.fileno()).st_size // 2)
        real(file)

    monkeypatch.setattr(writing._OutputFile, "close", close)
    result, _ = run(command, 10**9)
    assert result.exit_code == 4, result.output
    assert len(result.stderr.splitlines()) == 1
    assert ".dpnn-" not in result.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_a_page_that_another_program_moves_at_once_is_no_error(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.html"

    def write_and_move(path: Path, text: str, *, force: bool) -> None:
        write_text(path, text, force=force)
        path.rename(tmp_path / "moved.html")

    monkeypatch.setattr(draw, "write_text", write_and_move)
    result = CliRunner().invoke(main, ["inspect", str(inputs / "m.t7"), "--html", str(page)])
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{inputs / 'm.t7'} -> {page}: 3 layers\n"
