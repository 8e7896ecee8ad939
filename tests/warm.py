"""Commands that start at once: forks of a program that has imported PyTorch and other modules already.

    python warm.py serve SOCKET MODULE ...          the program, which ends when its standard input does
    python warm.py SOCKET MODULE:FUNCTION NAME ARGUMENT ...        a console script of this name
    python warm.py SOCKET python ARGUMENT ...        -c CODE, or a script

The second and third run a command in a fork of the first, in their own folder, environment and standard streams, and
end as it does. Only for tests of what a command does: imports of a fork are not those of a new program.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import types
from collections.abc import Callable
from typing import Any


def serve(address: str, modules: list[str]) -> Callable[[], Any] | None:
    """Import modules and answer requests until standard input ends; in a fork, return what it is to run."""
    import gc
    import importlib
    import select

    for module in modules:
        with contextlib.suppress(ImportError):  # of an extra that is not installed
            importlib.import_module(module)
    gc.collect()
    gc.freeze()  # a fork that ends does not look at the objects of all modules
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        if sys.stdin in select.select([listener, sys.stdin], [], [])[0]:
            os.unlink(address)
            return None
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            return answer(connection)
        connection.close()


def answer(connection: socket.socket) -> Callable[[], Any] | None:
    """Run one request in a fork of this one, and say how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    length, streams, _, _ = socket.recv_fds(connection, 8, 3)
    text = b""
    while len(text) < int.from_bytes(length, "little"):
        text += connection.recv(1 << 20)
    request = json.loads(text)
    child = os.fork()
    if child == 0:
        connection.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        sys.stdin, sys.stdout, sys.stderr = (os.fdopen(n, "w" if n else "r", closefd=False) for n in range(3))
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        return program(request["arguments"])
    for stream in streams:
        os.close(stream)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    connection.sendall(bytes([status if status >= 0 else 128 - status]))
    os._exit(0)


def program(arguments: list[str]) -> Callable[[], Any]:
    """What a command line runs."""
    import pkgutil
    import runpy

    name, *arguments = arguments
    sys.path[:0] = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if name != "python":
        sys.argv = arguments
        return pkgutil.resolve_name(name)
    if arguments[0] != "-c":
        sys.argv = arguments
        sys.path.insert(0, os.path.dirname(os.path.abspath(arguments[0])))
        return lambda: runpy.run_path(arguments[0], run_name="__main__")
    sys.argv = ["-c", *arguments[2:]]
    sys.path.insert(0, "")
    sys.modules["__main__"] = main = types.ModuleType("__main__")
    code = compile(arguments[1], "<string>", "exec", dont_inherit=True)
    return lambda: exec(code, vars(main))


def ask(address: str, arguments: list[str]) -> int:
    """Run a command in a fork of the program, and return its exit code."""
    request = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
    text = json.dumps(request).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        socket.send_fds(connection, [len(text).to_bytes(8, "little")], [0, 1, 2])
        connection.sendall(text)
        return connection.recv(1)[0]


def end(run: Callable[[], Any]) -> None:
    """Run a program and end as Python does, without freeing each object of all modules, which takes half a second."""
    import atexit
    import threading

    try:
        code = run()
    except SystemExit as ended:
        code = ended.code
    if code is None or isinstance(code, int):
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        with contextlib.suppress(OSError, ValueError):  # Python's own end reports them
            sys.stdout.flush(), sys.stderr.flush()
            os._exit((code or 0) & 255)
    sys.exit(code)


if __name__ == "__main__":
    if sys.argv[1] != "serve":
        sys.exit(ask(sys.argv[1], sys.argv[2:]))
    if (run := serve(sys.argv[2], sys.argv[3:])) is not None:
        end(run)
