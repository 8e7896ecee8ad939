"""Sandboxes that start at once: forks of a process that has imported what a sandbox imports, which takes two seconds.

The forks are children of the test's process, as the process of a sandbox is. Only for tests of what a sandbox does;
tests of how its process starts use ``subprocess.Popen``.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import platform
import signal
import socket
import subprocess
import sys
import time
from subprocess import PIPE, TimeoutExpired
from typing import Any

#: number of the system call clone on x86-64; flags: a child of the parent of the server, SIGCHLD at its end
_CLONE, _FLAGS = 56, 0x8000 | 17
__all__ = ["PIPE", "POSSIBLE", "Popen", "TimeoutExpired", "close_servers"]
POSSIBLE = sys.platform == "linux" and platform.machine() == "x86_64"
#: environment variables -> the server that has them
_SERVERS: dict[frozenset[tuple[str, str]], Server] = {}


def serve(number: int) -> None:
    """Answer requests for sandboxes, in the server: standard streams and a pipe arrive, a process ID returns."""
    import torch.fx.experimental.symbolic_shapes  # noqa: F401 - autograd imports it, and SymPy with it, at its first use

    from dpnn_bridge.lua import confined

    confined._import_all()
    gc.collect()
    gc.freeze()
    libc = ctypes.CDLL(None)
    with socket.socket(fileno=number) as connection:
        while files := socket.recv_fds(connection, 1, 4)[1]:
            *streams, alive = files
            if pid := libc.syscall(_CLONE, _FLAGS, 0, 0, 0, 0):
                connection.sendall(pid.to_bytes(4, "little"))
            else:
                connection.close()
                for target, stream in enumerate(streams):
                    os.dup2(stream, target)
                os.setsid()
            for stream in streams:
                os.close(stream)
            if not pid:
                confined.main(alive)
            os.close(alive)


class Server:
    """The process whose forks are sandboxes."""

    def __init__(self, program: str, env: dict[str, str], cwd: str) -> None:
        self.connection, theirs = socket.socketpair()
        code = f"import sys; sys.path.append({os.path.dirname(__file__)!r}); import warm_sandbox as w; w.serve(0)"
        with theirs:
            self.process = subprocess.Popen([program, "-c", code], stdin=theirs, env=env, cwd=cwd)

    def start(self, files: list[int]) -> int:
        """Return the process ID of a new sandbox with these standard streams and this pipe."""
        socket.send_fds(self.connection, [b"\0"], files)
        return int.from_bytes(self.connection.recv(4), "little")


def close_servers() -> None:
    """End all servers."""
    for server in _SERVERS.values():
        server.connection.close()
        server.process.wait()
    _SERVERS.clear()


class Popen:
    """A sandbox from a server; ``dpnn_bridge.lua.sandbox`` calls it as ``subprocess.Popen``."""

    def __init__(
        self,
        command: list[str],
        *,
        stderr: Any,
        pass_fds: tuple[int],
        env: dict[str, str],
        cwd: str,
        **options: Any,
    ) -> None:
        key = frozenset(env.items())
        if key not in _SERVERS:
            _SERVERS[key] = Server(command[0], env, cwd)
        (source, stdin), (stdout, target) = os.pipe(), os.pipe()
        self.pid = _SERVERS[key].start([source, target, stderr.fileno(), *pass_fds])
        self.stdin, self.stdout = os.fdopen(stdin, "wb", 0), os.fdopen(stdout, "rb", 0)
        os.close(source), os.close(target)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float = 60) -> int:
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise TimeoutExpired("sandbox", timeout)
            time.sleep(0.001)
        return code

    def kill(self) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
