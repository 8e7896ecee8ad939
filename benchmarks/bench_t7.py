"""Compare the reader with torchfile and torch.load, as ratios of one run: ``python benchmarks/bench_t7.py``.

Writes about 1.2 GB of temporary files. Times are CPU times unless a program waits for a disk, best of several.
``python benchmarks/bench_t7.py model lists`` measures only these parts. ``--json`` prints the figures as JSON. The
exit code is 1 if a figure misses its target.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchfile

from dpnn_bridge.checkpoints.describe import describe
from dpnn_bridge.loaders import loads, read_t7, write_t7
from dpnn_bridge.loaders.t7_writer import dumps
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor

#: sizes of VGG-16's layers, 138 million parameters, 553 MB
CONVOLUTIONS = [(64, 3), (64, 64), (128, 64), (128, 128), (256, 128), (256, 256), (256, 256), (512, 256)]
CONVOLUTIONS += [(512, 512)] * 5
LINEARS = [(4096, 25088), (4096, 4096), (1000, 4096)]


def vgg16() -> LuaObject:
    """Return the object graph of VGG-16 with random weights."""
    rng = np.random.default_rng(0)
    modules = LuaTable()
    shapes = [("nn.SpatialConvolution", (out, inputs, 3, 3)) for out, inputs in CONVOLUTIONS]
    shapes += [("nn.Linear", shape) for shape in LINEARS]
    for class_name, shape in shapes:
        fields = LuaTable({"train": True, "output": LuaTensor.empty(), "gradInput": LuaTensor.empty()})
        fields["weight"] = LuaTensor.from_numpy(rng.standard_normal(shape, np.float32))
        fields["bias"] = LuaTensor.from_numpy(rng.standard_normal(shape[0], np.float32))
        modules[len(modules) + 1] = LuaObject(class_name, fields)
        modules[len(modules) + 1] = LuaObject("nn.ReLU", LuaTable({"inplace": True, "threshold": 0, "val": 0}))
    return LuaObject("nn.Sequential", LuaTable({"modules": modules}))


def small_objects(count: int) -> LuaTable:
    """Objects of a few fields, as annotations and vocabularies are."""
    return LuaTable.from_list(
        LuaTable({"id": i, "name": f"object{i % 1000}", "score": i * 0.37, "flag": bool(i & 1)}) for i in range(count)
    )


def best(function: Callable[[], Any], repeats: int, clock: Callable[[], float] = time.process_time) -> float:
    """Shortest time of ``function``; what it returns is dropped outside of the time."""
    times = []
    for _ in range(repeats):
        gc.collect()
        start = clock()
        value = function()
        times.append(clock() - start)
        del value
    return min(times)


def load_everything(path: Path) -> None:
    """Read a model and all its tensors, as torch tensors."""
    for module in read_t7(path)["modules"].values():
        for name in ("weight", "bias"):
            if name in module:
                module[name].torch()


PEAK = """
import re, sys
from dpnn_bridge.loaders import read_t7
import numpy, torch
def peak():
    return 1024 * int(re.search("VmHWM:\\s*([0-9]+)", open("/proc/self/status").read())[1])
before = peak()
model = read_t7(sys.argv[1])
for module in model["modules"].values():
    for name in ("weight", "bias"):
        if name in module:
            module[name].torch()
print(peak() - before)
"""


#: name -> (figure, "<=" or ">=", bound, what it is)
Figures = dict[str, tuple[float, str, float, str]]


def model(folder: Path) -> Figures:
    """Measure a model of 553 MB."""
    figures: Figures = {}
    model, weights = folder / "vgg16.t7", folder / "vgg16.pt"
    graph = vgg16()
    write_t7(model, graph, verify=False)
    torch.save({str(i): m["weight"].torch() for i, m in graph["modules"].items() if "weight" in m}, weights)
    del graph
    size = model.stat().st_size
    load_everything(model)  # everything is in the page cache now
    torch.load(weights, weights_only=True)

    opening = best(lambda: read_t7(model), 20, time.perf_counter)
    theirs = best(lambda: torchfile.load(str(model), use_list_heuristic=False), 3, time.perf_counter)
    figures["open, ms"] = opening * 1e3, "<=", 10, f"opening {size / 1e6:.0f} MB without touching tensors"
    figures["open, times faster than torchfile"] = theirs / opening, ">=", 50, ""
    figures["describe, ms"] = best(lambda: describe(model), 5, time.perf_counter) * 1e3, "<=", 50, "dpnn-inspect"
    ours = best(lambda: load_everything(model), 5, time.perf_counter)
    theirs = best(lambda: torch.load(weights, weights_only=True), 5, time.perf_counter)
    figures["load all, times torch.load"] = ours / theirs, "<=", 1.2, f"{ours * 1e3:.0f} ms and {theirs * 1e3:.0f} ms"
    peak = int(subprocess.run([sys.executable, "-c", PEAK, model], capture_output=True, text=True, check=True).stdout)
    figures["load all, memory beyond the file, MB"] = (peak - size) / 1e6, "<=", 50, f"peak {peak / 1e6:.0f} MB"
    model.unlink()
    weights.unlink()
    return figures


def against_torchfile(folder: Path, value: LuaTable, bound: float = 2.5) -> tuple[float, str, float, str]:
    """How many times as fast as torchfile a table is read."""
    path = folder / "table.t7"
    write_t7(path, value, verify=False)
    ours = best(lambda: read_t7(path), 5)
    theirs = best(lambda: torchfile.load(str(path), use_list_heuristic=False), 2)
    return theirs / ours, ">=", bound, f"{ours:.2f} s"


def objects(folder: Path) -> Figures:
    """Many small tables."""
    seconds = {}
    for count in (100_000, 1_000_000):
        path = folder / f"small{count}.t7"
        write_t7(path, small_objects(count), verify=False)
        seconds[count] = best(lambda path=path: read_t7(path), 3)
    theirs = best(lambda: torchfile.load(str(path), use_list_heuristic=False), 2)
    return {
        "million objects, times torchfile's speed": (theirs / seconds[count], ">=", 2.5, f"{seconds[count]:.2f} s"),
        "ten times the objects, times": (seconds[1_000_000] / seconds[100_000], "<=", 11, ""),
    }


def names(several: bool) -> Iterator[str]:
    """Yield a million distinct strings, of one length or of several."""
    lengths = np.random.default_rng(0).integers(1, 12, 1_000_000).tolist()
    return (f"{i:x}{'-' * n}" if several else f"word{i:07d}" for i, n in enumerate(lengths))


def lists(folder: Path) -> Figures:
    """Measure long tables with numbers as keys."""
    tables: dict[str, tuple[Callable[[], LuaTable], float]] = {
        "a million strings": (lambda: LuaTable.from_list(f"image{i:07d}.jpg" for i in range(1_000_000)), 2.5),
        "a million strings of several lengths": (lambda: LuaTable.from_list(names(several=True)), 2.5),
        "a million numbers": (lambda: LuaTable.from_list(i * 3 for i in range(1_000_000)), 2.5),
        "at indices that do not count up": (lambda: LuaTable((i * 7, i * 3) for i in range(1_000_000)), 2),
    }
    return {
        f"{name}, times torchfile's speed": against_torchfile(folder, make(), bound)
        for name, (make, bound) in tables.items()
    }


def short(folder: Path) -> Figures:
    """Tables of distinct strings of several lengths; the shorter ones are read one by one."""
    figures = {}
    for count, pairs, bound in ((5_000, 100, 1), (1_250, 400, 2)):
        table = LuaTable.from_list(
            LuaTable((f"{name}{i}", name) for i in range(pairs)) for name in islice(names(several=True), count)
        )
        key = f"{count} tables of {pairs} pairs of strings, times torchfile's speed"
        figures[key] = against_torchfile(folder, table, bound)
    return figures


def keys(folder: Path) -> Figures:
    """Measure a million strings as keys."""
    values: dict[str, Callable[[int, str], Any]] = {
        "numbers": lambda i, _: i + 1,
        "strings": lambda _, key: key[::-1],
        "booleans": lambda i, _: i % 3 == 0,
    }
    figures = {}
    for several in (False, True):
        for name, value in values.items():
            table = LuaTable((key, value(i, key)) for i, key in enumerate(names(several)))
            key = f"keys of {'several lengths' if several else 'one length'} to {name}, times torchfile's speed"
            figures[key] = against_torchfile(folder, table)
    return figures


def ascii_mode(_: Path) -> Figures:
    """Files in ASCII."""
    figures: Figures = {}
    text = dumps(small_objects(100_000), mode="ascii")
    rate = len(text) / best(lambda: loads(text), 3) / 1e6
    figures["ASCII structure, MB/s"] = rate, ">=", 5, f"{len(text) / 1e6:.0f} MB of small objects"
    text = dumps(LuaTensor.from_numpy(np.random.default_rng(0).standard_normal(1_000_000)), mode="ascii")
    rate = len(text) / best(lambda: loads(text).numpy(), 3) / 1e6
    figures["ASCII numbers, MB/s"] = rate, ">=", 5, f"{len(text) / 1e6:.0f} MB of doubles"
    return figures


PARTS = {"model": model, "objects": objects, "lists": lists, "short": short, "keys": keys, "ascii": ascii_mode}


def main() -> None:
    """Measure, print, and fail when a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        figures: Figures = {}
        for part in arguments.parts or PARTS:
            figures |= PARTS[part](Path(folder))
    missed = [n for n, (x, sign, bound, _) in figures.items() if (x > bound if sign == "<=" else x < bound)]
    if arguments.json:
        print(json.dumps({name: figure for name, (figure, *_) in figures.items()}))
    else:
        for name, (figure, sign, bound, what) in figures.items():
            print(f"{name:64} {figure:8.2f}  {sign} {bound:g}{'  MISSED' if name in missed else ''}  {what}")
    raise SystemExit(bool(missed))


if __name__ == "__main__":
    main()
