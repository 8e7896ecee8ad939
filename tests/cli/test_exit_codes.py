"""Every command, every kind of bad input, the exit code that its help promises, one line, nothing left behind."""

from __future__ import annotations

import gc
import os
import re
import signal
import stat
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

import dpnn_bridge
from dpnn_bridge.__main__ import main
from dpnn_bridge.cli.convert import convert_command
from dpnn_bridge.cli.inspect import inspect_command
from dpnn_bridge.cli.lua import check_printed, lua_command
from dpnn_bridge.cli.torch_import import checking_torch
from dpnn_bridge.cli.verify import verify_command
from dpnn_bridge.errors import FileAccessError
from dpnn_bridge.loaders import dumps, write_t7
from dpnn_bridge.lua.bridge import LuaBridge
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor

pytestmark = pytest.mark.usefixtures("warm_sandboxes")

COMMANDS: dict[str, Any] = {
    "convert": convert_command,
    "inspect": inspect_command,
    "lua": lua_command,
    "verify": verify_command,
}


def linear(scale: float = 1.0) -> LuaObject:
    weight, bias = (LuaTensor.from_numpy(np.full(shape, scale, np.float32)) for shape in ((2, 3), (2,)))
    return LuaObject("nn.Linear", LuaTable({"weight": weight, "bias": bias}))


def module(name: str, **fields: Any) -> LuaObject:
    return LuaObject(name, LuaTable(fields))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("inputs")
    write_t7(home / "good.t7", linear())
    write_t7(home / "other.t7", linear(2.0))
    write_t7(home / "data.t7", LuaTable({"x": 1}))
    write_t7(home / "unknown.t7", module("nn.Nothing"))
    write_t7(home / "broken.t7", module("nn.SpatialConvolution", nInputPlane="x"))
    write_t7(home / "huge.t7", module("nn.LookupTable", nIndex=10**9, nOutput=10**9))
    ones = LuaTensor.from_numpy(np.ones((1, 3), np.float32))
    write_t7(home / "reference.t7", LuaTable({"input": ones, "output": LuaTensor.from_numpy(np.ones((1, 2)))}))
    for suffix in (".pt", ".safetensors", ".npz", ".py"):
        dpnn_bridge.convert(home / "good.t7", home / f"good{suffix}")
    data = (home / "good.t7").read_bytes()
    pt, tensors = (home / "good.pt").read_bytes(), (home / "good.safetensors").read_bytes()
    files = {
        "cut.t7": data[:-9],
        "cut_ascii.t7": dumps(LuaTable({"x": 1}), mode="ascii")[:-2],
        "empty.t7": b"",
        "page.t7": b"<!DOCTYPE html>",
        "pointer.t7": b"version https://git-lfs.github.com/spec/v1\n",
        "packed.t7": b"\x1f\x8b\x08\0" + bytes(20),
        "cut.pt": pt[: len(pt) // 2],
        "graph.pt": pt.replace(b'"nodes"', b'"nodez"'),
        "cut.safetensors": tensors[:-3],
        "graph.safetensors": tensors.replace(b'\\"nodes\\"', b'\\"nodez\\"'),
        "cut.npz": (home / "good.npz").read_bytes()[:-400],
        "cut.onnx": b"\x08\x0a\x12",
        "cut.pt2": b"PK\x03\x04",
        "raises.py": b"1 / 0\n",
        "exits.py": b"import sys; sys.exit(0)\n",
        "raises.lua": b"error('no')\n",
        "syntax.lua": b"x = = 1\n",
        "exits.lua": b"os.exit(3)\n",
        "reads.lua": b"print(io.open('/etc/passwd'))\n",
        "x.npy": b"\x93NUMPY\x01\0",
        "known.json": b'{"a": ',
        "deep.json": b"[" * 100_000,
    }
    for name, content in files.items():
        (home / name).write_bytes(content)
    torch.save([1, 2], home / "foreign.pt")
    np.save(home / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    (home / "folder.t7").mkdir()
    os.mkfifo(home / "pipe.t7")
    os.mkfifo(home / "pipe.html")
    (home / "loop.t7").symlink_to("loop.t7")
    (home / "there.pt").write_bytes(b"kept")
    return home


UNREADABLE = (
    *("missing.t7", "folder.t7", "pipe.t7", "loop.t7", "empty.t7", "cut.t7", "cut_ascii.t7", "page.t7", "pointer.t7"),
    *("packed.t7", "cut.pt", "graph.pt", "cut.safetensors", "graph.safetensors", "missing.pt", "x" * 300 + ".t7"),
)
UNCONVERTIBLE = ("unknown.t7", "broken.t7", "huge.t7", "foreign.pt")

CASES: list[tuple[int, str]] = [
    *((3, f"convert {name} out.t7") for name in UNREADABLE),
    *((3, f"convert {name} out.npz") for name in UNREADABLE),
    *((3, f"inspect {name}") for name in UNREADABLE),
    *((3, f"inspect {name} --html out.html") for name in UNREADABLE),
    *((3, f"verify {name}") for name in UNREADABLE),
    *((3, f"verify good.t7 {name}") for name in UNREADABLE),
    *((3, f"verify good.t7 {name}") for name in ("cut.npz", "cut.onnx", "cut.pt2")),
    *((3, f"verify {model} raises.lua") for model in ("good.t7", "data.t7")),  # no format has this suffix
    *((3, f"verify good.t7 --reference {name}") for name in ("missing.t7", "cut.t7", "folder.t7")),
    *((3, f"verify good.t7 --input {name}") for name in ("x.npy", "objects.npy", "cut.t7", "cut.pt")),
    *((5, f"convert {name} out.pt") for name in UNCONVERTIBLE),
    *((5, f"verify {name}") for name in UNCONVERTIBLE),
    *((5, f"inspect {name} --dot") for name in ("data.t7", "foreign.pt")),
    *((0, f"inspect {name} --dot") for name in ("broken.t7", "huge.t7")),  # with placeholders
    *((0, f"inspect {name}") for name in ("good.t7", "data.t7", "unknown.t7", "broken.t7", "huge.t7", "good.pt")),
    *((0, f"convert {name} out{s}") for name in ("good.t7", "good.pt", "good.safetensors") for s in (".t7", ".py")),
    (0, "convert data.t7 out.json"),
    (5, "convert data.t7 out.py"),
    (5, "convert good.t7 out.json"),
    (5, "convert good.t7 out.pt --key a.b"),
    (4, f"convert good.t7 out.pt --sha256 {'0' * 64}"),
    (2, "convert good.t7 out.pt --sha256 00"),
    (2, "lua --sandbox --max-seconds nan raises.lua"),
    (2, "lua --sandbox --max-memory 99999999999999999999 raises.lua"),
    (2, f"convert good.t7 out.safetensors --max-shard-size {'9' * 400}GB"),
    (6, "convert good.t7 there.pt"),
    (6, "convert good.t7 folder.t7 --force"),
    (6, "convert good.t7 pipe.t7 --force"),
    (6, "convert good.t7 loop.t7"),
    (6, "convert good.t7 empty.t7/out.t7"),
    (6, "convert good.t7 /proc/out.t7"),
    (2, "convert good.t7"),
    (2, "convert good.t7 good.t7"),
    (2, "convert good.t7 out.x"),
    (2, "convert good.t7 --out-dir="),
    (2, "convert good.t7 --out-dir out --dask="),
    (2, "convert good.t7 out.pt --jobs 0"),
    (2, "convert good.t7 out.pt --dtype int3"),
    (2, "convert good.t7 out.pt --sandbox"),
    (2, "convert good.t7 out.pt --nothing"),
    (5, "convert good.t7 out.pt --plugin raises.py"),
    (5, "convert good.t7 out.pt --plugin exits.py"),
    (2, "convert good.t7 out.pt --plugin missing.py"),
    (2, "convert good.t7 out.pt --lua missing.lua"),
    (2, "convert good.t7 out.pt --lua missing.lua --sandbox"),
    (2, "inspect good.t7 --plugin missing.py"),
    (2, "verify good.t7 --plugin missing.py"),
    (2, "convert good.t7 out.npz --dynamic"),
    (2, "convert good.t7 out.pt --opset 17"),
    (7, "convert good.t7 out.pt --lua raises.lua"),
    (7, "convert good.t7 out.pt --lua syntax.lua --sandbox"),
    (2, "convert good.t7 out.onnx"),
    (2, "convert good.t7 out.pt2"),
    (2, "convert good.t7 out.onnx --input nothing"),
    (5, "convert good.t7 out.onnx --input 7x7"),
    (6, "convert good.t7 out.pt --report pipe.html"),
    (6, "inspect good.t7 --html pipe.html"),
    (2, "inspect good.t7 --html folder.t7"),
    (2, "inspect good.t7 --unfold 1"),
    (2, "inspect good.t7 --input 1x3:int3 --dot"),
    (2, "inspect good.t7 --input 999999999999x999999999999 --dot"),
    (5, "inspect good.t7 --input 7x7 --dot"),
    (0, "verify good.t7"),
    (2, "verify good.t7 --device xpu"),
    (2, "verify good.t7 --device meta"),
    (2, "verify good.t7 --device nowhere"),
    (2, "verify good.t7 --trust-manifest"),
    (0, "verify good.t7 good.pt --input 1x3"),
    (0, "verify good.t7 good.py --input 1x3"),
    (4, "verify good.t7 other.t7"),
    (4, "verify good.t7 raises.py"),
    (4, "verify good.t7 exits.py"),
    (4, "verify good.t7 --reference reference.t7"),
    (3, "verify good.t7 --reference data.t7"),
    (5, "verify good.t7 --input 7x7"),
    (2, "verify good.t7 --output 1x3"),
    (2, "verify good.t7 --reference reference.t7 --input 1x3"),
    (2, "verify good.t7 --known-differences known.json"),
    (2, "verify good.t7 --known-differences deep.json"),
    (2, "verify good.t7 --known-differences good.t7"),
    (2, "verify good.t7 --rtol x"),
    (6, "verify good.t7 --html pipe.html"),
    (2, "verify good.t7 --input 1x3 --torch7 missing"),
    (6, "convert good.t7 no/such/out.pt"),
    (6, "inspect good.t7 --html no/such/out.html"),
    (7, "lua raises.lua"),
    (7, "lua syntax.lua"),
    (7, "lua --sandbox raises.lua"),
    (7, "lua --sandbox reads.lua"),
    (3, "lua exits.lua"),
    (3, "lua --sandbox exits.lua"),
    (2, "lua missing.lua"),
    (2, "lua"),
    (2, "lua --max-memory 5 exits.lua"),
]


def run(words: str) -> Result:
    command, *arguments = words.split()
    return CliRunner().invoke(COMMANDS[command], arguments)


@pytest.mark.parametrize(("code", "words"), CASES, ids=lambda v: v[:60] if isinstance(v, str) else str(v))
def test_exit_code(code: int, words: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "lua" in words:
        pytest.importorskip("lupa")
    if "onnx" in words:
        pytest.importorskip("onnxruntime")
    monkeypatch.chdir(folder)
    before = set(os.listdir())
    result = run(words)
    new = set(os.listdir()) - before - {"__pycache__"}  # of a plugin
    for name in new:
        (folder / name).unlink()
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    assert code == 0 or result.output.strip() or "exits.lua" in words
    assert code != 0 or not words.startswith("convert") or new == {words.split()[2]}
    assert code == 0 or not new
    assert all(line.isprintable() for line in result.output.split("\n"))
    assert (folder / "there.pt").read_bytes() == b"kept"
    assert stat.S_ISFIFO((folder / "pipe.html").stat().st_mode)


def test_help_names_the_codes() -> None:
    for command in COMMANDS.values():
        text = CliRunner().invoke(command, ["--help"]).output
        assert max(map(len, text.splitlines())) <= 80
        named = re.findall(r"^  (\d+) ", text[text.index("Exit codes") :], re.M)
        assert {str(code) for code, _ in CASES} | {"8"} <= set(named)


#: what a command needs -> the packages that are hidden from it
EXTRAS = {
    "convert good.t7 out.onnx --input 1x3": ["onnxruntime"],
    "verify good.t7 cut.onnx": ["onnx"],
    "convert good.t7 out.pt --lua raises.lua": ["lupa.luajit21", "lupa.lua51"],
    "lua raises.lua": ["lupa.luajit21", "lupa.lua51"],
    "convert https://localhost:1/x.t7 out.pt": ["aiohttp"],
    "inspect https://localhost:1/x.t7": ["fsspec"],
    "convert good.t7 memory://x/out.pt": ["fsspec", "fsspec.core"],
    "convert good.t7 --out-dir out --dask tcp://localhost:1": ["distributed"],
}


@pytest.mark.parametrize("words", EXTRAS)
def test_a_missing_package_has_one_exit_code(words: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    before = set(os.listdir())
    for name in EXTRAS[words]:
        monkeypatch.setitem(sys.modules, name, None)
    result = run(words)
    assert result.exit_code == 8, result.output
    assert "pip install '" in result.output
    if "https" in words:
        assert "s3fs" not in result.output
        assert "huggingface" not in result.output
    assert set(os.listdir()) == before


def unwritable() -> TextIO:
    """A stream that takes text and fails when it is flushed, as on a full disk."""
    return open(os.open(os.devnull, os.O_RDONLY), "w")


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "unwritable"])
@pytest.mark.parametrize(
    "arguments", ["inspect model.t7", "inspect --help", "inspect model.t7 --json", "convert model.t7 - --to t7"]
)
def test_a_result_that_cannot_be_printed_is_an_error(
    arguments: str, closed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python ended with code 120 and a traceback; None has no method isatty."""
    monkeypatch.chdir(tmp_path)
    dpnn_bridge.write_t7("model.t7", nn.Sequential(nn.Linear(3, 2)))
    monkeypatch.setattr(sys, "stdout", None if closed else unwritable())
    with pytest.raises(SystemExit) as end:
        main(arguments.split())
    sys.stdout.flush()  # as Python does at the end
    assert end.value.code == 1
    assert capsys.readouterr().err.endswith("error: stdout: printing: bad file descriptor\n")


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "unwritable"])
@pytest.mark.parametrize(
    ("arguments", "code"), [("inspect missing.t7", 3), ("inspect", 2), ("convert --bogus", 2), ("bogus", 2), ("lua", 2)]
)
def test_a_message_that_cannot_be_printed_leaves_the_exit_code(
    arguments: str, code: int, closed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages about usage ended with code 120."""
    monkeypatch.setattr(sys, "stderr", None if closed else unwritable())
    with pytest.raises(SystemExit) as end:
        main(arguments.split())
    sys.stderr.flush()
    assert end.value.code == code


def test_a_completion_that_cannot_be_printed_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_DPNN_INSPECT_COMPLETE", "zsh_source")
    monkeypatch.setattr(sys, "stdout", unwritable())
    with pytest.raises(SystemExit) as end:
        inspect_command.main([], prog_name="dpnn-inspect")
    assert end.value.code == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize(
    ("code", "script"),
    [(1, "io.write(1)"), (1, "io.write(('x'):rep(100000))"), (1, "pcall(print, 1)"), (3, "io.write(1) os.exit(3)")],
)
def test_what_a_script_prints_and_stdout_does_not_take_is_an_error(code: int, script: str) -> None:
    """io.write returns nil, of which a script takes no notice, and the command ended with code 0."""
    pytest.importorskip("lupa")
    stdout = os.dup(1)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, 1)
    try:
        result = CliRunner().invoke(lua_command, ["-e", script])
    finally:
        with suppress(FileAccessError):
            check_printed()  # os.exit(3) leaves the error
        os.dup2(stdout, 1)
        os.close(full)
        os.close(stdout)
    assert result.exit_code == code
    assert ("stdout did not take everything" in result.output) == (code == 1)


@pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="no SIGPIPE here")
def test_a_script_ends_when_nothing_reads_what_it_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    """As th does: ``dpnn-lua script.lua | head`` ran until the end of the script."""
    pytest.importorskip("lupa")
    handlers = []
    monkeypatch.setattr(LuaBridge, "execute", lambda *_, **__: handlers.append(signal.getsignal(signal.SIGPIPE)))
    before = signal.getsignal(signal.SIGPIPE)
    result = CliRunner().invoke(lua_command, ["-e", ""])
    assert result.exit_code == 0, result.output
    assert handlers[-1] is signal.SIG_DFL
    assert signal.getsignal(signal.SIGPIPE) is before


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ("--to json", 5, "error: stdout: the input contains a model, and .json stores only data"),
        ("--to safetensors --max-shard-size 5", 2, "Error: --max-shard-size writes several files; name one"),
    ],
)
def test_an_error_of_a_conversion_to_stdout_names_stdout(options: str, code: int, message: str, tmp_path: Path) -> None:
    dpnn_bridge.write_t7(tmp_path / "m.t7", nn.Linear(3, 2))
    result = CliRunner().invoke(convert_command, [str(tmp_path / "m.t7"), "-", *options.split()])
    assert (result.exit_code, message in result.stderr, ".dpnn-" in result.stderr) == (code, True, False)


def test_a_closed_stdin_is_no_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(SystemExit) as end:
        main(["convert", "-", str(tmp_path / "out.pt")])
    assert (end.value.code, capsys.readouterr().err) == (1, "error: converting: bad file descriptor\n")


def without_working_directory(error: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``os.getcwd`` fail, in a process that has not imported PyTorch."""

    def fail() -> str:
        raise error

    monkeypatch.setattr(os, "getcwd", fail)
    monkeypatch.setattr(gc, "freeze", lambda: None)
    for name in ("torch", "dpnn_bridge.lua.bridge"):
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_removed_working_directory_is_one_error(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's MKL ended the process."""
    without_working_directory(FileNotFoundError(2, "No such file or directory"), monkeypatch)
    result = CliRunner().invoke(COMMANDS[command], ["/m.t7", "/o.pt"] if command == "convert" else [__file__])
    expected = "error: the working directory was removed; change to another folder\n"
    assert (result.exit_code, result.stderr) == (1, expected)


@pytest.mark.parametrize("error", [FileNotFoundError(2, "No such file"), PermissionError(13, "Permission denied")])
def test_a_tree_needs_no_working_directory(error: OSError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_t7(tmp_path / "m.t7", linear())
    without_working_directory(error, monkeypatch)
    result = CliRunner().invoke(inspect_command, ["--raw", str(tmp_path / "m.t7")])
    assert (result.exit_code, "nn.Linear" in result.stdout) == (0, True)


def test_an_unreadable_working_directory_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """``os.getcwd`` fails there on macOS."""
    without_working_directory(PermissionError(13, "Permission denied"), monkeypatch)
    with checking_torch():
        assert sys.meta_path[0].find_spec("torch", None) is None


@pytest.mark.skipif(not hasattr(os, "set_blocking"), reason="streams always block here")
def test_a_pipe_that_another_program_made_non_blocking_is_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its input was empty, and its output ended with the first full pipe."""
    model, copy = dumps(linear()), tmp_path / "out.t7"
    (read, write), (results, printed) = os.pipe(), os.pipe()
    for descriptor in (read, printed):
        os.set_blocking(descriptor, False)
    sent = threading.Timer(0.05, lambda: (os.write(write, model), os.close(write)))
    with open(read) as stdin, open(printed, "w") as stdout:
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr(sys, "stdout", stdout)
        sent.start()
        with pytest.raises(SystemExit) as end:
            main(["convert", "-", str(copy)])
        assert end.value.code == 0
        assert os.get_blocking(printed)
    os.close(results)
    sent.join()
    assert copy.is_file()


def test_an_interrupt_while_a_program_ends_prints_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second Ctrl-C printed the traceback of a function that PyTorch calls at the end."""
    registered: list[Any] = []
    monkeypatch.setattr("atexit.register", lambda *call: registered.append(call))

    def interrupted(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(inspect_command, "main", interrupted)
    with pytest.raises(SystemExit) as end:
        inspect_command()
    assert end.value.code == 130
    assert registered == [(signal.signal, signal.SIGINT, signal.SIG_DFL)]
