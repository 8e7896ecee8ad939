"""How a sandbox ends: closed by another thread or inside a call, and one that cannot start."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lupa")

from dpnn_bridge.errors import DpnnBridgeError, FileAccessError, LuaBridgeError
from dpnn_bridge.lua import LuaBridge

pytestmark = [
    pytest.mark.usefixtures("warm_sandboxes"),
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no sandbox"),
]


def test_a_call_ends_if_another_thread_closes_the_sandbox(tmp_path: Path) -> None:
    """The call closes the pipes: their numbers may belong to other files before it reads them again."""
    (tmp_path / "file").write_bytes(bytes(1000))
    for _ in range(10):
        bridge, found = LuaBridge(sandbox=True), list[Exception]()

        def call(bridge: Any = bridge, found: list[Exception] = found) -> None:
            try:
                bridge.execute("while true do end")
            except Exception as error:
                found.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        time.sleep(0.02)
        bridge.close()
        files = [os.open(tmp_path / "file", os.O_RDONLY) for _ in range(8)]
        thread.join(30)
        assert [type(e) for e in found] == [LuaBridgeError]
        assert "it was closed" in str(found[0])
        assert [os.lseek(file, 0, os.SEEK_CUR) for file in files] == [0] * 8
        for file in files:
            os.close(file)


@pytest.mark.parametrize("seconds", [0.0, 0.5])
def test_a_stream_for_print_closes_the_sandbox(seconds: float) -> None:
    """Also after the process has answered the call."""
    bridge: Any = LuaBridge(sandbox=True)

    class Closing(io.StringIO):
        def write(self, text: str) -> int:
            time.sleep(seconds)
            bridge.close()
            return len(text)

    with contextlib.redirect_stdout(Closing()), pytest.raises(LuaBridgeError, match="it was closed"):
        bridge.execute("print(1); return 2")
    with pytest.raises(LuaBridgeError, match="it was closed"):
        bridge.execute("return 2")


@pytest.mark.parametrize("error", [BlockingIOError(11, "Resource temporarily unavailable"), MemoryError()])
def test_a_process_that_cannot_start_is_one_error(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    expected = FileAccessError if isinstance(error, OSError) else LuaBridgeError
    with pytest.raises(expected, match="starting the Lua sandbox: "):
        LuaBridge(sandbox=True)


def test_a_program_without_the_path_of_python_has_no_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", None)
    with pytest.raises(DpnnBridgeError, match=r"set sys\.executable"):
        LuaBridge(sandbox=True)
