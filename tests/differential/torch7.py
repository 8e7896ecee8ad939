"""Runs instances in Torch7, many in one process, and compares each with the converted layer."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from instances import Instance

from dpnn_bridge import parity, read_t7, write_t7
from dpnn_bridge.conversion.lua_values import lua_value
from dpnn_bridge.objects import LuaTable

RUNNER = Path(__file__).with_name("runner.lua")


def command() -> list[str] | None:
    """Torch7's own ``th`` in ``DPNN_TORCH7``, else the original Lua sources of ``DPNN_LUA_SOURCES`` in the bridge."""
    if th := os.environ.get("DPNN_TORCH7"):
        return [th]
    if sources := os.environ.get("DPNN_LUA_SOURCES"):
        paths = [argument for folder in sources.split(os.pathsep) for argument in ("-p", folder)]
        return [sys.executable, "-m", "dpnn_bridge", "lua", *paths]
    return None


def run(cases: Sequence[Instance]) -> list[LuaTable]:
    """What Torch7 computed for each instance: a fixture, or a table with ``refused``."""
    launch = command()
    assert launch is not None
    jobs = [
        LuaTable(
            {
                "name": f"random_{i}",
                "lua": case.lua,
                "input": lua_value(case.input),
                **({} if case.target is None else {"target": lua_value(case.target)}),
                "dtype": case.dtype,
                "mode": case.mode,
                "seed": case.seed,
                "strided": case.strided,
            }
        )
        for i, case in enumerate(cases)
    ]
    with tempfile.TemporaryDirectory() as folder:
        there, back = Path(folder) / "jobs.t7", Path(folder) / "results.t7"
        write_t7(there, LuaTable.from_list(jobs))
        process = subprocess.run([*launch, RUNNER, there, back], capture_output=True, text=True, timeout=600)
        if not back.exists():
            raise RuntimeError(
                f"{launch[0]} ended with {process.returncode}: {process.stdout[-500:]}{process.stderr[-1500:]}"
            )
        return list(read_t7(back).as_list())


def differences(fixture: LuaTable) -> list[str]:
    """Every comparison in which the converted layer differs from Torch7; an exception is one too."""
    try:
        result = parity.check(fixture)
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]
    return [f"{d.name}: {d.message}" for d in result.failures]


def save(folder: Path, fixture: LuaTable, name: str) -> Path:
    """Keeps a fixture for the next run."""
    folder.mkdir(parents=True, exist_ok=True)
    fixture["name"] = name
    write_t7(folder / f"{name}.t7", fixture, force=True)
    return folder / f"{name}.t7"
