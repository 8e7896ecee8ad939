"""The commands on a terminal: colours, widths, completion, and options that mean the same everywhere."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from conftest import RESIDUAL
from pseudo_terminal import on_terminal
from rich.console import Console
from samples import SAMPLES

from dpnn_bridge.checkpoints.describe import describe
from dpnn_bridge.cli.conversions import print_table
from dpnn_bridge.cli.convert import convert_command
from dpnn_bridge.cli.inspect import inspect_command
from dpnn_bridge.cli.terminal import steps
from dpnn_bridge.cli.verify import print_checklist, verify_command
from dpnn_bridge.files.converting import convert
from dpnn_bridge.parity.verify import verify

MODEL = SAMPLES / "rnn__recurrent-visual-attention" / "model.t7"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
PYTHON = (sys.executable, "-m", "dpnn_bridge")


def printed_by(command: Path, *arguments: object, columns: int = 80, **environment: str) -> str:
    """What a command prints on a terminal of so many columns."""
    return on_terminal([str(command), *map(str, arguments)], columns=columns, env=environment)


def drawn(print_it: Callable[[Console], None], width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO())
    print_it(console)
    return console.file.getvalue().splitlines()


# ---------------------------------------------------------------------- colours and widths
def test_inspect_has_colours_and_keeps_its_tree_when_lines_are_wider_than_the_terminal(scripts: Path) -> None:
    printed = printed_by(scripts / "dpnn-inspect", MODEL, "--raw", columns=60)
    assert COLOUR.search(printed)
    lines = COLOUR.sub("", printed).splitlines()
    tree = lines[lines.index("nn.Sequential") + 1 : lines.index("")]
    assert all(re.match(r"(│  |   )*([├└]─ \S|(│  |   )+\S)", line) for line in tree)
    assert all(len(line.rstrip()) <= 60 for line in tree if len(re.match(r"[│├└─ ]*", line)[0]) < 30)
    assert any("nn.RecurrentAttention" in line for line in tree)
    words = "".join(COLOUR.sub("", printed).split()).replace("│", "")
    assert words == "".join("".join(describe(MODEL).lines()).split()).replace("│", "")


@pytest.mark.parametrize("name", ["inspect", "verify"])
def test_no_color_means_no_escapes_at_all(name: str, scripts: Path) -> None:
    arguments = (MODEL, "--raw") if name == "inspect" else (RESIDUAL,)
    printed = printed_by(scripts / f"dpnn-{name}", *arguments, NO_COLOR="1")
    result = printed[printed.rindex("\x1b[2K") + 4 :] if name == "verify" else printed  # the line of steps is erased
    assert "\x1b[" not in result
    assert "nn.S" in result


def test_piped_output_is_plain_and_never_folded(scripts: Path) -> None:
    env = {k: v for k, v in os.environ.items() if k != "COLUMNS"}
    done = subprocess.run(
        [scripts / "dpnn-inspect", MODEL, "--raw"], capture_output=True, text=True, env=env, check=True
    )
    assert done.stdout.splitlines() == list(describe(MODEL).lines())
    done = subprocess.run([scripts / "dpnn-verify", RESIDUAL], capture_output=True, text=True, env=env, check=True)
    assert "\x1b" not in done.stdout + done.stderr
    assert re.search(r"SpatialBatchNormalization  \S+ \(of 7\) +\d\S+ +\d\S+ +1e-0\d\b", done.stdout)


@pytest.mark.parametrize("width", [80, 120])
def test_class_names_stay_whole(width: int, deviating: Path, tmp_path: Path) -> None:
    checklist = drawn(lambda console: print_checklist(verify(deviating), console), width)
    rows = [line for line in checklist if line[1:2] in "✓✗·"]
    assert len(rows) == 15
    assert sum(" nn.SpatialBatchNormalization " in row for row in rows) == 2
    assert all(len(line) <= width for line in checklist if not line.startswith(("deviating.t7", "note: ", "FAIL")))
    report = convert(MODEL, tmp_path / "m.pt")
    table = drawn(lambda console: print_table(report, console), width)
    assert sum(" nn.SpatialAveragePooling " in line for line in table) == 1
    assert all(len(line) <= width for line in table if not line.startswith(("dropped", "note")))


# ---------------------------------------------------------------------- the same options everywhere
COMMANDS: dict[str, tuple[click.Command, tuple[str, ...]]] = {
    "convert": (convert_command, (str(MODEL), "out.pt", "--force")),
    "inspect": (inspect_command, (str(MODEL),)),
    "verify": (verify_command, (str(RESIDUAL),)),
}


@pytest.fixture(params=COMMANDS)
def command(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)
    program, arguments = COMMANDS[request.param]
    return lambda *options: CliRunner().invoke(program, [*arguments, *options], env={"COLUMNS": "200"})


def test_quiet_prints_nothing(command: Callable[..., Result]) -> None:
    result = command("-q")
    assert (result.exit_code, result.output) == (0, "")


def test_verbose_prints_more(command: Callable[..., Result]) -> None:
    usual, verbose = command().stdout, command("-v").stdout
    assert len(verbose) > len(usual) > 0


def test_json_is_all_that_is_printed(command: Callable[..., Result]) -> None:
    result = command("--json")
    assert result.exit_code == 0
    assert isinstance(json.loads(result.stdout), dict)
    assert result.stderr == ""


def test_json_of_a_conversion_is_its_report(tmp_path: Path) -> None:
    arguments = [str(MODEL), str(tmp_path / "m.pt"), "--report", str(tmp_path / "report.json"), "--json"]
    result = CliRunner().invoke(convert_command, arguments)
    assert json.loads(result.stdout) == json.loads((tmp_path / "report.json").read_text())


def test_json_of_many_conversions(tmp_path: Path) -> None:
    bad = tmp_path / "bad.t7"
    bad.write_bytes(b"\x04")
    result = CliRunner().invoke(convert_command, [str(MODEL), str(bad), "--out-dir", str(tmp_path / "out"), "--json"])
    assert result.exit_code == 3
    first, second = json.loads(result.stdout)
    assert (first["status"], first["parameters"]) == ("converted", 5709)
    assert (second["status"], second["exit_code"]) == ("failed", 3)
    assert "bad.t7" in result.stderr


def test_verbose_inspection_lists_every_entry_with_its_place() -> None:
    arguments = [str(SAMPLES / "torch-demos__mnist_convnet" / "model.t7"), "-v"]
    lines = CliRunner().invoke(inspect_command, arguments).stdout.splitlines()
    assert "more" not in "".join(lines)
    assert "│  │  ├─ weight: torch.FloatTensor 32x25, 3.2 kB, storage 2, stride 25x1, offset 0" in lines
    assert "│  │  ├─ bias: torch.FloatTensor 32, 128 bytes, shares storage 2, stride 1, offset 800" in lines


# ---------------------------------------------------------------------- python -m, completion
def test_every_command_runs_as_a_module(tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        return subprocess.run([*PYTHON, *arguments], capture_output=True, text=True, check=True, cwd=tmp_path).stdout

    assert re.findall(r"^  (\w+)  ", run("--help"), re.M) == ["convert", "inspect", "verify", "lua"]
    assert run("convert", str(MODEL), "m.pt").startswith(f"{MODEL} -> m.pt: ")
    assert "nn.RecurrentAttention" in run("inspect", str(MODEL), "--raw")
    assert "PASS" in run("verify", str(RESIDUAL))
    wrong = subprocess.run([*PYTHON, "transmogrify"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "transmogrify" in wrong.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("dpnn-convert --dt", ["--dtype"]),
        ("dpnn-convert --to s", ["safetensors"]),
        ("dpnn-verify --known", ["--known-differences"]),
        ("dpnn-inspect --mode a", ["ascii"]),
    ],
)
def test_bash_completes(words: str, expected: list[str], scripts: Path) -> None:
    """With the line from the documentation, in bash itself."""
    name, typed = words.split()[0], words.split()
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    (line,) = re.findall(r'^eval "\$\(_DPNN_CONVERT_COMPLETE=bash_source dpnn-convert\)"', page, re.M)
    line = line.replace("CONVERT", name[5:].upper()).replace("dpnn-convert", name)
    function = f"_{name.replace('-', '_')}_completion"
    program = (
        f"{line}\ncompopt() {{ :; }}\n"  # outside an interactive shell it refuses to work
        f"COMP_WORDS=({' '.join(typed)}); COMP_CWORD={len(typed) - 1}\n{function} {name}\n"
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    env = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.split() == expected


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_their_script(shell: str, scripts: Path) -> None:
    env = {**os.environ, "_DPNN_CONVERT_COMPLETE": f"{shell}_source"}
    done = subprocess.run([scripts / "dpnn-convert"], capture_output=True, text=True, env=env, check=True)
    assert f"_DPNN_CONVERT_COMPLETE={shell}_complete" in done.stdout
    if shell == "zsh":
        assert done.stdout.startswith("#compdef dpnn-convert")


def test_a_signal_while_steps_are_shown_leaves_the_cursor_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with steps(quiet=False):
        shown = terminal.getvalue()
    assert shown.rfind("\x1b[?25h") >= shown.rfind("\x1b[?25l")
