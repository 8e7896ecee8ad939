"""Write the row of a device in the table of docs/parity.md: ``python docs/generate_devices.py cuda``.

It runs every fixture on the device, which takes minutes. ``DPNN_FIXTURES`` names a larger set of the same form.
``pytest --device cuda`` runs the same fixtures as tests.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dpnn_bridge.compare.differences import Tolerance
from dpnn_bridge.parity.known_differences import read_known_differences
from dpnn_bridge.parity.verify import verify

HERE = Path(__file__).parent
TARGET = HERE / "parity.md"
END = "<!-- /devices -->"
FIXTURES = Path(os.environ.get("DPNN_FIXTURES") or HERE.parent / "fixtures")
#: the tolerances of the tests: CUDA adds in another order, some of it by atomic operations
TOLERANCE = {"cuda": Tolerance(1e-9, 1e-4), "cpu": Tolerance()}


def row(device: str, entries: Sequence[dict[str, Any]]) -> str:
    """Return the row of a device: name, driver, PyTorch, fixtures that pass, all fixtures, worst differences."""
    known = read_known_differences(HERE.parent / "fixtures" / "known_differences.json")
    tolerance = TOLERANCE[device.partition(":")[0]]
    passed, worst = 0, {False: 0.0, True: 0.0}
    for entry in entries:
        options = {"tolerance": tolerance, "gradient_tolerance": tolerance, "known": known}
        result = verify(FIXTURES / entry["file"], device=device, **options)
        passed += result.ok
        single = "float64" not in result.dtype and "double" not in result.dtype
        errors = [d.error for d in result.differences if d.ok and not d.accepted]
        worst[single] = max([worst[single], *errors])
    return (
        f"| {_name(device)} | {_driver(device)} | {torch.__version__} | {passed} | {len(entries)} "
        f"| {worst[False]:.1e} | {worst[True]:.1e} |\n"
    )


def _name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()


def _driver(device: str) -> str:
    if not device.startswith("cuda"):
        return "–"
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8").stdout.split("\n")[0]


def main() -> None:
    device = sys.argv[1] if len(sys.argv) > 1 else "cuda"
    if device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit("this machine has no CUDA device that PyTorch can use")
    entries = json.loads((FIXTURES / "manifest.json").read_text(encoding="utf-8"))["fixtures"]
    text = row(device, [e for e in entries if e["kind"] in ("module", "criterion")])
    page = TARGET.read_text(encoding="utf-8")
    kept, rest = page.split(END)
    lines = [line for line in kept.splitlines(keepends=True) if not line.startswith(f"| {_name(device)} |")]
    TARGET.write_text("".join(lines) + text + END + rest, encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    main()
