"""An input that is no regular file of bounded size is one error at once: no command waits, or reads without an end."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import click
import pytest
from click.testing import CliRunner
from torch import nn

import dpnn_bridge
from dpnn_bridge import batch
from dpnn_bridge.base import regular
from dpnn_bridge.base.regular import MAX_BYTES, read_file
from dpnn_bridge.batch.manifest import last_lines
from dpnn_bridge.cli.convert import convert_command
from dpnn_bridge.cli.inspect import inspect_command
from dpnn_bridge.cli.lua import lua_command
from dpnn_bridge.cli.verify import verify_command
from dpnn_bridge.errors import NotT7Error, T7FormatError
from dpnn_bridge.legacy import __main__ as legacy_main

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="needs pipes and alarms")


@pytest.fixture(autouse=True)
def alarm() -> Iterator[None]:
    """Ends a test that waits for a pipe, or reads a device."""

    def end(*_: Any) -> NoReturn:
        raise TimeoutError("it waits or reads without an end")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def full(path: Path) -> None:
    path.symlink_to("/dev/full")


def of_the_kernel(path: Path) -> None:
    """A file that the kernel calls regular; reading some of them waits for an event."""
    if not Path("/proc/self/mem").exists():
        pytest.skip("needs /proc")
    path.symlink_to("/proc/self/mem")


def folder(path: Path) -> None:
    path.mkdir()


def endless(path: Path) -> None:
    """A file of a terabyte without contents."""
    path.touch()
    try:
        os.truncate(path, 1 << 40)
    except OSError:
        pytest.skip("the file system has no sparse files of this size")


KINDS = [pipe, device, full, of_the_kernel, folder, endless]

#: the command, its arguments, the exit code
COMMANDS = [
    (verify_command, "X.jsonl", 3),
    (verify_command, "model.t7 --known-differences X", 2),
    (verify_command, "model.t7 --plugin X", 2),
    (verify_command, "model.t7 --reference X", 3),
    (verify_command, "model.t7 --input X", 2),
    (verify_command, "model.t7 X.npz", 3),
    (verify_command, "model.t7 X.py", 3),
    (verify_command, "X", 3),
    (convert_command, "X out.pt", 3),
    (convert_command, "model.t7 out.pt --plugin X", 2),
    (convert_command, "model.t7 out.pt --lua X", 2),
    (convert_command, "model.t7 --out-dir out --manifest X", 3),
    (inspect_command, "X", 3),
    (inspect_command, "model.t7 --plugin X", 2),
    (inspect_command, "X --dot", 3),
    (lua_command, "X", 7),
]

OF_ANY_SIZE = [
    (verify_command, "model.t7 --input X"),
    (verify_command, "X"),
    (convert_command, "X out.pt"),
    (inspect_command, "X"),
    (inspect_command, "X --dot"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("command", "arguments", "code"), COMMANDS, ids=[f"{c.name} {a}" for c, a, _ in COMMANDS])
def test_one_error(
    command: click.Command,
    arguments: str,
    code: int,
    kind: Callable[[Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if kind is endless and (command, arguments) in OF_ANY_SIZE:
        pytest.skip("a model may be of any size")
    if "lua" in arguments or command is lua_command:
        pytest.importorskip("lupa", reason="optional extra is not installed")
    monkeypatch.chdir(tmp_path)
    (name,) = (word for word in arguments.split() if word.startswith("X"))
    kind(tmp_path / name)
    dpnn_bridge.write_t7("model.t7", nn.Sequential(nn.Linear(3, 2)))
    result = CliRunner().invoke(command, arguments.split())
    if kind is of_the_kernel and "--input" in arguments:
        code = 3  # what is not readable, as any other damaged input
    if kind in (folder, endless) and result.exit_code == 2:
        code = 2  # click refuses folders that an option does not take
    assert result.exit_code == code, result.output
    assert name in result.stderr
    assert not Path("out.pt").exists()


def test_a_file_may_have_so_many_bytes(tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_bytes(b"x" * 16)
    assert read_file(file, 16) == b"x" * 16
    with pytest.raises(NotT7Error, match="larger than"):
        read_file(file, 15)
    assert MAX_BYTES >= 1 << 20


@pytest.mark.parametrize("kind", [pipe, folder, endless])
def test_what_takes_the_name_of_a_checked_file_is_refused(
    kind: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening a pipe waits for its writer, unless it is opened without waiting."""
    kind(tmp_path / "X")
    monkeypatch.setattr(regular, "check_file", lambda *arguments: None)  # it was a regular file then
    with pytest.raises(NotT7Error, match=r"is a directory|is not a regular file|is larger than"):
        read_file(tmp_path / "X")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_regular_file_is_not_opened(
    kind: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening a device may act on it."""
    kind(tmp_path / "X")
    opened: list[object] = []
    monkeypatch.setattr(regular, "open_input", lambda path, opener: opened.append(path))
    with pytest.raises(NotT7Error):
        read_file(tmp_path / "X")
    assert opened == []


@pytest.mark.parametrize("name", ["/proc/self/status", "/sys/kernel/mm/transparent_hugepage/enabled"])
def test_files_of_the_kernel_are_refused_under_any_name(name: str, tmp_path: Path) -> None:
    if not os.path.isfile(name):
        pytest.skip(f"needs {name}")
    (tmp_path / "link").symlink_to(name)
    (tmp_path / "folder").symlink_to(os.path.dirname(name))
    for path in (name, tmp_path / "link", tmp_path / "folder" / os.path.basename(name), f"/tmp/..{name}"):
        with pytest.raises(NotT7Error, match="is not a regular file"):
            regular.check_file(path)


def test_a_line_of_a_manifest_has_an_end(tmp_path: Path) -> None:
    long = {"source": "a", "target": "b", "verdict": "equal", "message": "x" * (1 << 21)}
    for text, number in ((b"x" * (1 << 21), 1), (json.dumps(long).encode(), 2)):
        (tmp_path / "done.jsonl").write_bytes(text)
        with pytest.raises(T7FormatError, match=f"line {number} is not a manifest line"):
            last_lines(tmp_path / "done.jsonl")
    os.truncate(tmp_path / "done.jsonl", (1 << 30) + 1)
    with pytest.raises(NotT7Error, match="is larger than 1,024 MiB"):
        last_lines(tmp_path / "done.jsonl")


def test_an_empty_line_of_a_manifest_is_skipped(tmp_path: Path) -> None:
    """Two programs that find the same incomplete last line both begin with a new line."""
    lines = [json.dumps({"source": "a", "target": target, "verdict": "equal"}) for target in "bc"]
    (tmp_path / "done.jsonl").write_text('{"source": "a\n\n'.join(["", *(f"{line}\n\n" for line in lines)]))
    assert [*last_lines(tmp_path / "done.jsonl")] == ["b", "c"]


def test_a_name_that_is_too_long_fails_alone(tmp_path: Path) -> None:
    dpnn_bridge.write_t7(tmp_path / "a.t7", nn.Tanh())
    targets = [tmp_path / ("x" * 300) / "a.npz", tmp_path / "a.npz"]
    outcomes = batch.run([batch.Task(tmp_path / "a.t7", target) for target in targets])
    assert [outcome.message.partition(" /")[0] for outcome in outcomes] == ["cannot create the folder", ""]


def test_a_folder_that_cannot_be_made_is_one_error(tmp_path: Path) -> None:
    dpnn_bridge.write_t7(tmp_path / "a.t7", nn.Tanh())
    os.mkfifo(tmp_path / "out")
    ran = CliRunner().invoke(convert_command, [str(tmp_path / "a.t7"), "--out-dir", str(tmp_path / "out")])
    assert ran.exit_code == 6
    assert "cannot create the folder" in ran.output


def test_a_pipe_is_no_script_of_old_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "script.py")
    monkeypatch.setattr(sys, "argv", ["legacy", str(tmp_path / "script.py")])
    monkeypatch.setattr(legacy_main, "install", lambda: None)
    assert legacy_main.main() == 2
    assert "is not a regular file" in capsys.readouterr().err
