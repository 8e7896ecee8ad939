"""Run a Torch7 script, or a Lua prompt, on the bridge (``dpnn-lua``)."""

from __future__ import annotations

import ctypes
import errno
import math
import re
import sys
from pathlib import Path
from typing import Any

import click

from dpnn_bridge.cli.lua_prompt import ending_at_once, prompt
from dpnn_bridge.cli.terminal import (
    Command,
    InputType,
    partial_sandbox_option,
    protect_inputs,
    say_lines,
    version_option,
)
from dpnn_bridge.errors import DpnnBridgeError, FileAccessError

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h
#: beginning of the Lua error that os.exit raises to end a script
_EXIT = "dpnn-lua exits with "


@click.command(
    "dpnn-lua",
    cls=Command,
    context_settings={
        "ignore_unknown_options": True,
        "allow_interspersed_args": False,
        "help_option_names": ["-h", "--help"],
    },
)
@click.option("-i", "--interactive", is_flag=True, help="Open a prompt after the script, or without one.")
@click.option("-l", "--library", multiple=True, metavar="NAME", help="Require this package first (repeatable).")
@click.option("-e", "--execute", metavar="CODE", help="Run this Lua code before the script.")
@click.option(
    "-p",
    "--lua-path",
    multiple=True,
    type=InputType(exists=True, file_okay=False),
    help="Folder that `require` searches first: packages, or checkouts of nn, dpnn, rnn … (repeatable).",
)
@click.option(
    "--runtime",
    type=click.Choice(["auto", "luajit21", "lua51"]),
    default="auto",
    show_default=True,
    help="Lua version. auto: LuaJIT if lupa has it, otherwise Lua 5.1.",
)
@click.option("--sandbox", is_flag=True, help="Run untrusted code in a process that can only compute.")
@partial_sandbox_option
@click.option(
    "--max-seconds", type=click.FloatRange(0, min_open=True), help="Time limit of a sandbox, wall-clock. Default: 60."
)
@click.option(
    "--max-memory",
    type=click.IntRange(1, 1 << 40),
    help="Memory limit of a sandbox in MiB, including tensors. Default: 2048.",
)
@click.option("--seed", type=int, help="Call torch.manualSeed first.")
@version_option
@click.argument("script", required=False, type=InputType(exists=True, dir_okay=False))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def lua_command(
    interactive: bool,
    library: tuple[str, ...],
    execute: str | None,
    lua_path: tuple[Path, ...],
    runtime: str,
    sandbox: bool,
    partial_sandbox: bool,
    max_seconds: float | None,
    max_memory: int | None,
    seed: int | None,
    script: Path | None,
    arguments: tuple[str, ...],
) -> None:
    """Run SCRIPT as Torch7's `th` did, with PyTorch underneath. ARGUMENTS are passed to the script.

    The script gets its arguments in `arg` and `...`. The argument of os.exit is the exit code. A Lua error prints its
    traceback; its exit code is 7.
    """
    from dpnn_bridge.lua.bridge import LuaBridge
    from dpnn_bridge.lua.text import from_system

    if script is None and execute is None and not library and not interactive:
        raise click.UsageError("pass a script, or -i for a prompt")
    sandbox = sandbox or partial_sandbox
    if not sandbox and (max_seconds is not None or max_memory is not None):
        raise click.UsageError("--max-seconds and --max-memory need --sandbox")
    limits: dict[str, Any] = {}
    if max_seconds is not None:
        if math.isnan(max_seconds):
            raise click.UsageError("--max-seconds is nan; pass a number of seconds")
        limits["max_seconds"] = max_seconds
    if max_memory is not None:
        limits["max_memory"] = max_memory << 20
    protect_inputs(script)
    keep_freed_memory()
    try:
        bridge = LuaBridge(lua_path, runtime=runtime, sandbox="partial" if partial_sandbox else sandbox, **limits)
        _replace_os_exit(bridge)
        if seed is not None:
            bridge.manual_seed(seed)
        for name in (*(() if sandbox else ("xlua", "trepl")), *map(from_system, library)):  # as th does
            bridge.require(name)
        with ending_at_once(broken_pipes=not sandbox):
            if execute is not None:
                bridge.execute(from_system(execute), name="command line")
            if script is not None:
                words = [from_system(word) for word in arguments]
                _set_arguments(bridge, from_system(script), words)
                bridge.run_file(script, *words)
        if interactive:
            prompt(bridge, lambda error: _exit_code(error) is not None)
        code = 0
    except DpnnBridgeError as error:
        code = _exit_code(error)
        if code is None:
            say_lines(f"dpnn-lua: {error}", err=True)
            code = error.exit_code
    sys.stdout.flush()
    if code == 0:
        check_printed()
    sys.exit(code)


def keep_freed_memory() -> None:
    """Configure glibc to keep freed memory, because new memory causes a page fault per 4 KiB."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_MMAP_THRESHOLD, 32 << 20)  # the maximum


def check_printed() -> None:
    """Flush stdout of the C library, with which Lua prints.

    Raises:
        FileAccessError: a part of the output could not be written.
        BrokenPipeError: the reader of stdout has closed it.
    """
    name = {"linux": "stdout", "darwin": "__stdoutp"}.get(sys.platform)
    if name is None:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    stream = ctypes.c_void_p.in_dll(libc, name)
    is_unread = libc.fflush(stream) != 0 and ctypes.get_errno() == errno.EPIPE
    if libc.ferror(stream):
        libc.clearerr(stream)
        raise BrokenPipeError if is_unread else FileAccessError("stdout did not take everything that was printed")


def _replace_os_exit(bridge: Any) -> None:
    """Replace os.exit by a Lua error that ends the command in Python, with flushed files. pcall does not catch it."""
    bridge.execute(
        f"""
        local flush, protected, with_handler, resume, exit = io.flush, pcall, xpcall, coroutine.resume, nil
        local number_of, type_of = tonumber, type
        local function passed(...)
           if exit then error(exit, 0) end
           return ...
        end
        function pcall(...) return passed(protected(...)) end
        function xpcall(...) return passed(with_handler(...)) end
        function coroutine.resume(...) return passed(resume(...)) end
        os.exit = function(code)
           if code == nil or code == true then code = 0 elseif code == false then code = 1 end
           local number = number_of(code)
           if not number then
              error("bad argument #1 to 'exit' (number expected, got " .. type_of(code) .. ")", 2)
           end
           protected(flush)
           exit = '{_EXIT}' .. number .. '.'
           error(exit, 0)
        end
        """
    )


def _exit_code(error: DpnnBridgeError) -> int | None:
    text = str(error)
    if not text.startswith(_EXIT):
        return None
    number = text[len(_EXIT) :].split(".", 1)[0]
    return int(number) if re.fullmatch(r"-?\d{1,9}", number) else 1


def _set_arguments(bridge: Any, script: str, words: list[str]) -> None:
    bridge.execute(
        "local script, list = ... arg = {[0] = script} for i, word in ipairs(list) do arg[i] = word end",
        script,
        words,
    )
