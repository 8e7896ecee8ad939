"""Runs the commands without what POSIX alone has, and prints what became of them as JSON.

    python -X warn_default_encoding tests/base/without_posix.py FOLDER

No ``fcntl``, ``resource``, ``preadv``, ``poll`` and the like; a file that is open cannot be renamed, replaced or
removed; text is read and written in an encoding that is named; ``sys.platform`` says Windows. The paths are those of
this machine.
"""

from __future__ import annotations

import json
import os
import pkgutil
import select
import shutil
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click.testing  # what looks at the platform itself is imported first
import jinja2
import torch

SAMPLE = Path(__file__).parents[2] / "fixtures" / "samples" / "torch-demos__mnist_convnet"
MODULES = ("fcntl", "grp", "pty", "pwd", "resource", "termios", "tty")
ATTRIBUTES: dict[Any, tuple[str, ...]] = {
    os: (
        *("fork", "geteuid", "getppid", "killpg", "posix_fallocate", "preadv", "readv", "register_at_fork"),
        *("set_blocking", "setgid", "setgroups", "setsid", "setuid", "sysconf", "O_NONBLOCK"),
    ),
    select: ("epoll", "poll", "POLLIN", "POLLOUT"),
    signal: ("SIGHUP", "SIGKILL"),
}


def is_open(path: Any) -> bool:
    """Whether this process has a file, or one in a folder, open."""
    folder, real = Path("/proc/self/fd"), os.path.realpath(path)
    return any(os.path.realpath(entry) == real for entry in folder.iterdir())


def refusing(act: Callable[..., Any], replaces: bool) -> Callable[..., Any]:
    """A function of :mod:`os` as on Windows."""

    def refused(path: Any, *target: Any, **options: Any) -> Any:
        for file in (path, *target):
            if isinstance(file, (str, os.PathLike)) and os.path.lexists(file):
                if is_open(file):
                    raise PermissionError(13, "it is used by another process", os.fspath(file))
                if file is not path and not replaces:
                    raise FileExistsError(17, "it exists", os.fspath(file))
        return act(path, *target, **options)

    return refused


def become_windows() -> None:
    """Takes from this process what Windows does not have."""
    for name in MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    for module, names in ATTRIBUTES.items():
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    shutil._use_fd_functions = False  # type: ignore[attr-defined]
    for name, replaces in {"rename": False, "replace": True, "link": False, "unlink": True, "remove": True}.items():
        setattr(os, name, refusing(getattr(os, name), replaces))
    sys.platform = "win32"
    warnings.filterwarnings("error", category=EncodingWarning, module="dpnn_bridge")


def imported() -> dict[str, str]:
    """The modules of the package that cannot be imported, and why."""
    import dpnn_bridge

    failed = {}
    for info in pkgutil.walk_packages(dpnn_bridge.__path__, "dpnn_bridge."):
        if info.name.endswith("__main__"):
            continue
        try:
            __import__(info.name)
        except Exception as error:
            failed[info.name] = f"{type(error).__name__}: {error}"
    return failed


def commands(folder: Path) -> dict[str, list[Any]]:
    """Exit code and output of each command."""
    from dpnn_bridge.cli.convert import convert_command
    from dpnn_bridge.cli.inspect import inspect_command
    from dpnn_bridge.cli.lua import lua_command
    from dpnn_bridge.cli.verify import verify_command

    model, manifest, script = SAMPLE / "model.t7", folder / "done.jsonl", folder / "script.lua"
    script.write_text("require 'nn'; print(nn.Linear(3, 2):forward(torch.ones(3)):size(1))", encoding="utf-8")
    found: dict[str, list[Any]] = {}

    def call(name: str, command: click.Command, *args: Any) -> None:
        done = click.testing.CliRunner().invoke(command, list(map(str, args)))
        trace = "".join(traceback.format_exception(*done.exc_info)) if done.exc_info and done.exit_code else ""
        found[name] = [done.exit_code, done.output, trace]

    for suffix in (".pt", ".t7", ".npz", ".safetensors", ".py", ".safetensors.index.json"):
        target = folder / f"model{suffix}"
        call(f"convert {suffix}", convert_command, model, target)
        call(f"convert {suffix} --force", convert_command, model, target, "--force")
    call("convert many", convert_command, model, "--out-dir", folder / "many", "--manifest", manifest)
    with open(folder / "model.npz", "rb"):
        call("convert over a file that is open", convert_command, model, folder / "model.npz", "--force")
    call("inspect", inspect_command, model, "--html", folder / "model.html")
    call("verify", verify_command, model, "--reference", SAMPLE / "ref.t7", "--html", folder / "report.html")
    call("verify a file", verify_command, model, folder / "model.pt", "--input", "2x1x32x32")
    call("verify a manifest", verify_command, manifest)
    call("lua", lua_command, script)
    call("lua --sandbox", lua_command, "--sandbox", script)
    call("convert --lua --sandbox", convert_command, model, folder / "a.pt", "--lua", script, "--sandbox")
    return found


def main() -> None:
    folder = Path(sys.argv[1])
    become_windows()
    print(json.dumps({"failed": imported(), "commands": commands(folder)}), file=sys.__stdout__)


if __name__ == "__main__":
    assert jinja2
    assert torch
    main()
