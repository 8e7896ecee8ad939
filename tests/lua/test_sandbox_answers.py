"""What the program makes of the answers of a sandbox, whatever its process sends: no process runs here."""

from __future__ import annotations

import io
import json
import math
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("lupa")

from dpnn_bridge.errors import LuaBridgeError
from dpnn_bridge.lua import sandbox
from dpnn_bridge.lua.module import LuaModule
from dpnn_bridge.lua.sandbox import Sandbox
from dpnn_bridge.lua.sandboxed_bridge import SandboxedBridge
from dpnn_bridge.lua.state import LuaState
from dpnn_bridge.lua.wire import WireError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no sandbox")


@pytest.fixture
def program() -> Any:
    return alone()


def alone() -> Any:
    """Return a sandbox whose process is not there."""
    made: Any = Sandbox.__new__(Sandbox)
    made.released = []
    made._ended, made._close, made.to_stderr = "", lambda: None, False
    made._errors = io.BytesIO()
    made._process = SimpleNamespace(wait=lambda timeout: 1, poll=lambda: 1)
    return made


def answers(*values: Any) -> Any:
    waiting = [*values]
    return SimpleNamespace(receive=lambda *_: waiting.pop(0), send=lambda *_: None, write=lambda *_: None)


ANSWERS = [None, 5, "value", ["value", 1], ("value",), ("value", 1, 2), ("eval", "x"), (["value"], 1), (None, 1)]
NO_TEXT = [("print", 5), ("error", None), ("module", b"x"), ("module", ["x"])]


@pytest.mark.parametrize("answer", [*ANSWERS, *NO_TEXT], ids=repr)
def test_another_answer_ends_the_process(answer: Any, program: Any) -> None:
    program._channel = answers(answer, ("value", 7))
    with pytest.raises(LuaBridgeError, match=r"the Lua sandbox has ended: its process ended \(exit code 1\)"):
        program._exchange(("x",), math.inf, "late")
    program._channel = answers(answer)
    with pytest.raises(WireError, match="an answer that is not text" if answer in NO_TEXT else "an invalid answer"):
        program._answer(math.inf)


@pytest.mark.parametrize("content", [[1.0, "a", "b"], [True, "a", "b"], [1, 5, "b"], [1, "a", None], [1, "a", ["b"]]])
def test_a_value_that_stays_in_the_process_has_a_number_and_two_names(content: Any, program: Any) -> None:
    with pytest.raises(WireError, match="a value of unknown type"):
        program._remote(content)


@pytest.mark.parametrize("answer", [None, 5, "x", b"", b"x", [b"x"], torch.ones(2)], ids=repr)
def test_an_object_that_cannot_be_read_is_an_error_of_the_sandbox(answer: Any) -> None:
    bridge: Any = SandboxedBridge.__new__(SandboxedBridge)
    bridge._ask = lambda *_: answer
    with pytest.raises(LuaBridgeError, match="the Lua sandbox sent an object that cannot be read"):
        bridge.to_object(None)


@pytest.mark.parametrize("use", [list, lambda value: 5 in value, lambda value: tuple(value)], ids=["list", "in", "*"])
def test_a_value_that_stays_in_the_process_is_not_iterated(use: Any, program: Any) -> None:
    program._channel = answers(*[("value", None)] * 3)
    with pytest.raises(TypeError, match="is not"):
        use(program._remote([3, "table", "table"]))


def test_a_state_that_does_not_fit_the_layer_is_one_error_everywhere(program: Any) -> None:
    bridge: Any = SandboxedBridge.__new__(SandboxedBridge)
    bridge._remote_tensors, bridge._replaced = {}, {}
    state: list[Any] = [["weight"], [torch.ones(2)], [1], []]
    bridge._ask = lambda operation, *_: state if operation == "state_of" else "nn.X"
    module = LuaModule(bridge, program._remote([3, "table", "nn.X"]))
    bridge._remote_tensors[3].clear()
    for use in (module.double, lambda: module.obj):
        with pytest.raises(LuaBridgeError, match="reading a result of Lua"):
            use()


def test_a_value_of_another_sandbox_is_refused(program: Any) -> None:
    value = program._remote([3, "table", "\x1b[2J"])
    assert repr(value).isprintable()
    assert program._number(value) == 3
    for wrong in (alone()._remote([3, "table", "table"]), 3, None):
        with pytest.raises(LuaBridgeError, match="cannot be converted to a value in this Lua sandbox"):
            program._number(wrong)


def test_what_the_process_said_last_is_short_and_has_no_effect(program: Any) -> None:
    program._errors = io.BytesIO(b"x" * 100_000 + b"\x1b[31m")
    said = program._end("it ended").args[0]
    assert len(said) < 2200
    assert "\x1b" not in said


def test_a_name_that_no_file_can_have_is_found_nowhere(
    program: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program.lua_path = [tmp_path]
    (tmp_path / "circle.lua").symlink_to(tmp_path / "circle.lua")
    for name in ("a\0b", "x" * 300, "circle", "\xff\ud800"):
        assert program._find(name) is None
    monkeypatch.setattr(sandbox, "find_module", lambda *_: pytest.fail("it was looked for"))
    assert program._find("x" * 100_000) is None


def test_an_error_of_lua_is_text_without_effect(program: Any) -> None:
    program._channel = answers(("error", "caf\xc3\xa9 \x1b[2J"))
    with pytest.raises(LuaBridgeError) as raised:
        program._exchange(("x",), math.inf, "late")
    assert raised.value.args[0] == "café \N{REPLACEMENT CHARACTER}[2J"
    assert not program._ended


def test_a_call_that_was_late_or_wrong_is_the_last(program: Any) -> None:
    def late(*_: Any) -> None:
        raise TimeoutError

    for channel in (answers(None), SimpleNamespace(write=lambda *_: None, receive=late)):
        program._ended, program._channel = "", channel
        with pytest.raises(LuaBridgeError, match="the Lua sandbox has ended"):
            program._exchange(("x",), math.inf, "late")
        assert program._ended


def test_a_failure_to_start_counting_does_not_disable_the_limit_of_later_calls() -> None:
    """Lua may lack the memory for the call that starts the count."""
    started: list[int] = []

    def start(limit: int) -> None:
        started.append(limit)
        if len(started) == 1:
            raise MemoryError

    functions = {"start_counting": start, "stop_counting": lambda: None}
    state: Any = SimpleNamespace(sandbox=True, _counting=False, max_instructions=7, bridge=functions)
    with pytest.raises(MemoryError), LuaState.limited(state):
        pass
    with LuaState.limited(state):
        pass
    assert started == [7, 7]


def test_an_answer_that_cannot_be_encoded_is_an_error_and_the_process_continues() -> None:
    from dpnn_bridge.lua.confined import Server

    results: list[Any] = [[object(), torch.zeros(1).expand(1 << 50)], "next"]
    server: Any = Server(SimpleNamespace(), 0)  # type: ignore[arg-type]
    functions = {"to_python": lambda _: results.pop(0), "kind_of": lambda _: "table", "type_of": str}
    server.bridge = SimpleNamespace(**functions, errors=nullcontext)
    text = b"".join(server._answer("to_python", [None]))[8:]
    assert json.loads(text)["value"]["s"][0] == "error"
    assert not server._values  # the program never gets the first value
    assert json.loads(b"".join(server._answer("to_python", [None]))[8:])["value"]["s"] == ["value", "next"]
