"""``dpnn-lua -i`` on a pseudo terminal: values, blocks, completion, history, errors."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path

import pytest

pytest.importorskip("lupa")
pytest.importorskip("prompt_toolkit")
pytest.importorskip("pty", reason="pseudo terminals are Unix's")

import fcntl
import pty
import termios

from dpnn_bridge.cli import lua_prompt
from dpnn_bridge.errors import LuaBridgeError
from dpnn_bridge.lua import LuaBridge

HERE = Path(__file__).parent
_ESCAPES = re.compile(rb"\x1b(\[[0-9;?]*[A-Za-z]|[=>]|\][^\x07]*\x07)")


class Terminal:
    """A program on a pseudo terminal."""

    def __init__(self, home: Path) -> None:
        self.master, slave = pty.openpty()
        environment = os.environ | {
            "XDG_STATE_HOME": str(home),
            "PROMPT_TOOLKIT_NO_CPR": "1",
            "TERM": "xterm",
            "COLUMNS": "100",
        }
        code = "from dpnn_bridge.cli.lua import lua_command; lua_command()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, "-i"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            close_fds=True,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # Ctrl-C reaches the program
        )
        os.close(slave)
        self.text = b""

    def expect(self, wanted: str, seconds: float = 60) -> str:
        """Reads until ``wanted`` appears and gives what was before it."""
        end = time.monotonic() + seconds
        while True:
            plain = _ESCAPES.sub(b"", self.text).replace(b"\r", b"")
            if (at := plain.find(wanted.encode())) >= 0:
                before = plain[:at].decode(errors="replace")
                self.text = plain[at + len(wanted) :]
                return before
            ready, _, _ = select.select([self.master], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise AssertionError(f"{wanted!r} did not come, but {plain[-2000:]!r}")
            self.text += os.read(self.master, 65536)

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    started = Terminal(tmp_path)
    yield started
    started.process.kill()
    started.process.wait()
    os.close(started.master)


def test_values_show_as_th_shows_them(capfd: pytest.CaptureFixture[str]) -> None:
    bridge = LuaBridge()
    source = (resources.files("dpnn_bridge.lua") / "prelude" / "show.lua").read_text()
    show = bridge.execute(source)
    bridge.execute("local show = ... SHOW = function(...) return show(5, ...) end", show)
    bridge.run_file(HERE / "shown.lua")
    assert capfd.readouterr().out == (HERE / "shown.txt").read_text()


class Answering:
    """A sandbox whose script replaced the functions that the prompt uses."""

    runtime = "lua51"

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def execute(self, code: str, *arguments: object, name: str) -> tuple[str, str]:
        return "compile", "complete"

    def call(self, function: object, *arguments: object) -> object:
        if function not in ("compile", "complete"):
            raise LuaBridgeError("not a function")
        return self.answer


@pytest.mark.parametrize(
    "answer",
    [None, 5, (), (None, None), (None, False, 5), (1, 2, 3, 4), [1, None], {"a": 1}, ["a\x1b", "a\u202e", "a\n", ""]],
)
def test_any_answer_of_a_sandbox_is_an_error_or_nothing(answer: object, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[list[str]] = []

    def reader(complete: Callable[[str], list[str]]) -> Callable[[str], str]:
        found.append(complete("tor"))
        lines = iter(["x = 1", ""])
        return lambda _: next(lines, None) or end()

    def end() -> str:
        raise EOFError

    monkeypatch.setattr(lua_prompt, "_reader", reader)
    lua_prompt.prompt(Answering(answer), lambda error: False)
    assert found == [[]]


def test_interrupts(terminal: Terminal) -> None:
    terminal.expect("not needed before an expression.")
    for loop in ("torch.tic()", "local x = 1", "pcall(error)"):
        terminal.type(f"print('tic' .. 1) while true do {loop} end\r")
        terminal.expect("tic1\t\n")
        terminal.type("\x03")
        terminal.expect(">")
    terminal.type("for i = 1, 2 do\r")
    terminal.expect(">>")
    terminal.type("\r")  # an empty line ends a block
    terminal.expect("'end' expected")
    terminal.type("error('mine')\r")
    terminal.expect("stdin:1: mine")
    terminal.type("print('idle' .. 2) loadstring('while true do end')()\r")  # compiled: nothing looks at Ctrl-C
    terminal.expect("idle2\t\n")
    terminal.type("\x03")
    terminal.expect("press Ctrl-C again to end dpnn-lua")
    terminal.type("\x03")
    assert terminal.process.wait(60) == 130


def test_a_session(terminal: Terminal, tmp_path: Path) -> None:
    terminal.expect("not needed before an expression.")
    terminal.type("{a = torch.ones(2, 3), b = 'x'}\r")
    terminal.expect("a : DoubleTensor - size: 2x3")
    terminal.expect('b : "x"')
    terminal.type("torch.setdefaulttens\t")
    terminal.expect("ortype")  # what Tab adds
    terminal.type("('torch.FloatTensor')\r")
    terminal.type("for i = 1, 2 do\r")
    terminal.type("print('number ' .. i + 5) end\r")
    terminal.expect("number 6\t\n")
    terminal.type("torch.type(torch.Tensor())\r")
    terminal.expect("torch.FloatTensor\t\n")
    terminal.type("error('broken', 0)\r")
    terminal.expect("broken\n")
    terminal.type("torch.Tensor(2):add('x')\r")
    terminal.expect("invalid arguments")
    terminal.type("os.exit(3)\r")
    assert terminal.process.wait(60) == 3
    typed = (tmp_path / "dpnn-lua" / "history").read_text()
    assert "+os.exit(3)" in typed
    assert "+torch.setdefaulttensortype('torch.FloatTensor')" in typed
