"""Measure calls of Lua on the bridge and in Torch7.

    python benchmarks/bench_lua.py [--runtime lua51] [--sandbox]
    python benchmarks/bench_lua.py --census [--types Double,Int] [--sizes 10,64] [--name '^add$'] [--all]

If ``DPNN_TORCH7`` names a real Torch7, the operations run there too. Otherwise the column has stored times.
``--census`` times every method that Torch7 has: of all element types, on matrices of 10 x 10, 64 x 64 and 1000 x 1000,
contiguous and transposed, in both programs by turns, with dpnn-lua's memory settings. It takes about 20 minutes;
two types on one size take one.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from dpnn_bridge.cli.lua import keep_freed_memory
from dpnn_bridge.lua import LuaBridge
from dpnn_bridge.lua.torch7 import VARIABLE, run_torch7

#: body of a Lua loop -> microseconds of Torch7 (LuaJIT 2.1, one core of a cloud machine); t, u are 10 x 10, v, w have
#: 10 elements, l is 1 .. 10 as longs, m a mask of 10 x 10
OPERATIONS = {
    "t:dim()": 0.14,
    "t:size(1)": 0.15,
    "t:size()": 0.31,
    "x = v[3]": 0.09,
    "v[3] = 1": 0.09,
    "x = t[2]": 0.30,
    "x = t[{2, {}}]": 0.83,
    "t:narrow(1, 1, 2)": 0.63,
    "t:view(100)": 5.6,
    "t:resizeAs(u)": 0.17,
    "t:copy(u)": 0.19,
    "t:fill(1)": 0.43,
    "t:add(1)": 0.46,
    "t:add(2, u)": 0.28,
    "t:cmul(u)": 0.50,
    "t:tanh()": 0.61,
    "x = t:sum()": 0.20,
    "t:addmm(0, t, 1, u, u)": 0.41,
    "w:addmv(0, 1, t, v)": 0.30,
    "x = u:clone()": 0.43,
    "x = torch.add(t, u)": 1.09,
    "x = torch.Tensor(10)": 0.63,
    "t:uniform()": 0.57,
    "t:normal()": 2.2,
    "t:bernoulli(0.5)": 0.73,
    "x = torch.uniform()": 0.17,
    "x = torch.randn(10)": 0.84,
    "x = torch.randperm(100)": 1.35,
    "x = torch.multinomial(v, 3)": 1.6,
    "x = torch.sort(v)": 1.5,
    "x = t:median(2)": 3.0,
    "x = t:sum(1)": 0.9,
    "x = t:max(2)": 1.0,
    "x = t:norm(2, 1)": 4.0,
    "x = t:index(1, l)": 1.0,
    "w:indexAdd(1, l, v)": 0.5,
    "x = t:gt(0)": 0.6,
    "t:maskedFill(m, 1)": 0.4,
    "x = t[m]": 0.5,
    "l:add(0)": 0.2,
    "x = l:double()": 0.4,
    "t:apply(f)": 1.0,
    "x = torch.range(1, 10)": 0.4,
    "x = t:size():totable()": 0.5,
    "x = tostring(v)": 10,
    "x = torch.cat(v, w)": 1.0,
    "x = torch.zeros(10)": 0.5,
    "x = t:pow(2.5)": 1.0,
    "x = v:dot(w)": 0.2,
}

_TIMES = """
local bodies = ...
local times = {}
local t, u, v, w, x = torch.ones(10, 10), torch.ones(10, 10), torch.ones(10), torch.ones(10), nil
local l, m, f = torch.range(1, 10):long(), torch.eye(10):byte(), function(y) return y end
for i, body in ipairs(bodies) do
   local run = assert(loadstring('local t, u, v, w, l, m, f, x, n = ... for i = 1, n do ' .. body .. ' end'))
   run(t, u, v, w, l, m, f, x, 500)
   times[i] = math.huge
   for round = 1, 3 do
      local clock = os.clock()
      run(t, u, v, w, l, m, f, x, 4000)
      times[i] = math.min(times[i], (os.clock() - clock) / 4000 * 1e6)
   end
   t:fill(1)
end
return times
"""


def times_of_torch7() -> list[float]:
    """Microseconds in the real one."""
    from dpnn_bridge.objects import LuaTable

    (found,) = run_torch7(_TIMES, LuaTable(enumerate(OPERATIONS, 1)))
    return [found[n] for n in range(1, len(OPERATIONS) + 1)]


def layer_times(bridge: LuaBridge, batch: int, count: int = 200) -> tuple[float, float]:
    """Microseconds of forward and backward of a layer written in Lua, and of the same formula in PyTorch."""
    bridge.execute(
        """
        require 'nn'
        if not nn.BenchCube then
           local Cube, parent = torch.class('nn.BenchCube', 'nn.Module')
           function Cube:updateOutput(x) self.output:resizeAs(x):copy(x):pow(3) return self.output end
           function Cube:updateGradInput(x, g)
              self.gradInput:resizeAs(x):copy(x):pow(2):mul(3):cmul(g)
              return self.gradInput
           end
        end
        """
    )
    layer = bridge.module("nn.BenchCube")
    x = torch.randn(batch, 64, dtype=torch.float64, requires_grad=True)
    times = []
    for f in (layer, lambda v: v**3):
        start = time.perf_counter()
        for _ in range(count):
            f(x).sum().backward()
        times.append((time.perf_counter() - start) / count * 1e6)
    return times[0], times[1]


def _times(lines: str | bytes) -> dict[str, float]:
    """Return kind -> seconds of what census.lua returns."""
    text = lines.decode("latin-1") if isinstance(lines, bytes) else lines
    return {kind: float(seconds) for kind, _, seconds in (line.rpartition("\t") for line in text.splitlines())}


def census(types: list[str], sizes: list[int], name: str) -> Iterator[tuple[str, float, float]]:
    """Yield kind, and seconds on the bridge (infinite if it cannot) and in Torch7."""
    code = Path(__file__).with_name("census.lua").read_text(encoding="utf-8")
    for ty in types:
        for size in sizes:
            for transposed in (False, True):
                (real,) = run_torch7(code, ty, size, transposed, name, timeout=3600)
                ours = _times(LuaBridge().execute(code, ty, size, transposed, name))
                for kind, seconds in _times(real).items():
                    place = f"{ty:6} {size:4} {'transposed' if transposed else 'contiguous'} {kind}"
                    yield place, ours.get(kind, float("inf")), seconds


#: upper bounds of the ratios that the census counts
_BOUNDS = (1, 1.2, 2, 3, 5, 10, 30, float("inf"))


def print_census(types: list[str], sizes: list[int], name: str, everything: bool) -> None:
    """Print the kinds that take more than three times as long as in Torch7, or all, and how many have which ratio."""
    rows = sorted(census(types, sizes, name), key=lambda row: row[1] / row[2])
    print(f"{'bridge':>10} {'Torch7':>10} {'ratio':>7}  microseconds")
    for kind, ours, real in rows:
        if everything or ours > 3 * real:
            print(f"{1e6 * ours:10.2f} {1e6 * real:10.2f} {ours / real:7.1f}  {kind}")
    for size in sizes:
        ratios = [ours / real for kind, ours, real in rows if int(kind.split()[1]) == size]
        below = [sum(ratio <= bound for ratio in ratios) for bound in _BOUNDS]
        counts = ", ".join(f"{n} to {bound:g}" for n, bound in zip(below, _BOUNDS, strict=True))
        print(f"{size} x {size}: {len(ratios)} kinds, median {statistics.median(ratios):.2f}; {counts}")


def main() -> None:
    parser = argparse.ArgumentParser(description="What calls of Lua cost on the bridge, and in Torch7.")
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--sandbox", action="store_true")
    parser.add_argument("--census", action="store_true", help="time every method of every type; needs DPNN_TORCH7")
    parser.add_argument("--types", default="Byte,Char,Short,Int,Long,Half,Float,Double", help="of the census")
    parser.add_argument("--sizes", default="10,64,1000", help="rows and columns of the matrices of the census")
    parser.add_argument("--name", default="", help="Lua pattern of the methods of the census")
    parser.add_argument("--all", action="store_true", help="print all kinds of the census, not the slow ones alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.census:
        keep_freed_memory()
        sizes = [int(size) for size in options.sizes.split(",")]
        print_census(options.types.split(","), sizes, options.name, options.all)
        return
    start = time.perf_counter()
    bridge = LuaBridge(runtime=options.runtime, sandbox=options.sandbox, max_seconds=600)
    place = f"runtime {bridge.runtime}{', sandbox' * options.sandbox}"
    print(f"{place}, start {1e3 * (time.perf_counter() - start):.0f} ms")
    ours: Any = bridge.execute(_TIMES, list(OPERATIONS))
    real = os.environ.get(VARIABLE)
    theirs = times_of_torch7() if real else list(OPERATIONS.values())
    print(f"{'':28} {'bridge':>9} {'Torch7':>9} {'ratio':>7} ({'this run' if real else 'stored'}), microseconds")
    for name, mine, other in zip(OPERATIONS, ours, theirs, strict=True):
        print(f"{name:28} {mine:9.2f} {other:9.2f} {mine / other:7.1f}")
    for batch in (1, 64, 4096):
        lua, pure = layer_times(bridge, batch)
        print(f"Lua layer, {batch:4} x 64       {lua:8.0f} us forward and backward, {pure:.0f} us in PyTorch")


if __name__ == "__main__":
    main()
