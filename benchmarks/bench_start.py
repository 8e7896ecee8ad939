"""How long one waits before anything happens: the import, and the command's help.

    python benchmarks/bench_start.py

Targets: ``import dpnn_bridge`` at most 0.15 s more than ``import torch``, ``dpnn-convert --help`` below 0.4 s.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

ROUNDS = 7


def seconds(*arguments: str) -> float:
    """Median wall time of a fresh interpreter."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    torch = seconds("-c", "import torch")
    ours = seconds("-c", "import torch, dpnn_bridge; dpnn_bridge.load, dpnn_bridge.to_torch")
    print(f"import torch              {torch:.2f} s")
    print(f"  and dpnn_bridge         {ours:.2f} s, {ours - torch:+.3f} s")
    print(f"dpnn-convert --help       {seconds('-m', 'dpnn_bridge', 'convert', '--help'):.2f} s")


if __name__ == "__main__":
    main()
