"""Measures the differences that fixtures/known_differences.json names, and prints the messages that its patterns match.

Run it after a change that is meant to change them, on the full set: ``DPNN_FIXTURES=FOLDER python`` this file.
"""

from __future__ import annotations

import json
import math
import re
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from conftest import KNOWN_FILE, manifest  # noqa: E402
from test_known_differences import failures  # noqa: E402


def number(x: float) -> Any:
    """Twelve digits; what JSON has no number for as text."""
    return float(f"{x:.12g}") if math.isfinite(x) else str(x)


def main() -> None:
    entries = json.loads(KNOWN_FILE.read_text())
    fixtures = manifest(kind=("module", "criterion", "sequence"))
    for entry in entries:
        found = [
            (f["name"], d)
            for f in fixtures
            if any(fnmatchcase(f["name"], p) for p in entry["files"])
            for d in failures(f)
            if any(fnmatchcase(d.name, p) for p in entry["compared"])
        ]
        messages = {re.sub(r"\(\S*/|, here it works", "(*", d.message) for _, d in found if d.index is None}
        values = [(name, d) for name, d in found if d.index is not None]
        if messages:
            print(entry["files"], *messages, sep="\n    ")
        if values:
            entry["measured"] = {
                f"{name} {d.name}": {k: number(getattr(d, k)) for k in ("expected", "found", "snr")}
                for name, d in values
            }
    lines = []
    for entry in entries:
        rows = [f'    "{k}": {json.dumps(v)}' for k, v in entry.items() if k != "measured"]
        if "measured" in entry:
            inner = ",\n".join(f"      {json.dumps(k)}: {json.dumps(v)}" for k, v in entry["measured"].items())
            rows.append(f'    "measured": {{\n{inner}\n    }}')
        lines.append("  {\n" + ",\n".join(rows) + "\n  }")
    KNOWN_FILE.write_text("[\n" + ",\n".join(lines) + "\n]\n")


if __name__ == "__main__":
    main()
