"""Real Torch7, where one is installed: Lua code runs there, in a process of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from dpnn_bridge.errors import LuaBridgeError
from dpnn_bridge.loaders.t7_reader import read_t7
from dpnn_bridge.loaders.t7_writer import write_t7
from dpnn_bridge.objects import LuaTable

#: the environment variable that names the program
VARIABLE = "DPNN_TORCH7"
_PROGRAMS = ("th", "luajit")
_WRAPPER = """
require 'torch'
local folder = {folder}
local function values(...) return {{n = select('#', ...), ...}} end
local arguments = torch.load(folder .. '/arguments.t7')
local code = assert(loadfile(folder .. '/code.lua'))
torch.save(folder .. '/values.t7', values(code(unpack(arguments, 1, {count}))))
"""


def find_torch7() -> str | None:
    """What :data:`VARIABLE` names, else the path of a program that can ``require 'torch'``, or None."""
    if named := os.environ.get(VARIABLE):
        return named
    for name in _PROGRAMS:
        path = shutil.which(name)
        if path and subprocess.run([path, "-e", "require 'torch'"], capture_output=True, check=False).returncode == 0:
            return path
    return None


def run_torch7(code: str, *arguments: Any, program: str | None = None, timeout: float = 600) -> list[Any]:
    """Run Lua code in real Torch7.

    Args:
        code: Lua source; its return values are the result.
        *arguments: Lua values, see :mod:`dpnn_bridge.objects`, that the code finds in ``...``.
        program: path of ``th`` or ``luajit``; default: :func:`find_torch7`.
        timeout: seconds.

    Returns:
        The values, as :func:`dpnn_bridge.read_t7` gives them.

    Raises:
        LuaBridgeError: there is no Torch7, it took longer than ``timeout``, or the code raised.

    Examples:
        >>> run_torch7("return (...):sum()", LuaTensor.from_numpy(np.ones(3)))   # doctest: +SKIP
        [3]
    """
    program = program or find_torch7()
    if program is None:
        raise LuaBridgeError(f"no Torch7 here: set {VARIABLE}, or let th or luajit that can require 'torch' be found")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "code.lua").write_text(code, encoding="utf-8", errors="surrogateescape")
        (folder / "main.lua").write_text(_WRAPPER.format(folder=_quoted(name), count=len(arguments)), encoding="utf-8")
        write_t7(folder / "arguments.t7", LuaTable(enumerate(arguments, 1)))
        _run([program, str(folder / "main.lua")], timeout)
        if not (folder / "values.t7").exists():
            raise LuaBridgeError(
                f"{program} returned nothing: is it Torch7's th, or a luajit that can require 'torch'?"
            )
        values = read_t7(folder / "values.t7")
    return [values.get(k) for k in range(1, int(values["n"]) + 1)]


def _run(command: list[str], timeout: float) -> None:
    """Runs a program to its end; what it started ends with it."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise LuaBridgeError(f"{command[0]} cannot be run: {error.strerror}") from None
    try:
        printed, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        raise LuaBridgeError(f"Torch7 took longer than {timeout:g} seconds") from None
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if process.returncode != 0:
        raise LuaBridgeError(f"Torch7 failed ({process.returncode}): {printed.strip()[-4000:]}")


def _quoted(text: str) -> str:
    """A Lua string."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"
