"""Compare a Lua sandbox with a bridge in the same process: start, one call, a small and a large layer."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from dpnn_bridge.lua import LuaBridge

EXAMPLE = Path(__file__).parents[1] / "examples" / "scaled_power.lua"


def median(run: Callable[[], object], count: int) -> float:
    """Milliseconds."""
    run()
    times = []
    for _ in range(count):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1000


def main() -> None:
    torch.set_num_threads(1)
    for sandbox in (False, True):
        began = time.perf_counter()
        bridge = LuaBridge.from_files([EXAMPLE], sandbox=sandbox)
        print(f"{'sandbox' if sandbox else 'here'}: start {time.perf_counter() - began:.2f} s")
        print(f"  a call {median(lambda: bridge.execute('return 1'), 300):.3f} ms")  # noqa: B023 - run at once
        for rows, size in ((5, 3), (1, 1_000_000)):
            layer = bridge.module("nn.ScaledPower", size, 2)
            x = torch.randn(rows, size, dtype=torch.float64, requires_grad=True)
            taken = median(lambda: layer(x).sum().backward(), 20)  # noqa: B023 - run at once
            print(f"  forward and backward of {rows}x{size}: {taken:.2f} ms")


if __name__ == "__main__":
    main()
