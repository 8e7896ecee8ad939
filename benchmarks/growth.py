"""Measure how time and memory of each command grow with the input: ``python benchmarks/growth.py --out growth.json``.

Files of thirty shapes, made of modules, graphs, tables and text, with n, 2n and 4n elements go through every command
and every format (:mod:`growth_shapes`). Then commands and functions get inputs of other kinds with n elements
(:mod:`growth_inputs`). Each measurement is CPU time and peak memory of a forked process, without the start of Python.
"""

from __future__ import annotations

import gc
import json
import math
import os
import resource
import signal
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import click
from growth_inputs import INPUTS
from growth_shapes import SHAPES

from dpnn_bridge import write_t7
from dpnn_bridge.cli.convert import convert_command
from dpnn_bridge.cli.inspect import inspect_command
from dpnn_bridge.cli.verify import verify_command

#: name -> command and its options; {in} and {out} are files
COMMANDS: dict[str, tuple[Any, list[str]]] = {
    "inspect": (inspect_command, ["{in}"]),
    "--raw -v": (inspect_command, ["{in}", "--raw", "-v"]),
    "--json": (inspect_command, ["{in}", "--json"]),
    "--html": (inspect_command, ["{in}", "--html", "{out}.html"]),
    "--dot": (inspect_command, ["{in}", "--dot"]),
    ".pt": (convert_command, ["{in}", "{out}.pt"]),
    ".safetensors": (convert_command, ["{in}", "{out}.safetensors"]),
    ".npz": (convert_command, ["{in}", "{out}.npz"]),
    ".json": (convert_command, ["{in}", "{out}.json"]),
    ".t7": (convert_command, ["{in}", "{out}-again.t7"]),
    ".py": (convert_command, ["{in}", "{out}.py"]),
    "verify": (verify_command, ["{in}"]),
}


#: seconds after which a command is ended, and from which a larger input is not tried
ENDED, ENOUGH = 60, float(os.environ.get("ENOUGH", 8.0))
Make = Callable[[int, Path], tuple[Any, list[Any]]]


def prepared(shape: str, command: str, n: int, folder: Path) -> tuple[Any, list[Any]]:
    """Return the command and its arguments for a shape of n elements."""
    source = folder / f"{list(SHAPES).index(shape)}-{n}.t7"
    if not source.exists():
        write_t7(source, SHAPES[shape](n))
    run, words = COMMANDS[command]
    arguments = [w.replace("{in}", str(source)).replace("{out}", str(source.with_suffix(""))) for w in words]
    if run is convert_command:
        arguments += ["--force"]
    return run, arguments


def cpu_seconds() -> float:
    """Return the CPU time of this process and of the ones that it started and that ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def megabytes(name: str) -> float:
    """Return an entry of this process's status: VmRSS is its memory, VmHWM the largest value of VmRSS."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name + ":"))


def execute(run: Any, arguments: list[Any]) -> str:
    """Run a command or a function, and return how it ended."""
    try:
        if isinstance(run, click.Command):
            run.main(arguments)
        else:
            run(*arguments)
    except SystemExit as end:
        return f"exit {end.code or 0}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:200]
    return "exit 0"


def measure(make: Make, n: int, folder: Path) -> dict[str, Any]:
    """Measure an input of n elements in this process, after an input of almost nothing, which imports modules."""
    with (folder / "printed").open("w") as printed:
        os.dup2(printed.fileno(), 1)
        os.dup2(printed.fileno(), 2)
        sys.stdout, sys.stderr = printed, printed
        execute(*make(2, folder))
        given = make(n, folder)
        gc.collect()
        gc.freeze()  # the garbage collector does not visit what is there already while the command runs
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins again
        seconds, memory = cpu_seconds(), megabytes("VmRSS")
        signal.setitimer(signal.ITIMER_PROF, ENDED)
        ended = execute(*given)
        gc.collect()  # ends the processes of sandboxes
        return {"seconds": cpu_seconds() - seconds, "memory": megabytes("VmHWM") - memory, "ended": ended}


def measured(make: Make, n: int) -> dict[str, Any]:
    """Measure an input of n elements in a new process; without figures if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result"
        child = os.fork()
        if not child:
            try:
                result.write_text(json.dumps(measure(make, n, Path(folder))))
            except BaseException as error:  # also SystemExit
                result.write_text(json.dumps({"ended": f"{type(error).__name__}: {error}"[:200]}))
            finally:
                os._exit(0)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if result.exists():
            return json.loads(result.read_text())
        return {"ended": f"more than {ENDED} s" if ended == -signal.SIGPROF else f"ended with status {ended}"}


def series(make: Make, n: int, most: int) -> dict[str, Any]:
    """Measure n, 2n, 4n, … elements, and almost none: until a measurement takes long, at least three."""
    least = measured(make, 3)  # of 2, the outputs exist
    found: dict[str, Any] = {"least": least.get("seconds"), "seconds": {}, "memory": {}, "ended": least["ended"]}
    while "seconds" in least and n <= most:
        new = measured(make, n)
        found["ended"] = new["ended"]
        if "seconds" not in new:
            break
        found["seconds"][n], found["memory"][n] = round(new["seconds"], 3), round(new["memory"], 1)
        if new["seconds"] > ENOUGH and len(found["seconds"]) > 2:
            break
        n *= 2
    return found


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Figures, as JSON; measured ones are kept.")
@click.option("--only", default="", help="Shapes or commands with this in their name.")
@click.option("--table", is_flag=True, help="Print the tables of docs/benchmarks.md, and measure nothing.")
@click.option("--n", default=2500, help="The smallest n; it grows as long as a command takes less than a few seconds.")
@click.option("--most", default=100_000, help="The largest 4n.")
def main(out: Path, only: str, table: bool, n: int, most: int) -> None:
    """Measure."""
    figures = json.loads(out.read_text()) if out.exists() else {}
    if table:
        print_table(figures)
        return
    made: dict[str, Make] = {f"{s} | {c}": partial(prepared, s, c) for s in SHAPES for c in COMMANDS}
    for name, make in {**made, **INPUTS}.items():
        if name not in figures and only in name:
            figures[name] = series(make, n, most)
            click.echo(f"{name}: {growth(figures[name], 'seconds'):.1f} {figures[name]}")
            out.write_text(json.dumps(figures, indent=1))


def growth(found: dict[str, Any], what: str) -> float:
    """How many times as much twice the size takes, from the smallest to the largest n."""
    least, smallest = (found["least"] or 0.0, 0.02) if what == "seconds" else (0.0, 1.0)
    used = {int(n): u - least for n, u in found[what].items() if u - least >= smallest}  # less is noise
    first, last = min(used, default=0), max(used, default=0)
    return 2 ** (math.log(used[last] / used[first]) / math.log(last / first)) if last > first else 1.0


def print_table(figures: dict[str, Any]) -> None:
    """Print a table with a row for each shape and a column for each command, and a table of the other inputs."""
    click.echo(f"| | largest n | {' | '.join(COMMANDS)} |")
    click.echo("|---|---" + "|---" * len(COMMANDS) + "|")
    for shape in SHAPES:
        found = [figures.get(f"{shape} | {command}") for command in COMMANDS]
        largest = max((int(n) for f in found if f for n in f["seconds"]), default=0)
        cells = [f"{growth(f, 'seconds'):.1f}" if f else "" for f in found]
        click.echo(f"| {shape} | {largest:,} | {' | '.join(cells)} |")
    click.echo("\n| | largest n | seconds | growth | MB | growth of memory |\n|---|---|---|---|---|---|")
    for name in INPUTS:
        if (found := figures.get(name)) and found["seconds"]:
            n = max(map(int, found["seconds"]))
            seconds, memory = ({int(k): v for k, v in found[what].items()}[n] for what in ("seconds", "memory"))
            cells = f"{seconds:.1f} | {growth(found, 'seconds'):.1f} | {memory:.0f} | {growth(found, 'memory'):.1f}"
            click.echo(f"| {name} | {n:,} | {cells} |")


if __name__ == "__main__":
    main()
