"""Start and control the process in which a sandboxed bridge runs Lua."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import torch

from dpnn_bridge.base.boundary import as_package_error, wrap_errors
from dpnn_bridge.base.regular import read_file
from dpnn_bridge.errors import DpnnBridgeError, LuaBridgeError
from dpnn_bridge.lua.checkouts import find_module
from dpnn_bridge.lua.text import from_system, readable, to_system
from dpnn_bridge.lua.wire import ENDED, Channel, WireError, encoded

#: seconds that the process may take to start, also on a busy machine
_START_SECONDS = 120
#: largest max_seconds for which the kernel limits the CPU time too; its limits are integers of a bounded size
_MAX_CPU_LIMIT = 1e9
#: largest Lua file, in bytes, that ``require`` loads
_MAX_FILE = 16 << 20
#: longest name of a module, in characters
_MAX_NAME = 1000
#: control characters, bidirectional text marks, line separators and lone surrogates
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
#: environment variables that are passed to the process: those that Python may need to start
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "VIRTUAL_ENV", "PYTHONHOME", "TZ")


class RemoteValue:
    """A Lua value that stays in the process, such as a function or an object of a Lua class.

    It can be called and indexed as in Lua, but not iterated; ``bridge.to_python`` converts it.

    Attributes:
        kind: result of Lua's ``type``.
        type_name: result of ``torch.type``.
    """

    def __init__(self, sandbox: Sandbox, number: int, kind: str, type_name: str) -> None:
        self.sandbox, self.number, self.kind, self.type_name = sandbox, number, kind, type_name
        weakref.finalize(self, sandbox.released.append, number)

    def __call__(self, *args: Any) -> Any:
        return self.sandbox.ask("call", self, args)

    def __getitem__(self, key: Any) -> Any:
        return self.sandbox.ask("index", self, key)

    # with __getitem__, Python would ask for the elements 0, 1, 2, … without an end
    __iter__ = None
    __contains__ = None

    def __repr__(self) -> str:
        return f"<{self.type_name} {self.number} in the Lua sandbox>"


class Sandbox:
    """Starts the process, sends requests to it, and kills it when a request takes too long.

    Args:
        lua_path: folders with Lua files for ``require``; the parent process reads the files.
        max_memory: bytes that Lua and its tensors may use.
        max_seconds: wall-clock seconds that one request may take. On Linux the kernel also limits the CPU time to this
            number per core, unless this program is root without CAP_SYS_RESOURCE, as in many containers.
        max_instructions: Lua instructions that one request may run.
        partial: continue with a warning if the kernel cannot confine the process.

    Raises:
        LuaBridgeError: the process cannot start, this system cannot confine it, or a limit is not positive.
    """

    @wrap_errors(LuaBridgeError, "starting the Lua sandbox")
    def __init__(
        self,
        lua_path: Sequence[Path],
        max_memory: float,
        max_seconds: float,
        max_instructions: float,
        partial: bool = False,
    ) -> None:
        _check_platform()
        limits = {"max_memory": max_memory, "max_seconds": max_seconds, "max_instructions": max_instructions}
        for name, limit in limits.items():
            is_finite = name == "max_seconds" or limit < math.inf
            if not (limit > 0 and is_finite):
                raise LuaBridgeError(f"{name} must be positive{'' if is_finite else ' and finite'}, not {limit}")
        memory, instructions = int(max_memory), int(max_instructions)
        self.lua_path, self.max_seconds, self.to_stderr = list(lua_path), max_seconds, False
        self.released: list[int] = []
        self._lock = threading.RLock()
        self._owner, self._busy = os.getpid(), False
        self._ended = ""
        self._limited = 0.0
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - used until the process ends
        alive, ours = map(_above_standard, os.pipe())
        held = os.fdopen(ours, "wb")  # nothing is written to it; it closes with this program
        _HELD.add(held)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"from dpnn_bridge.lua.confined import main; main({alive})"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                pass_fds=(alive,),
                env=_environment(),
                cwd="/",
                start_new_session=True,
            )
            _end_with(alive, self._process.pid)
        finally:
            os.close(alive)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._channel = Channel(self._process.stdout.fileno(), self._process.stdin.fileno(), memory + (64 << 20))
        self._close = weakref.finalize(self, _end, self._process, self._errors, held)
        start = os.getpid(), memory, instructions
        missing = self._exchange(self._encoded(start), time.monotonic() + _START_SECONDS, "it did not start in time")
        if missing:
            reason = f"this system cannot fully confine the Lua process: {'; '.join(missing)}"
            if not partial:
                self.close()
                raise LuaBridgeError(f"{reason}. To run it anyway, use sandbox='partial' (--partial-sandbox)")
            warnings.warn(reason, stacklevel=4)

    @property
    def pid(self) -> int:
        """Process ID of the sandbox."""
        return self._process.pid

    def ask(self, operation: str, *args: Any) -> Any:
        """Send a request to the process and return the answer, see :mod:`dpnn_bridge.lua.confined`.

        Raises:
            LuaBridgeError: Lua raised an error, or the process ended or was killed.
        """
        if os.getpid() != self._owner:  # checked before the lock, which another thread may have held at the fork
            raise LuaBridgeError("a Lua sandbox works only in the process that created it; create one in this process")
        with self._lock:
            if self._ended:
                raise LuaBridgeError(f"the Lua sandbox has ended: {self._ended}. Create a new bridge")
            if self._busy:
                raise LuaBridgeError(
                    "a call of this Lua sandbox is running in this thread; a handler of signals, a finalizer or a "
                    "stream for print must use another bridge"
                )
            if time.monotonic() > self._limited + min(1.0, self.max_seconds):  # not in each request, it takes time
                self._limit_cpu_time()
            released = list(self.released)
            message = self._encoded((operation, released, *args))
            late = f"a call took more than {self.max_seconds:g} seconds (max_seconds)"
            return self._exchange(message, time.monotonic() + self.max_seconds, late, len(released))

    def close(self) -> None:
        """End the process. A call that runs in another thread, or around this one, raises :class:`LuaBridgeError`."""
        self._ended = self._ended or "it was closed"
        if os.getpid() != self._owner:  # the lock may belong to a thread of the other process
            self._close()
            return
        self._process.kill()
        with self._lock:
            if not self._busy:  # else the call closes the pipes, which it still reads
                self._close()

    # ---- messages

    @wrap_errors(LuaBridgeError, "passing a value to Lua")
    def _encoded(self, request: Any) -> list[Any]:
        return encoded(request, self._number)

    def _exchange(self, message: list[Any], deadline: float, late: str, released: int = 0) -> Any:
        try:
            self._busy = True
            del self.released[:released]  # here, where an interruption ends the process
            self._channel.write(message, deadline)
            while True:
                kind, content = self._answer(deadline)
                if self._ended:  # closed during this call, maybe by the stream that it printed to
                    raise self._end(self._ended)
                if kind == "value":
                    return content
                if kind == "error":
                    raise LuaBridgeError(_text(content))
                if kind == "print":
                    _print(_text(content), sys.stderr if self.to_stderr else sys.stdout)
                else:
                    self._channel.send(self._find(content), self._number, deadline)
        except TimeoutError:
            raise self._end(late) from None
        except WireError as error:
            raise self._end(str(error)) from None
        except LuaBridgeError:
            raise
        except BaseException:  # such as Ctrl-C: the pending answer would be read as the answer to the next request
            self._end("it was interrupted")
            raise
        finally:
            self._busy = False

    def _answer(self, deadline: float) -> tuple[str, Any]:
        answer = self._channel.receive(self._remote, deadline)
        if type(answer) is not tuple or len(answer) != 2 or answer[0] not in ("value", "error", "print", "module"):
            raise WireError("the process sent an invalid answer")
        if answer[0] != "value" and not isinstance(answer[1], str):
            raise WireError("the process sent an answer that is not text")
        return answer

    def _number(self, value: Any) -> int:
        if not isinstance(value, RemoteValue) or value.sandbox is not self:
            raise LuaBridgeError(f"a {type(value).__name__} cannot be converted to a value in this Lua sandbox")
        return value.number

    def _remote(self, content: Any) -> RemoteValue:
        number, kind, type_name = content
        if type(number) is not int or type(kind) is not str or type(type_name) is not str:
            raise WireError("the process sent a value of unknown type")
        return RemoteValue(self, number, kind, _text(type_name))

    def _find(self, name: str) -> tuple[str | None, str] | None:
        """Return the path and text of a module's Lua file; None if the file is missing or outside ``lua_path``.

        For a file that cannot be read, return None and a message.
        """
        if len(name) > _MAX_NAME:
            return None
        try:
            path = find_module(self.lua_path, to_system(name))
            real = Path(path or "").resolve()
            if path is None or not any(real.is_relative_to(root.resolve()) for root in self.lua_path):
                return None
            return from_system(path), read_file(real, _MAX_FILE).decode("latin-1")
        except DpnnBridgeError as error:
            return None, from_system(str(error))
        except OSError as error:
            missing = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
            return None if missing else (None, from_system(str(as_package_error(error, LuaBridgeError, "reading"))))
        except (ValueError, RuntimeError):  # an invalid file name, a loop of symbolic links
            return None

    # ---- the process

    def _limit_cpu_time(self) -> None:
        if sys.platform != "linux" or self.max_seconds > _MAX_CPU_LIMIT:
            return
        import resource

        try:
            times = (
                Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            )
            used = (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")
            allowed = int(used + self.max_seconds * (os.cpu_count() or 1)) + 2
            self._limited = time.monotonic()
            resource.prlimit(self.pid, resource.RLIMIT_CPU, (allowed, resource.RLIM_INFINITY))
        except OSError:  # the process has ended, which the next exchange reports; or the user may not set its limits
            pass

    def _end(self, reason: str) -> LuaBridgeError:
        """End the process; return an error with the reason."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1 if reason == ENDED else 0)
        code = self._process.poll()
        if code is not None:
            how = f"killed by {_signal_name(-code)}" if code < 0 else f"exit code {code}"
            reason = f"its process ended ({how})"
            with contextlib.suppress(OSError, ValueError):
                self._errors.seek(0)
                message = _text(self._errors.read()[-2000:].decode("latin-1")).strip()
                reason += f": {message.splitlines()[-1]}" if message else ""
        self._ended = reason = self._ended or reason
        self._close()
        return LuaBridgeError(f"the Lua sandbox has ended: {reason}")


def _check_platform() -> None:
    if sys.platform == "win32":
        raise LuaBridgeError("a sandbox needs Linux or macOS: this system cannot limit a process")
    if not sys.executable:
        raise LuaBridgeError("a sandbox starts Python, whose path this program does not know: set sys.executable")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most real-time signals have no name
        return f"signal {number}"


#: the ends of pipes that tell the processes of sandboxes that this program runs
_HELD: weakref.WeakSet[Any] = weakref.WeakSet()


def _close_held() -> None:
    for file in list(_HELD):
        file.close()


if hasattr(os, "register_at_fork"):  # a forked process does not keep the sandboxes of this program alive
    os.register_at_fork(after_in_child=_close_held)


def _above_standard(descriptor: int) -> int:
    """Move a descriptor above those of the standard streams, which the process of a sandbox replaces."""
    import fcntl

    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(descriptor)
    return moved


def _end_with(alive: int, pid: int) -> None:
    """Let Linux kill a process when the pipe closes, also where Lua keeps every thread of Python waiting.

    Args:
        alive: end of the pipe that the process has too.
        pid: process ID.
    """
    if sys.platform == "linux":
        import fcntl

        fcntl.fcntl(alive, fcntl.F_SETOWN, pid)
        fcntl.fcntl(alive, fcntl.F_SETFL, fcntl.fcntl(alive, fcntl.F_GETFL) | os.O_ASYNC)


def _end(process: subprocess.Popen[bytes], *files: Any) -> None:
    process.kill()
    process.wait()
    for file in (process.stdin, process.stdout, *files):
        with contextlib.suppress(OSError):
            file.close()  # type: ignore[union-attr]


def _environment() -> dict[str, str]:
    inherited = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    path = os.pathsep.join(os.path.abspath(p) for p in sys.path if p)
    threads = str(torch.get_num_threads())
    return inherited | {
        **{"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONNOUSERSITE": "1", "LC_ALL": "C.UTF-8"},
        **{"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "OMP_STACKSIZE": "2M", "MALLOC_ARENA_MAX": "1"},
    }


def _print(text: str, stream: TextIO | None) -> None:
    if stream is None:  # the program runs without a standard output
        return
    try:
        stream.write(text)
    except UnicodeEncodeError as error:  # the stream's encoding lacks a character
        stream.write(text.encode(error.encoding, "replace").decode(error.encoding))


def _text(text: str) -> str:
    """Decode a Lua string from the process, and replace control characters, which could control the terminal."""
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", readable(text))
