"""Random sequences of tensor operations (sequences.lua) in a real Torch7 and on the bridge.

    DPNN_TORCH7=/path/to/th python tests/lua/sequences/compare.py SEED COUNT [--show N] [--record FILE]

Torch7 runs twice, in memory of other contents: a sequence in which it differs from itself reads what nobody wrote, and
is left out, as are those in which it crashes. What differs is listed by the first operation that does.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

SCRIPT = Path(__file__).with_name("sequences.lua")
BRIDGE = [sys.executable, "-c", "from dpnn_bridge.cli.lua import lua_command; lua_command()"]
_START = re.compile(r"(?m)^(?=sequence \d)")


def run(program: list[str], seed: int, last: int, first: int = 1, perturb: int = 0) -> tuple[dict[int, str], set[int]]:
    """Text of each sequence, and the numbers of those in which the program crashed."""
    texts: dict[int, str] = {}
    crashed: set[int] = set()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_PERTURB_": str(perturb)}
    while first <= last:
        command = [*program, str(SCRIPT), str(seed), str(first), str(last)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment, check=False)
        texts |= {int(part.split()[1]): part for part in _START.split(done.stdout) if part}
        if done.returncode == 0:
            break
        if not texts or max(texts) < first:
            raise RuntimeError(f"{program[0]}: exit code {done.returncode}\n{done.stderr}")
        crashed.add(max(texts))
        first = max(texts) + 1
    return texts, crashed


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def first_difference(expected: str, found: str) -> tuple[str, str]:
    """The first lines that differ."""
    for a, b in zip(expected.splitlines(), found.splitlines(), strict=False):
        if a != b:
            return a, b
    return expected[-200:], found[-200:]


def main() -> None:
    parser = argparse.ArgumentParser(description="Random sequences of tensor operations, Torch7 against the bridge.")
    parser.add_argument("seed", type=int)
    parser.add_argument("count", type=int)
    parser.add_argument("--show", type=int, default=2, help="differences to show of each operation")
    parser.add_argument("--record", type=Path, help="write what Torch7 gave, as a digest of each sequence")
    options = parser.parse_args()
    torch7 = [os.environ["DPNN_TORCH7"]]
    texts, crashed = run(torch7, options.seed, options.count, perturb=255)
    again, crashed_again = run(torch7, options.seed, options.count, perturb=77)
    crashed |= crashed_again
    defined = [n for n, text in texts.items() if n not in crashed and text == again[n]]
    if options.record:
        options.record.write_text("".join(f"{n} {digest(texts[n])}\n" for n in defined))
        return
    bridge, failed = run(BRIDGE, options.seed, options.count)
    different = [n for n in defined if n in failed or texts[n] != bridge[n]]
    print(
        f"{len(texts)} sequences: Torch7 crashes in {len(crashed)}, reads undefined memory in "
        f"{len(texts) - len(defined) - len(crashed)}; of the other {len(defined)} "
        f"the bridge differs in {len(different)}"
    )
    classes = defaultdict(list)
    for n in different:
        lines = first_difference(texts[n], bridge[n])
        found = re.search(r"(?:t\[\d\]|torch)[:.](\w+)\(", lines[0])
        classes[found[1] if found else lines[0][:20]].append((n, *lines))
    for name, cases in sorted(classes.items(), key=lambda c: -len(c[1])):
        print(f"{name}: {len(cases)}")
        for n, expected, got in cases[: options.show]:
            print(f"   {n}\n      Torch7 {expected[:300]}\n      bridge {got[:300]}")


if __name__ == "__main__":
    main()
