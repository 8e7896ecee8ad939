"""Run Lua code in an installed Torch7, in a separate process."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from typing import Any

from dpnn_bridge.base.boundary import as_package_error
from dpnn_bridge.base.folders import temporary_folder
from dpnn_bridge.errors import LuaBridgeError, OptionError
from dpnn_bridge.loaders.t7_reader import read_t7
from dpnn_bridge.loaders.t7_writer import write_t7
from dpnn_bridge.objects import LuaTable

#: environment variable with the path of the program
VARIABLE = "DPNN_TORCH7"
#: largest output of a program, in bytes
MOST_PRINTED = 1 << 28
_PROGRAMS = ("th", "luajit")
_WRAPPER = """
require 'torch'
local folder = {folder}
local function values(...) return {{n = select('#', ...), ...}} end
local arguments = torch.load(folder .. '/arguments.t7')
local code = assert(loadfile(folder .. '/code.lua'))
torch.save(folder .. '/values.t7', values(code(unpack(arguments, 1, {count}))))
"""

#: error message if there is no Torch7
NOT_FOUND = f"Torch7 not found: set {VARIABLE}, or put th or a luajit with the package torch on the PATH"


def find_torch7() -> str | None:
    """Return the program in :data:`VARIABLE`, or one on the PATH that can ``require 'torch'``, or None."""
    if named := os.environ.get(VARIABLE):
        return named
    for name in _PROGRAMS:
        path = shutil.which(name)
        command = [str(path), "-e", "require 'torch'"]
        if path and subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0:
            return path
    return None


def run_torch7(code: str, *arguments: Any, program: str | None = None, timeout: float = 600) -> list[Any]:
    """Run Lua code in an installed Torch7.

    Args:
        code: Lua source; its return values are the result.
        *arguments: Lua values, see :mod:`dpnn_bridge.objects`, which the code gets as ``...``.
        program: path of ``th`` or ``luajit``; default: :func:`find_torch7`.
        timeout: seconds after which the program is killed.

    Returns:
        The return values, as :func:`dpnn_bridge.read_t7` reads them.

    Raises:
        LuaBridgeError: there is no Torch7, it took longer than ``timeout``, or the code raised an error.
        OptionError: the program cannot be run.

    Examples:
        >>> run_torch7("return (...):sum()", LuaTensor.from_numpy(np.ones(3)))   # doctest: +SKIP
        [3]
    """
    source = "torch7= (--torch7)" if program else VARIABLE
    program = program or find_torch7()
    if program is None:
        raise LuaBridgeError(NOT_FOUND)
    with temporary_folder() as folder:
        (folder / "code.lua").write_text(code, encoding="utf-8", errors="surrogateescape")
        (folder / "main.lua").write_text(
            _WRAPPER.format(folder=_quoted(str(folder)), count=len(arguments)), encoding="utf-8"
        )
        write_t7(folder / "arguments.t7", LuaTable(enumerate(arguments, 1)))
        _run([program, str(folder / "main.lua")], timeout, source)
        if not (folder / "values.t7").exists():
            raise LuaBridgeError(
                f"{program} returned no result: is it Torch7's th, or a luajit that can require 'torch'?"
            )
        values = read_t7(folder / "values.t7")
    return [values.get(k) for k in range(1, int(values["n"]) + 1)]


def _run(command: list[str], timeout: float, source: str) -> None:
    """Run a program until it ends, then kill the processes that it started.

    Args:
        command: the program and its arguments.
        timeout: seconds after which the program is killed.
        source: the option or variable that names the program, for error messages.
    """
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
    except PermissionError as error:
        raise as_package_error(error, OptionError, source) from None
    except OSError as error:
        raise OptionError(f"{source}: {command[0]} cannot be run: {error.strerror}") from None
    late = threading.Event()

    def stop() -> None:
        late.set()
        _end(process)

    timer = threading.Timer(timeout, stop)
    timer.start()
    try:
        output, ended = _read_output(process)
        code = process.wait() if ended else None
    finally:
        timer.cancel()
        _end(process)
    if late.is_set():
        raise LuaBridgeError(f"Torch7 took longer than {timeout:g} seconds")
    if code is None:
        raise LuaBridgeError(
            f"{command[0]} printed more than {MOST_PRINTED >> 20} MB without a result: is it Torch7's th?"
        )
    if code != 0:
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        raise LuaBridgeError(f"Torch7 failed ({how}): {output.strip() or 'it printed nothing'}")


def _read_output(process: subprocess.Popen[bytes]) -> tuple[str, bool]:
    """Return the end of a program's output, and whether the program closed it before it exceeded the limit."""
    assert process.stdout is not None
    last, count = b"", 0
    while count <= MOST_PRINTED:
        part = process.stdout.read1(1 << 16)  # type: ignore[attr-defined]
        if not part:
            return last.decode("utf-8", "replace").strip()[-4000:], True
        last, count = (last + part)[-16000:], count + len(part)
    return "", False


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a program and the processes that it started."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            if sys.platform == "win32":
                process.kill()
            else:
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _quoted(text: str) -> str:
    """Return a string as a Lua literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"
