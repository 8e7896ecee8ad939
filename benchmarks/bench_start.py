"""Measure the start: the import, and the help of the command.

    python benchmarks/bench_start.py

Targets: ``import dpnn_bridge`` at most 0.15 s more than ``import torch``, ``dpnn-convert --help`` below 0.4 s.
"""

from __future__ import annotations

import os
import subprocess
import sys

ROUNDS = 9


def seconds(*commands: tuple[str, ...]) -> list[float]:
    """Processor time of fresh interpreters: the least of several rounds, which other programs disturb little."""
    least = [float("inf")] * len(commands)
    for _ in range(ROUNDS):
        for i, arguments in enumerate(commands):
            process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            assert status == 0
            least[i] = min(least[i], usage.ru_utime + usage.ru_stime)
    return least


def main() -> None:
    torch, ours, help_ = seconds(
        ("-c", "import torch"),
        ("-c", "import torch, dpnn_bridge; dpnn_bridge.load, dpnn_bridge.to_torch"),
        ("-m", "dpnn_bridge", "convert", "--help"),
    )
    print(f"import torch              {torch:.2f} s")
    print(f"  and dpnn_bridge         {ours:.2f} s, {ours - torch:+.3f} s")
    print(f"dpnn-convert --help       {help_:.2f} s")


if __name__ == "__main__":
    main()
