"""What a call over the Lua border costs.

python benchmarks/bench_lua.py
"""

from __future__ import annotations

import time

import torch

from dpnn_bridge.lua import LuaBridge

OPERATIONS = {
    "t:dim()": "t:dim()",
    "t:size(1)": "t:size(1)",
    "t[3] (number)": "local x = v[3]",
    "t[3] = 1": "v[3] = 1",
    "t[2] (row)": "local x = t[2]",
    "t:narrow(1, 1, 2)": "t:narrow(1, 1, 2)",
    "t:add(1)": "t:add(1)",
    "t:cmul(u)": "t:cmul(u)",
    "torch.add(t, u)": "torch.add(t, u)",
    "torch.Tensor(10)": "torch.Tensor(10)",
    "t:data()[3] in a loop": None,
}


def microseconds(bridge: LuaBridge, body: str, count: int = 20000) -> float:
    """Time of one run of ``body`` in a Lua loop."""
    run = bridge.execute(
        f"""
        local t, u, v = torch.ones(10, 10), torch.ones(10, 10), torch.ones(10)
        return function(n)
           local clock = os.clock()
           for i = 1, n do {body} end
           return (os.clock() - clock) / n * 1e6
        end
        """
    )
    bridge.call(run, count // 10)
    return min(bridge.call(run, count) for _ in range(3))


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


def main() -> None:
    torch.set_num_threads(1)
    start = time.perf_counter()
    bridge = LuaBridge()
    print(f"runtime {bridge.runtime}, start {1e3 * (time.perf_counter() - start):.0f} ms")
    for name, body in OPERATIONS.items():
        if body is not None:
            print(f"{name:24} {microseconds(bridge, body):8.2f} us")
        elif bridge.runtime == "luajit21":
            print(f"{name:24} {microseconds(bridge, 'local d = v:data() for k = 0, 9 do d[k] = k end'):8.2f} us for 10")
    for batch in (1, 64, 4096):
        lua, pure = layer_times(bridge, batch)
        print(f"Lua layer, {batch:4} x 64       {lua:8.0f} us forward and backward, {pure:.0f} us in PyTorch")


if __name__ == "__main__":
    main()
