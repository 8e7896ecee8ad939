"""Run the prompt of ``dpnn-lua -i``, with history and completion, as in ``th``."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import click

from dpnn_bridge.base.folders import end_without_exception
from dpnn_bridge.cli.terminal import in_options, say_lines
from dpnn_bridge.errors import LuaBridgeError

_WORD = re.compile(r"[\w.:]*$")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def history_file() -> Path:
    """Return the path of the history file, in ``XDG_STATE_HOME``."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "dpnn-lua" / "history"


def _reader(complete: Callable[[str], Iterable[str]]) -> Callable[[str], str]:
    """Return a function that reads a line: a session of prompt_toolkit on a terminal, otherwise ``input``."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return input
    try:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import Completer, Completion
        from prompt_toolkit.history import FileHistory, InMemoryHistory
    except ImportError:
        return input

    class Names(Completer):
        def get_completions(self, document: Any, complete_event: Any) -> Iterable[Any]:
            match = _WORD.search(document.text_before_cursor)
            word = match.group() if match else ""
            length = len(re.split(r"[.:]", word)[-1])
            for name in complete(word):
                yield Completion(name, start_position=-length)

    path = history_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        history: Any = FileHistory(str(path))
    except OSError:
        history = InMemoryHistory()
    session: Any = PromptSession(history=history, completer=Names(), complete_while_typing=False)
    return session.prompt


@contextlib.contextmanager
def ending_at_once(broken_pipes: bool) -> Iterator[None]:
    """End the program on Ctrl-C, as th does, and on signals while it saves a file.

    Python's signal handler would not run during a loop in Lua, and pcall would catch its exception.

    Args:
        broken_pipes: also end the program when it prints to a closed pipe, as in ``dpnn-lua script.lua | head``.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = [signal.SIGINT, *([signal.SIGPIPE] if broken_pipes and hasattr(signal, "SIGPIPE") else [])]
    previous = [signal.signal(number, signal.SIG_DFL) for number in signals]
    try:
        with end_without_exception():
            yield
    finally:
        for number, handler in zip(signals, previous, strict=True):
            signal.signal(number, handler)


#: seconds after Ctrl-C until a message explains how to end the program
_PATIENCE = 1.0


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Interrupt Lua code on Ctrl-C, at its next call to Python. A second Ctrl-C ends the program."""
    if os.name != "posix":
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def watch() -> None:
        interrupted = explained = False
        while True:
            timeout = _PATIENCE if interrupted and not explained else None
            if not select.select([reader], [], [], timeout)[0]:
                explained = True
                os.write(2, b"\nCtrl-C: waiting until Lua calls torch; press Ctrl-C again to end dpnn-lua\n")
                continue
            byte = os.read(reader, 1)
            if byte == b"\0":
                return
            if byte == bytes([signal.SIGINT]):
                if interrupted:
                    os._exit(130)
                interrupted = True

    watcher = threading.Thread(target=watch, daemon=True)
    previous = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous)
        os.write(writer, b"\0")
        watcher.join()
        os.close(reader)
        os.close(writer)


def prompt(bridge: Any, ends: Callable[[LuaBridgeError], bool]) -> None:
    """Read lines until the end of input. In a sandbox, the answers to the prompt's own calls may be any values.

    Args:
        bridge: the Lua runtime that runs the lines.
        ends: returns whether an error is a call of ``os.exit``.
    """
    from dpnn_bridge.lua.text import from_system, readable

    prelude = resources.files("dpnn_bridge.lua") / "prelude"

    def run_file(name: str, *arguments: Any) -> Any:
        return bridge.execute((prelude / name).read_text(encoding="utf-8"), *arguments, name=f"dpnn_bridge/{name}")

    compile_, complete = run_file("prompt.lua", run_file("show.lua"))

    def names(word: str) -> list[str]:
        try:
            found = bridge.call(complete, from_system(word))
        except LuaBridgeError:
            return []
        if not isinstance(found, list):
            return []
        return [name for name in found if isinstance(name, str) and _NAME.fullmatch(name)]

    click.echo(f"dpnn-lua on {bridge.runtime}; Ctrl-D ends, Tab completes, = is not needed before an expression.")
    read = _reader(names)
    text = ""
    while True:
        try:
            line = read("> " if not text else ">> ")
        except EOFError:
            click.echo()
            return
        except KeyboardInterrupt:
            click.echo()
            text = ""
            continue
        text = f"{text}\n{line}" if text else line.removeprefix("=")
        if not text.strip():
            text = ""
            continue
        try:
            answer = bridge.call(compile_, from_system(text))
            run, more, message, *_ = (*answer, None, None, None) if isinstance(answer, tuple) else (answer, False, None)
            if run is None and more and line.strip():
                continue  # read the rest of an incomplete block; an empty line ends it
            text = ""
            if run is None:
                say_lines(readable(str(message or "")), err=True)
            else:
                with _interruptible():
                    bridge.call(run)
        except LuaBridgeError as error:
            text = ""
            if ends(error):
                raise
            say_lines(in_options(str(error)), err=True)
        except KeyboardInterrupt:
            text = ""
            click.echo()
