"""What a signal leaves of files that are being written, in the moments that a test of whole programs rarely meets."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner

from dpnn_bridge.base import atomic, folders
from dpnn_bridge.base.folders import Terminated, clean_up_on_signals, temporary_folder
from dpnn_bridge.cli import entry_points
from dpnn_bridge.cli.lua_prompt import ending_at_once
from dpnn_bridge.cli.terminal import ReportingCommand
from dpnn_bridge.cli.torch_import import load_torch

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")


@pytest.fixture(autouse=True)
def default_handler() -> Any:
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("Python handles signals in the main thread")
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


def signalling(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> None:
        function(*arguments, **options)
        signal.raise_signal(signal.SIGTERM)

    return call


def test_a_signal_while_files_are_moved_waits_for_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "_move_one", signalling(atomic._move_one))

    def write() -> None:
        with atomic.replacing(tmp_path / "index", force=True, parts=lambda path: []) as temporary:
            temporary.write_text("shard")
            (temporary.parent / "shard").write_text("elements")

    with pytest.raises(Terminated):
        write()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["index", "shard"]


def test_a_signal_while_old_files_are_removed_waits_for_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards of the old set remained, which no index names."""
    old = [tmp_path / name for name in ("old1", "old2")]
    for file in (*old, tmp_path / "index"):
        file.write_text(file.name)
    monkeypatch.setattr(Path, "unlink", signalling(Path.unlink))

    def write() -> None:
        with atomic.replacing(tmp_path / "index", force=True, parts=lambda path: old) as temporary:
            temporary.write_text("new")

    with pytest.raises(Terminated):
        write()
    assert [p.name for p in tmp_path.iterdir()] == ["index"]
    assert (tmp_path / "index").read_text() == "new"


def test_a_worker_that_ends_waits_until_files_are_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread ends a worker of --jobs when its parent ends. It left shards without an index."""
    ended = threading.Event()

    def end() -> None:
        with folders._lock:  # as in remove_temporary, which does not release it
            folders._remove_all()
            ended.set()

    real = atomic._move_one

    def move(*args: Any) -> None:
        real(*args)
        threading.Thread(target=end, daemon=True).start()
        assert not ended.wait(0.02)

    monkeypatch.setattr(atomic, "_move_one", move)
    with atomic.replacing(tmp_path / "index", force=True, parts=lambda path: []) as temporary:
        temporary.write_text("shard")
        (temporary.parent / "shard").write_text("elements")
    assert ended.wait(10)


def test_a_thread_that_moves_files_holds_up_no_other_thread_and_no_forked_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that was forked meanwhile waited forever."""
    inside, done, real = threading.Event(), threading.Event(), atomic._move_all

    def move(*args: Any) -> None:
        inside.set()
        done.wait(30)
        real(*args)

    monkeypatch.setattr(atomic, "_move_all", move)
    writer = threading.Thread(target=atomic.write_text, args=(tmp_path / "one", "1"), kwargs={"force": True})
    writer.start()
    try:
        assert inside.wait(30)
        child = os.fork()
        if child == 0:
            signal.alarm(5)
            done.set()
            with suppress(BaseException), clean_up_on_signals():
                atomic.write_text(tmp_path / "two", "2", force=True)
                os._exit(0)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        other = threading.Thread(target=lambda: temporary_folder(tmp_path).__enter__(), daemon=True)
        other.start()
        other.join(5)
        assert not other.is_alive()
    finally:
        done.set()
        writer.join()
    assert {"one", "two"} <= {p.name for p in tmp_path.iterdir()}


def test_a_signal_while_a_folder_is_made_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "mkdir", signalling(Path.mkdir))
    with pytest.raises(Terminated), temporary_folder(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []
    assert not any(folder.parent == tmp_path for folder in folders._folders)


def test_a_signal_removes_the_folders_of_other_threads(tmp_path: Path) -> None:
    made, done = threading.Event(), threading.Event()

    def hold() -> None:
        with temporary_folder(tmp_path):
            made.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert made.wait(30)
    try:
        with pytest.raises(Terminated), clean_up_on_signals():
            signal.raise_signal(signal.SIGTERM)
        assert list(tmp_path.iterdir()) == []
    finally:
        done.set()
        thread.join()


def test_a_second_signal_ends_the_program_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[object] = []
    monkeypatch.setattr(folders, "remove_temporary", lambda: ended.append("removed"))
    monkeypatch.setattr(os, "_exit", ended.append)
    with suppress(Terminated), clean_up_on_signals():
        with pytest.raises(Terminated):
            signal.raise_signal(signal.SIGTERM)
        with suppress(Terminated):
            signal.raise_signal(signal.SIGTERM)
    assert ended == ["removed", 128 + signal.SIGTERM]


class SignalledInFinalizer:
    """An object in whose ``__del__`` a signal comes."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("effect", [None, OSError("the folder is gone")])
def test_a_signal_during_a_finalizer_ends_the_program(effect: Exception | None, tmp_path: Path) -> None:
    """Python ignores exceptions in ``__del__``: a batch went on, and failed because its folder was removed."""

    def write() -> None:
        with temporary_folder(tmp_path):
            SignalledInFinalizer()
            if effect is not None:
                raise effect

    for _ in range(2):  # the first one leaves no state
        with pytest.raises(Terminated):
            write()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_effect_of_a_signal_that_a_library_caught_is_the_signal(number: signal.Signals, tmp_path: Path) -> None:
    """A batch went on, and each export failed because an import was incomplete."""

    def write(error: Exception) -> None:
        with temporary_folder(tmp_path):
            with suppress(KeyboardInterrupt):
                signal.raise_signal(number)
            raise error

    with pytest.raises(KeyboardInterrupt) as found:
        write(AttributeError("module 'torch._dynamo' has no attribute 'utils'"))
    assert isinstance(found.value, Terminated) == (number == signal.SIGTERM)
    with pytest.raises(ValueError, match="another"), temporary_folder(tmp_path):  # no state is left
        raise ValueError("another error")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_during_a_finalizer_ends_a_command(number: int, code: int) -> None:
    """Also where the command has no temporary folder."""

    class Signalled:
        def __del__(self) -> None:
            raise KeyboardInterrupt if number == signal.SIGINT else Terminated(number)

    def run() -> None:
        Signalled()

    result = CliRunner().invoke(ReportingCommand("command", callback=run))
    assert result.exit_code == code, result.output


def test_an_interrupt_that_the_program_catches_is_raised_once() -> None:
    with clean_up_on_signals(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_signal_ends_a_script_that_catches_every_exception(tmp_path: Path) -> None:
    """A Lua script went on if the signal came during ``pcall(torch.save, …)``."""
    child = os.fork()
    if child == 0:
        with suppress(BaseException), ending_at_once(broken_pipes=False), temporary_folder(tmp_path):
            signal.raise_signal(signal.SIGTERM)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_folders_of_similar_names_stay(tmp_path: Path) -> None:
    for name in (".dpnn-0123456789abcdef-kept", ".dpnn-0123456789ABCDEF", ".dpnn-0", "x.dpnn-0123456789abcdef"):
        (tmp_path / name).mkdir()
    (tmp_path / ".dpnn-0123456789abcdef").mkdir()
    (tmp_path / ".dpnn-1123456789abcdef").symlink_to(tmp_path / ".dpnn-0", target_is_directory=True)
    before = {p.name for p in tmp_path.iterdir()}
    folders.remove_abandoned(tmp_path)
    assert before - {p.name for p in tmp_path.iterdir()} == {".dpnn-0123456789abcdef"}


@pytest.mark.parametrize("signalled", [True, False], ids=["a signal", "the end of the block"])
def test_a_forked_process_leaves_the_folders_of_its_parent(signalled: bool, tmp_path: Path) -> None:
    """It had removed the file that its parent, or another thread of its parent, was writing."""
    with temporary_folder(tmp_path) as folder:
        pid = os.fork()
        if pid:
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            assert folder.is_dir()
            assert not folders.is_abandoned(folder)
        try:
            if not pid and signalled:
                signal.raise_signal(signal.SIGTERM)
        except Terminated:
            os._exit(0)
    if not pid:
        os._exit(0)
    assert not folder.exists()


def test_a_link_in_place_of_a_folder_is_not_followed(tmp_path: Path) -> None:
    """The files of the folder that the link names had been deleted."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").touch()
    with temporary_folder(tmp_path) as folder:
        folder.rename(tmp_path / "moved")
        folder.symlink_to(other)
    assert (other / "file").exists()


def test_a_signal_while_a_command_is_imported_ends_it_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    handlers = []
    command = ModuleType("command")
    command.main = lambda: handlers.append(signal.getsignal(signal.SIGINT))  # type: ignore[attr-defined]

    def import_module(name: str) -> ModuleType:
        handlers.append(signal.getsignal(signal.SIGINT))
        return command

    monkeypatch.setattr(importlib, "import_module", import_module)
    for handler in (signal.default_int_handler, signal.SIG_IGN):
        before = signal.signal(signal.SIGINT, handler)
        try:
            entry_points.dpnn()
        finally:
            signal.signal(signal.SIGINT, before)
    assert handlers == [signal.SIG_DFL, signal.default_int_handler, signal.SIG_IGN, signal.SIG_IGN]


def test_a_signal_while_pytorch_is_imported_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch ignored the exception, aborted, or raised an ImportError."""
    (tmp_path / "torch.py").write_text(
        "import signal\nfrom dpnn_bridge.base import folders\n"
        "seen = signal.getsignal(signal.SIGINT), folders._without_exception\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "torch", None)  # restored after the test
    del sys.modules["torch"]
    monkeypatch.setattr(gc, "freeze", lambda: None)
    load_torch(lambda step: None)
    assert sys.modules["torch"].seen == (folders._end, True)
