"""Numbers of a real Torch7, where one is installed: runs Lua code in a process of its own."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from dpnn_bridge.errors import LuaBridgeError

_PROGRAMS = ("th", "luajit")
_WRAPPER = """
require 'torch'
local code, output = ...
local f = assert(loadstring(code, '=code'))
local function values(...) return {n = select('#', ...), ...} end
torch.save(output, values(f()))
"""


def find_torch7() -> str | None:
    """Path of a program that can ``require 'torch'``, or None."""
    for name in _PROGRAMS:
        path = shutil.which(name)
        if path and subprocess.run([path, "-e", "require 'torch'"], capture_output=True, check=False).returncode == 0:
            return path
    return None


def run_torch7(code: str, *, program: str | None = None, timeout: float = 600) -> list[Any]:
    """Run Lua code in real Torch7.

    Args:
        code: Lua source; its return values are the result.
        program: path of ``th`` or ``luajit``; default: :func:`find_torch7`.
        timeout: seconds.

    Returns:
        The values, as :func:`dpnn_bridge.read_t7` gives them.

    Raises:
        LuaBridgeError: there is no Torch7, or the code raised.
    """
    from dpnn_bridge.loaders.t7_reader import read_t7

    program = program or find_torch7()
    if program is None:
        raise LuaBridgeError("no Torch7 here: neither th nor luajit can require 'torch'")
    with tempfile.TemporaryDirectory() as folder:
        source, wrapper, output = (Path(folder) / name for name in ("code.lua", "wrapper.lua", "values.t7"))
        source.write_text(code, encoding="utf-8")
        reading = f"local f = io.open({str(source)!r}); local text = f:read('*a'); f:close()\n"
        wrapper.write_text(
            reading + _WRAPPER.replace("local code, output = ...", f"local code, output = text, {str(output)!r}"),
            encoding="utf-8",
        )
        done = subprocess.run([program, str(wrapper)], capture_output=True, text=True, timeout=timeout, check=False)
        if done.returncode != 0 or not output.exists():
            raise LuaBridgeError(f"Torch7 failed ({done.returncode}): {(done.stderr or done.stdout).strip()}")
        values = read_t7(output)
    return [values.get(k) for k in range(1, int(values["n"]) + 1)]
