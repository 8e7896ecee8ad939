"""Whatever a file, its keys and its name hold, nothing of it acts on the terminal, and every error is one of ours."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from pseudo_terminal import on_terminal  # pyright: ignore[reportMissingImports]

import dpnn_bridge
from dpnn_bridge.base.display import in_html, printable, printable_lines
from dpnn_bridge.cli.convert import convert_command
from dpnn_bridge.cli.inspect import inspect_command
from dpnn_bridge.cli.terminal import Command
from dpnn_bridge.cli.verify import verify_command
from dpnn_bridge.errors import LuaBridgeError
from dpnn_bridge.loaders import write_t7
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor

#: what clears a screen, sets its title, links, goes back, breaks a line, opens and closes markup, is no UTF-8
NASTY = "\x1b[2J\x1b]0;PWNED\x07\x9b31m\r\b\n[/red][bold]:bomb:[link=x]<b>&\u202e\udcff"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def table(**fields: Any) -> LuaTable:
    return LuaTable(fields)


def sequential(*modules: LuaObject) -> LuaObject:
    return LuaObject(
        "nn.Sequential", table(modules=LuaTable.from_list(modules), _type="torch.FloatTensor", train=False)
    )


def tensor(*shape: int) -> LuaTensor:
    return LuaTensor.from_numpy(np.ones(shape, np.float32))


def linear() -> LuaObject:
    return LuaObject("nn.Linear", table(weight=tensor(2, 3), bias=tensor(2)))


FILES = {
    "class": sequential(LuaObject(f"nn.{NASTY}", LuaTable({NASTY: 1, "x": NASTY}))),
    "key": LuaTable({NASTY: sequential(linear()), f"{NASTY}2": sequential(linear())}),
    "field": LuaObject("nn.Linear", LuaTable({"weight": tensor(2, 3), NASTY: linear(), "bias": NASTY})),
    "note": LuaTable({"model": LuaObject(f"{NASTY}.Net", table(net=linear())), NASTY: NASTY}),
    "fixture": LuaTable(
        {
            "module": sequential(linear(), LuaObject("nn.Identity", LuaTable({NASTY: NASTY}))),
            "input": tensor(1, 3),
            "output": LuaTable({NASTY: tensor(1, 2)}),
            "name": NASTY,
            "provenance": LuaTable({"torch7": NASTY}),
            "mode": NASTY,
        }
    ),
    "refused": LuaTable({"module": linear(), "input": tensor(1, 3), "forward_error": NASTY}),
}


@pytest.fixture(params=FILES)
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / (NASTY.replace("/", "").replace("\n", "") + ".t7")
    write_t7(path, FILES[request.param])
    return path


def run(command: Command, *arguments: object) -> Result:
    result = CliRunner().invoke(command, [str(a) for a in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    for line in result.output.splitlines():
        assert line.isprintable(), line
    return result


def test_inspect(file: Path) -> None:
    assert run(inspect_command, file).exit_code == 0
    assert run(inspect_command, file, "--raw").exit_code == 0
    assert run(inspect_command, file, "--json").exit_code == 0


def test_a_class_name_begins_no_line(tmp_path: Path) -> None:
    write_t7(tmp_path / "m.t7", sequential(LuaObject("nn.X\nsupported", LuaTable())))
    result = run(inspect_command, tmp_path / "m.t7")
    assert "NOT supported: nn.X\\nsupported" in result.output
    assert not any(line.startswith("supported") for line in result.output.splitlines())
    assert repr(dpnn_bridge.load(tmp_path / "m.t7", allow_unsupported=True)).count("nn.X\\nsupported") == 1


def test_convert(file: Path, tmp_path: Path) -> None:
    for arguments in (["-v", "--allow-unsupported"], ["--all"], []):
        run(convert_command, file, tmp_path / "out.pt", "--force", *arguments)
    run(convert_command, file, "--out-dir", tmp_path / "out")


def test_verify(file: Path) -> None:
    run(verify_command, file, "--input", "1x3", "--allow-unsupported")
    run(verify_command, file, "--reference", file, "-v")


def test_pages(file: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    commands = [
        (inspect_command, file),
        (verify_command, file, "--input", "1x3", "--allow-unsupported"),
        (verify_command, file, "--reference", file),
    ]
    made = 0
    for command, *arguments in commands:
        run(command, *arguments, "--html", page)
        if page.exists():
            text = re.sub(r"<script>.*?</script>", "", page.read_text(), flags=re.S)
            assert "[2J" in text
            assert all(line.isprintable() for line in text.replace("\t", "").split("\n"))
            assert not re.search(r"&amp;(amp|lt|gt|#\d+);", text)  # escaped once
            page.unlink()
            made += 1
    assert made >= 1


def test_on_a_terminal(tmp_path: Path) -> None:
    file = tmp_path / "\x1b[2J[red].t7"
    write_t7(file, FILES["fixture"])
    for command in ("inspect", "verify"):
        words = ["sh", "-c", '"$0" -m dpnn_bridge "$2" "$1"; true', sys.executable, str(file), command]
        printed = on_terminal(words, columns=100, env={}, stderr=subprocess.DEVNULL)
        assert printed
        for line in COLOUR.sub("", printed).splitlines():
            assert line.isprintable(), line


def test_wrong_usage_names_the_file_without_its_escapes(file: Path) -> None:
    assert run(convert_command, file, file).exit_code == 2
    assert run(verify_command, file, "--mode", NASTY).exit_code == 2
    assert run(verify_command, "done.jsonl", file).exit_code == 2


def test_a_fault_of_our_own_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command(cls=Command)
    def fails() -> None:
        raise ZeroDivisionError(f"by {NASTY}\nzero")

    result = run(fails)  # type: ignore[arg-type]
    assert result.exit_code == 1
    assert result.output.startswith("error: fails: ZeroDivisionError: by ")
    assert len(result.output.splitlines()) == 1
    monkeypatch.setenv("DPNN_TRACEBACK", "1")
    assert isinstance(CliRunner().invoke(fails).exception, ZeroDivisionError)


def test_printable() -> None:
    assert printable("é → 漢") == "é → 漢"
    assert printable("a\x1b\n\udcff") == "a\\x1b\\n\\udcff"
    assert printable_lines("a\nb") == "a\nb"
    assert len(printable_lines("a" * 10**6)) < 3000
    assert in_html("<b>&\x1b") == "&lt;b&gt;&amp;\\x1b"


def test_a_warning_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_t7(tmp_path / "m.t7", sequential())
    write_t7(tmp_path / "x\n.t7", 2.0)
    with open(tmp_path / "x\n.t7", "ab") as file:
        file.write(b"rest")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        verify_command.main([str(tmp_path / "m.t7"), "--input", str(tmp_path / "x\n.t7")], standalone_mode=False)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {tmp_path}/x\\n.t7: 4 bytes after the object are not read")


FORGED = "x\nFORGED: done\ny"


@pytest.fixture(scope="module")
def forging(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files whose names, keys and classes contain the end of a line."""
    folder = tmp_path_factory.mktemp("forging")
    write_t7(folder / f"{FORGED}.t7", sequential())
    write_t7(folder / "model.t7", sequential(LuaObject("nn.Tanh", table())))
    write_t7(folder / "keys.t7", LuaTable({FORGED: sequential(), f"{FORGED}2": sequential()}))
    write_t7(folder / "criterion.t7", table(model=sequential(), criterion=LuaObject(f"nn.{FORGED}", table())))
    (folder / f"damaged{FORGED}.t7").write_bytes((folder / "model.t7").read_bytes()[:40])
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", f"{FORGED}.t7"],
        ["inspect", f"{FORGED}.t7", "--key", "other"],
        ["inspect", f"{FORGED}.t7", "--html", f"{FORGED}.html"],
        ["convert", f"{FORGED}.t7", "out.pt", "--force", "--report", f"{FORGED}.json"],
        ["convert", f"{FORGED}.t7", f"damaged{FORGED}.t7", "--out-dir", "out"],
        ["convert", "criterion.t7", "out.pt", "--force"],
        ["convert", "criterion.t7", "out.pt", "--key", "other", "--force"],
        ["verify", f"{FORGED}.t7", "--input", "2x3"],
        ["verify", "model.t7", f"{FORGED}.t7"],
        ["verify", "model.t7", "--reference", f"{FORGED}.t7"],
        ["verify", "model.t7", "--input", "keys.t7"],
    ],
)
def test_no_name_begins_a_line(arguments: list[str], forging: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(forging)
    command = {"inspect": inspect_command, "convert": convert_command, "verify": verify_command}[arguments[0]]
    result = CliRunner().invoke(command, arguments[1:])
    assert "FORGED" in result.output
    assert "\nFORGED" not in result.output


@pytest.mark.usefixtures("warm_sandboxes")
@pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs Linux")
def test_an_error_in_lua_begins_no_line(tmp_path: Path) -> None:
    (tmp_path / "layer.lua").write_text("""
        local Layer = torch.class('Layer', 'nn.Module')
        function Layer:updateOutput(x) error('no\\nPASS: forward equal') end
    """)
    write_t7(tmp_path / "m.t7", LuaObject("Layer", LuaTable()))
    arguments = [tmp_path / "m.t7", "--lua", tmp_path / "layer.lua", "--sandbox", "--input", "2x3"]
    result = CliRunner().invoke(verify_command, list(map(str, arguments)))
    assert result.exit_code == LuaBridgeError.exit_code
    assert "PASS: forward equal" in result.output
    assert not re.search("^PASS", result.output, re.MULTILINE)
