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
from dpnn_bridge.compare.differences import Difference, Tolerance
from dpnn_bridge.compare.verdict import Verdict
from dpnn_bridge.conversion.lua_values import lua_value
from dpnn_bridge.objects import LuaTable
from dpnn_bridge.parity.verify import verify

#: name of the difference where the converted layer raises
EXCEPTION = "exception"
RUNNER = Path(__file__).with_name("runner.lua")


def command(era: str = "") -> list[str] | None:
    """Torch7's own ``th`` in ``DPNN_TORCH7``, else the original Lua sources of ``DPNN_LUA_SOURCES`` in the bridge.

    Args:
        era: asks for the Torch7 of a year, in ``DPNN_TORCH7_2015``; None where there is none.
    """
    if era:
        return [th] if (th := os.environ.get(f"DPNN_TORCH7_{era}")) else None
    if th := os.environ.get("DPNN_TORCH7"):
        return [th]
    if sources := os.environ.get("DPNN_LUA_SOURCES"):
        paths = [argument for folder in sources.split(os.pathsep) for argument in ("-p", folder)]
        return [sys.executable, "-m", "dpnn_bridge", "lua", *paths]
    return None


def run(cases: Sequence[Instance]) -> list[LuaTable]:
    """What Torch7 computed for each instance: a fixture, or a table with ``refused``."""
    (era,) = {case.era for case in cases}
    launch = command(era)
    if launch is None:
        return [LuaTable({"refused": f"no Torch7 of {era} in DPNN_TORCH7_{era}"}) for _ in cases]
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
                **{name: text for name in ("reward", "prepared", "module") if (text := getattr(case, name))},
            }
        )
        for i, case in enumerate(cases)
    ]
    with tempfile.TemporaryDirectory() as folder:
        there, back = Path(folder) / "jobs.t7", Path(folder) / "results.t7"
        write_t7(there, LuaTable.from_list(jobs))
        process = subprocess.run([*launch, RUNNER, there, back], capture_output=True, text=True, timeout=600)
        if process.returncode < 0:  # a crash, of Torch7's own C code
            if len(cases) == 1:
                return [LuaTable({"refused": f"{launch[0]} ended by signal {-process.returncode}"})]
            half = len(cases) // 2
            return [*run(cases[:half]), *run(cases[half:])]
        if not back.exists():
            raise RuntimeError(
                f"{launch[0]} ended with {process.returncode}: {process.stdout[-500:]}{process.stderr[-1500:]}"
            )
        return list(read_t7(back).as_list())


def differences(fixture: LuaTable) -> list[Difference]:
    """Every comparison in which the converted layer differs from Torch7 by more than rounding; an exception is one."""
    try:
        failures = parity.check(fixture).failures
    except Exception as error:
        return [Difference(EXCEPTION, float("inf"), 0.0, f"{type(error).__name__}: {error}")]
    if failures and fixture.get("dtype") == "float":
        rounding = _rounding(fixture)
        failures = [d for d in failures if d.name not in rounding]
    return failures


def _rounding(fixture: LuaTable) -> set[str]:
    """The comparisons of a fixture in single precision that differ by rounding only."""
    with tempfile.TemporaryDirectory() as folder:
        write_t7(Path(folder) / "fixture.t7", fixture)
        result = verify(Path(folder) / "fixture.t7", tolerance=Tolerance(), gradient_tolerance=Tolerance())
    return {d.name for d in result.differences if d.verdict is Verdict.ROUNDING}


def save(folder: Path, fixture: LuaTable, name: str) -> Path:
    """Keeps a fixture for the next run."""
    folder.mkdir(parents=True, exist_ok=True)
    fixture["name"] = name
    write_t7(folder / f"{name}.t7", fixture, force=True)
    return folder / f"{name}.t7"
