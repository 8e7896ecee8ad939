"""Run ``.t7`` models in Torch7 and return the results of each step.

The Lua part is ``torch7_jobs.lua``. Starting Torch7 takes longer than most runs, so one process runs many jobs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dpnn_bridge.base.folders import temporary_folder
from dpnn_bridge.base.graph import values_in
from dpnn_bridge.errors import LuaBridgeError
from dpnn_bridge.loaders.t7_reader import read_t7
from dpnn_bridge.lua.torch7 import run_torch7
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor

_SOURCE = Path(__file__).with_name("torch7_jobs.lua")
#: Lua code that casts a module without resetting recurrent states; its arguments are the module and the tensor type
CAST_IN_SEQUENCE = Path(__file__).with_name("cast_in_sequence.lua").read_text(encoding="utf-8")

#: default steps: the operations that users of Torch7 apply to a model
STEPS = (
    "load",
    "cast",
    "forward",
    "params",
    "zeroGradParameters",
    "backward",
    "gradParams",
    "sharing",
    "again",
    "clone",
    "getParameters",
    "type",
)


def job(file: Path, classes: Iterable[str], steps: Sequence[str] = STEPS, **values: Any) -> LuaTable:
    """Return a job for :func:`run_jobs`; ``torch7_jobs.lua`` documents the fields."""
    fields = {"file": str(file), "classes": LuaTable.from_list(classes), "steps": LuaTable.from_list(steps), **values}
    return LuaTable(fields.items())


def run_jobs(jobs: Sequence[LuaTable], *, program: str | None = None) -> list[LuaTable]:
    """Run jobs in Torch7.

    Args:
        jobs: results of :func:`job`.
        program: see :func:`~dpnn_bridge.lua.torch7.run_torch7`.

    Returns:
        The result of each job: step -> table with ``value`` or ``error``. If a job crashes the process, the process
        exceeds ten minutes, or the result cannot be read, the result of the current job has only an ``error`` in
        ``load``; the remaining jobs run in a new process.

    Raises:
        OptionError: the program cannot be run.
    """
    results: list[LuaTable] = []
    source = f"local function cast_in_sequence(...)\n{CAST_IN_SEQUENCE}end\n{_SOURCE.read_text(encoding='utf-8')}"
    while len(results) < len(jobs):
        rest = jobs[len(results) :]
        error: Exception | None = None
        with temporary_folder() as folder:  # a new one: results that an earlier process stored have other numbers
            try:
                run_torch7(source, LuaTable.from_list(rest), str(folder), program=program)
            except LuaBridgeError as e:
                error = e
            try:
                for number in range(1, len(rest) + 1):
                    if not (path := folder / f"{number}.t7").exists():
                        break
                    results.append(_read(path))
            except Exception as e:  # for example, the process ended while it wrote the file
                error = error or e
        if len(results) < len(jobs):
            reason = str(error or "no result was stored")
            results.append(LuaTable([("load", LuaTable([("error", reason)]))]))
    return results


def _read(path: Path) -> LuaTable:
    """Return a result with all its tensors in memory, because the file is deleted afterwards."""
    table = read_t7(path)
    for value in values_in(table):
        if isinstance(value, LuaTensor):
            value.numpy()
    return table


def class_names(root: Any) -> list[str]:
    """Return the class names of all objects in a Lua value, except tensors and storages."""
    return sorted({value.class_name for value in values_in(root) if isinstance(value, LuaObject)})
