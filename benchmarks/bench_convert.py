"""Measure the conversion of a large model relative to ``torch.save`` of the same weights, and its memory.

    python benchmarks/bench_convert.py [megabytes] [--flat]

With ``--flat`` all parameters are views of one storage, as after Torch7's ``getParameters()``.

The conversion reads the .t7, builds the module, writes the .pt, reads it back and compares every byte. Targets: time
at most 1.2 x torch.save including the verification read, peak memory at most the weights plus 300 MB.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from dpnn_bridge.files.converting import convert
from dpnn_bridge.loaders.t7_writer import write_t7
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor

FLAT = "--flat" in sys.argv
PAIRS = 20
MEGABYTES = next((int(a) for a in sys.argv[1:] if a.isdigit()), 550)


def large_model(megabytes: int) -> LuaObject:
    """Return an ``nn.Sequential`` of ``nn.Linear`` layers of 16 MB each."""
    size, layers = 2048, megabytes // 16
    rng = np.random.default_rng(0)
    flat = LuaTensor.from_numpy(rng.normal(size=layers * size * (size + 1)).astype(np.float32)) if FLAT else None

    def tensor(shape: tuple[int, ...], start: int) -> LuaTensor:
        if flat is None:
            return LuaTensor.from_numpy(rng.normal(size=shape).astype(np.float32))
        stride = (shape[1], 1) if len(shape) == 2 else (1,)
        return LuaTensor(flat.class_name, shape, stride, start, flat.storage)

    def linear(i: int) -> LuaObject:
        start = i * size * (size + 1)
        fields = {
            "weight": tensor((size, size), start),
            "bias": tensor((size,), start + size * size),
            "train": True,
            "_type": "torch.FloatTensor",
        }
        return LuaObject("nn.Linear", LuaTable(fields))

    return LuaObject("nn.Sequential", LuaTable({"modules": LuaTable.from_list(linear(i) for i in range(layers))}))


MEMORY = """
import dpnn_bridge.files, dpnn_bridge.conversion.registry

def kilobytes(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(name))

dpnn_bridge.conversion.registry.discover()
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak starts anew
base = kilobytes("VmRSS")
dpnn_bridge.files.convert({t7!r}, {pt!r}, force=True)
print((kilobytes("VmHWM") - base) / 1024)
"""


def seconds(action: Callable[[], object], target: Path) -> tuple[float, float]:
    """Processor time and wall time of an action that writes ``target``, which does not exist before."""
    target.unlink(missing_ok=True)
    os.sync()
    start = time.process_time(), time.perf_counter()
    action()
    return time.process_time() - start[0], time.perf_counter() - start[1]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        t7, pt, copy = (Path(folder) / f"model.{k}" for k in ("t7", "pt", "copy"))
        write_t7(t7, large_model(MEGABYTES))
        size = t7.stat().st_size / 2**20
        convert(t7, pt)
        state = torch.load(pt, weights_only=True)["state_dict"]
        actions = [(lambda: convert(t7, pt), pt), (lambda: torch.save(state, copy), copy)]
        pairs = []
        for i in range(PAIRS):  # side by side, since the disk's mood changes, and each first in turn
            times = [seconds(*action) for action in (actions if i % 2 else reversed(actions))]
            pairs.append(times if i % 2 else times[::-1])
        pt.unlink()
        code = MEMORY.format(t7=str(t7), pt=str(pt))
        memory = float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    print(f"{size:.0f} MB model{' in one storage' if FLAT else ''}, {os.cpu_count()} cores, {len(pairs)} pairs")
    for which, name in enumerate(("processor time", "wall time")):
        own, other = ([pair[k][which] for pair in pairs] for k in (0, 1))
        ratios = [figure(own) / figure(other) for figure in (statistics.median, min)]
        print(f"{name}, convert / torch.save: {ratios[0]:.2f} of the medians, {ratios[1]:.2f} of the shortest")
        print(f"    seconds (median): {statistics.median(own):.2f} / {statistics.median(other):.2f}")
    print(f"peak memory: weights + {memory - size:.0f} MB")


if __name__ == "__main__":
    main()
