"""Measure how the time of each command grows with its input: ``python benchmarks/growth.py --out growth.json``.

Files of thirty shapes, made of modules, graphs, tables and text, with n, 2n and 4n elements go through every command
and every format; then manifests, shards and references of n elements through the command that reads them. CPU time, in
this process, without the start of Python.
"""

from __future__ import annotations

import gc
import json
import math
import os
import signal
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import click
import numpy as np
from click.testing import CliRunner

from dpnn_bridge import write_t7
from dpnn_bridge.cli.convert import convert_command
from dpnn_bridge.cli.inspect import inspect_command
from dpnn_bridge.cli.verify import verify_command
from dpnn_bridge.objects import LuaFunction, LuaObject, LuaStorage, LuaTable, LuaTensor

Obj, Table = LuaObject, LuaTable


# ---------------------------------------------------------------------- parts
def storage(n: int) -> LuaStorage:
    return LuaStorage("torch.DoubleStorage", n, np.zeros(n))


def view(of: LuaStorage, offset: int, *shape: int) -> LuaTensor:
    strides = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
    return LuaTensor("torch.DoubleTensor", shape, strides, offset, of)


def tensor(*shape: int) -> LuaTensor:
    shape = shape or (1,)
    return view(storage(math.prod(shape)), 0, *shape)


def linear(weight: LuaTensor | None = None, inputs: int = 1, **fields: Any) -> LuaObject:
    given = {"weight": weight or tensor(1, inputs), "bias": tensor(1), "gradWeight": tensor(1, inputs)}
    return Obj("nn.Linear", Table({**given, "gradBias": tensor(1), "train": True, **fields}))


def tanh() -> LuaObject:
    return Obj("nn.Tanh", Table({"train": True}))


def container(modules: list[LuaObject], name: str = "nn.Sequential") -> LuaObject:
    return Obj(name, Table({"modules": Table.from_list(modules), "train": True}))


def graph(
    n: int,
    sources: Callable[[int], Any],
    label: str = "",
    module: Callable[[int], LuaObject] = lambda i: tanh(),
) -> LuaObject:
    """Return an ``nn.gModule`` of n modules: node i takes what the nodes of ``sources(i)`` give, 0 is the input."""
    notes = {"name": label} if label else {}
    data = [Table({"annotations": Table(notes), "mapindex": Table(), "reverseMap": Table()}) for _ in range(n + 2)]
    rest = {"visited": False, "marked": False}
    nodes = [
        Obj("nngraph.Node", Table({"id": i + 1, "children": Table(), "data": d, **rest})) for i, d in enumerate(data)
    ]
    for i in range(1, n + 2):
        if i <= n:
            data[i]["module"] = module(i)
        for k, source in enumerate(sources(i), 1):
            data[i]["mapindex"][k], data[i]["mapindex"][data[source]] = data[source], k
            children = nodes[source]["children"]
            children[len(children) + 1] = nodes[i]
    whole = Obj("graph.Graph", Table({"nodes": Table.from_list(nodes), "edges": Table()}))
    modules = Table.from_list([d["module"] for d in data[1:-1]])
    ends = {"innode": nodes[0], "outnode": nodes[-1], "forwardnodes": Table.from_list(nodes), "backwardnodes": Table()}
    return Obj("nn.gModule", Table({"fg": whole, "bg": whole, **ends, "nInputs": 1, "modules": modules, "train": True}))


def nested(n: int) -> LuaObject:
    model = linear()
    for _ in range(60):
        model = container([model, *(tanh() for _ in range(max(1, n // 60)))])
    return model


def deep(n: int) -> LuaTable:
    table: Any = linear()
    for _ in range(n):
        table = Table({"a": table})
    return table


def one_storage(n: int) -> LuaObject:
    whole = storage(n)
    return container([linear(view(whole, i, 1, 1)) for i in range(n)])


def overlapping(n: int) -> LuaObject:
    whole = storage(n + 1)
    return container([linear(view(whole, i, 1, 2), 2) for i in range(n)], "nn.ConcatTable")


def views(n: int) -> LuaTable:
    whole = storage(n)
    return Table({f"k{i}": view(whole, i, 1) for i in range(n)})


def function(i: int) -> LuaFunction:
    return LuaFunction(b"\x1bLJ\x02\x02" + b"x" * 30, Table())


def same(n: int, value: Any) -> list[Any]:
    return [value] * n


def join(i: int) -> LuaObject:
    return Obj("nn.JoinTable", Table({"train": True, "dimension": 1, "size": Table()}))


#: name -> what it makes of n
SHAPES: dict[str, Callable[[int], Any]] = {
    "modules: linear": lambda n: container([linear() for _ in range(n)]),
    "modules: one linear n times": lambda n: container(same(n, linear())),
    "modules: tanh": lambda n: container([tanh() for _ in range(n)]),
    "modules: parallel": lambda n: container([tanh() for _ in range(n)], "nn.ConcatTable"),
    "modules: 60 levels": nested,
    "modules: views of one storage": one_storage,
    "modules: one weight": lambda n: container([linear(w) for w in same(n, tensor(1, 1))]),
    "modules: overlapping weights": overlapping,
    "modules: unknown classes": lambda n: container([Obj(f"my.C{i}", Table({"train": True})) for i in range(n)]),
    "modules: one unknown class": lambda n: container([Obj("my.C", Table({"x": i})) for i in range(n)]),
    "modules: a long class name": lambda n: container([Obj("nn." + "x" * 16 * n, Table({"train": True}))]),
    "modules: fields of numbers": lambda n: container([linear(**{f"f{i}": float(i) for i in range(n)})]),
    "modules: fields of tensors": lambda n: container([linear(**{f"f{i}": tensor() for i in range(n)})]),
    "graphs: a chain": lambda n: graph(n, lambda i: [i - 1]),
    "graphs: a chain of linear": lambda n: graph(n, lambda i: [i - 1], module=lambda i: linear()),
    "graphs: one name": lambda n: graph(n, lambda i: [i - 1], label="same"),
    "graphs: all from the input": lambda n: graph(n, lambda i: [0] if i <= n else range(1, n + 1)),
    "graphs: all into one": lambda n: graph(
        n,
        lambda i: [0] if i < n else range(1, n) if i == n else [n],
        module=lambda i: tanh() if i < n else join(i),
    ),
    "graphs: 30 sources each": lambda n: graph(
        n, lambda i: range(max(0, i - 30), i), module=lambda i: Obj("nn.CAddTable", Table({"train": True}))
    ),
    "tables: tensors": lambda n: Table({f"k{i}": tensor() for i in range(n)}),
    "tables: views of one storage": views,
    "tables: one tensor n times": lambda n: Table({f"k{i}": t for i, t in enumerate(same(n, tensor()))}),
    "tables: models": lambda n: Table({f"m{i}": container([linear()]) for i in range(n)}),
    "tables: n levels": deep,
    "tables: a list": lambda n: Table.from_list([float(i) for i in range(n)]),
    "tables: functions": lambda n: Table.from_list([function(i) for i in range(n)]),
    "text: strings": lambda n: Table({f"s{i}": "x" * 50 for i in range(n)}),
    "text: a long string": lambda n: Table({"a": "x" * 50 * n, "m": linear()}),
    "text: a long key": lambda n: Table({"k" * 16 * n: container([linear()])}),
    "text: long keys": lambda n: Table({f"{i:08}" * 25: float(i) for i in range(n)}),
}

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


# ---------------------------------------------------------------------- inputs of one command
def manifest_of(n: int, folder: Path, suffix: str) -> tuple[Any, list[str]]:
    line = {"source": f"{folder}/none.t7", "verdict": "equal", "sha256": "", "target_sha256": "", "key": None}
    file = folder / f"{n}.jsonl"
    file.write_text("".join(json.dumps({**line, "target": f"{folder}/{i}{suffix}"}) + "\n" for i in range(n)))
    return verify_command, [str(file)]


def shards_of(n: int, folder: Path) -> tuple[Any, list[str]]:
    """Write a model of n tensors in 100 shards."""
    source = folder / f"{n}.t7"
    write_t7(source, container([linear() for _ in range(n // 2)]))
    size = ["--max-shard-size", str(max(8, 8 * n // 100))]
    return convert_command, [str(source), f"{folder}/{n}.safetensors", *size, "--force"]


def index_of(n: int, folder: Path) -> tuple[Any, list[str]]:
    command, arguments = shards_of(n, folder)
    command.main([*arguments, "-q"], standalone_mode=False)
    return inspect_command, [f"{folder}/{n}.safetensors.index.json"]


def reference_of(n: int, folder: Path, kind: str) -> tuple[Any, list[str]]:
    """Write a layer, and a reference with n outputs, or with n entries of other names."""
    model, file = folder / "layer.t7", folder / f"{n}-{kind}.t7"
    write_t7(model, linear())
    many = {f"x{i}": tensor() for i in range(n)}
    results = {"output": Table.from_list(list(many.values()))} if kind == "outputs" else {"output": tensor(1), **many}
    write_t7(file, Table({"input": tensor(1), **results}))
    return verify_command, [str(model), "--reference", str(file)]


#: name -> the command and its arguments for n elements
INPUTS: dict[str, Callable[[int, Path], tuple[Any, list[str]]]] = {
    "manifests: missing files": lambda n, folder: manifest_of(n, folder, ".pt"),
    "manifests: programs": lambda n, folder: manifest_of(n, folder, ".py"),
    "shards: written": shards_of,
    "shards: read": index_of,
    "references: outputs": lambda n, folder: reference_of(n, folder, "outputs"),
    "references: other entries": lambda n, folder: reference_of(n, folder, "entries"),
}
#: seconds after which a command is ended, and from which a larger file is not tried
ENDED, ENOUGH = 60.0, float(os.environ.get("ENOUGH", 8.0))


def prepared(shape: str, command: str, n: int, folder: Path) -> tuple[Any, list[str]]:
    """Return the command and its arguments for a shape of n elements."""
    source = folder / f"{list(SHAPES).index(shape)}-{n}.t7"
    if not source.exists():
        write_t7(source, SHAPES[shape](n))
    run, words = COMMANDS[command]
    arguments = [w.replace("{in}", str(source)).replace("{out}", str(source.with_suffix(""))) for w in words]
    if run is convert_command:
        arguments += ["--force"]
    return run, arguments


def measured(run: Any, arguments: list[str]) -> tuple[float, str]:
    """Return the seconds of the processor, and how the command ended."""
    gc.collect()
    gc.freeze()  # what is there already is not looked through again while the command runs
    start = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, ENDED)
    try:
        result = CliRunner().invoke(run, arguments)
        code = f"exit {result.exit_code}"
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            code = type(result.exception).__name__
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return time.process_time() - start, code


class _Ended(BaseException):
    pass


def _end(*_: Any) -> None:
    raise _Ended


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Figures, as JSON; measured ones are kept.")
@click.option("--only", default="", help="Shapes or commands with this in their name.")
@click.option("--table", is_flag=True, help="Print docs/growth.md's table of what was measured, and measure nothing.")
@click.option("--n", default=2500, help="The smallest n; it grows as long as a command takes less than a few seconds.")
@click.option("--most", default=100_000, help="The largest 4n.")
def main(out: Path, only: str, table: bool, n: int, most: int) -> None:
    """Measure."""
    if table:
        print_table(json.loads(out.read_text()))
        return
    signal.signal(signal.SIGPROF, _end)
    figures = json.loads(out.read_text()) if out.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for shape in SHAPES:
            for command in COMMANDS:
                make = partial(prepared, shape, command, folder=place)
                measure(figures, f"{shape} | {command}", only, out, lambda: series(make, n, most))  # noqa: B023
            for file in place.iterdir():
                file.unlink()
        for name, inputs in INPUTS.items():
            make = partial(inputs, folder=place)
            measure(figures, name, only, out, lambda: series(make, n, most))  # noqa: B023


def measure(figures: dict[str, Any], name: str, only: str, out: Path, run: Callable[[], dict[str, Any]]) -> None:
    """Measure a series that is not there yet, and store it."""
    if name in figures or only not in name:
        return
    figures[name] = run()
    click.echo(f"{name}: {figures[name]}")
    out.write_text(json.dumps(figures, indent=1))


def growth(found: dict[str, Any]) -> float:
    """How many times as long twice the size takes, from the smallest to the largest n."""
    seconds = {int(n): max(t - found["least"], 0.002) for n, t in found["seconds"].items()}
    least, most = min(seconds), max(seconds)
    return 2 ** (math.log(seconds[most] / seconds[least]) / math.log(most / least)) if most > least else math.nan


def print_table(figures: dict[str, Any]) -> None:
    """Print a table with a row for each shape and a column for each command."""
    click.echo(f"| | largest n | {' | '.join(COMMANDS)} |")
    click.echo("|---|---" + "|---" * len(COMMANDS) + "|")
    for shape in SHAPES:
        found = [figures.get(f"{shape} | {command}") for command in COMMANDS]
        largest = max((int(n) for f in found if f for n in f["seconds"]), default=0)
        cells = [f"{growth(f):.1f}" if f else "" for f in found]
        click.echo(f"| {shape} | {largest:,} | {' | '.join(cells)} |")
    click.echo("\n| | largest n | growth |\n|---|---|---|")
    for name in INPUTS:
        if found := figures.get(name):
            click.echo(f"| {name} | {max(map(int, found['seconds'])):,} | {growth(found):.1f} |")


def series(make: Callable[[int], tuple[Any, list[str]]], n: int, most: int) -> dict[str, Any]:
    """Measure the times for n, 2n, 4n, … and for an input of almost nothing."""
    measured(*make(2))  # imports
    least, _ = measured(*make(2))
    found: dict[str, Any] = {"least": round(least, 3), "seconds": {}, "ended": ""}
    while n <= most:
        try:
            seconds, found["ended"] = measured(*make(n))
        except _Ended:
            found["ended"] = f"more than {ENDED:g} s"
            break
        found["seconds"][n] = round(seconds, 3)
        if seconds > ENOUGH and len(found["seconds"]) > 2:
            break
        n *= 2
    return found


if __name__ == "__main__":
    main()
