"""Writes the package's table of random instances by class, from a run of tests/differential against real Torch7.

    DPNN_TORCH7=/path/to/th pytest tests/differential/test_random.py --junitxml=random.xml
    python docs/generate_random_instances.py random.xml

Counted are the instances that Torch7 ran and that agree, but for differences that are explained.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

from dpnn_bridge.parity.evidence import RANDOM_INSTANCES


def counts(path: Path) -> dict[str, int]:
    """Lua class -> number of instances."""
    found: dict[str, int] = {}
    for case in ElementTree.parse(path).iter("testcase"):
        numbers = {p.get("name"): int(p.get("value") or 0) for p in case.iter("property")}
        name = re.fullmatch(r"test_random_instances_.*\[(.+)\]", case.get("name") or "")
        if name and not numbers.get("different") and case.find("failure") is None:
            found[name[1]] = numbers.get("equal", 0) + numbers.get("explained", 0)
    return {name: n for name, n in sorted(found.items()) if n}


if __name__ == "__main__":
    RANDOM_INSTANCES.write_text(json.dumps(counts(Path(sys.argv[1])), indent=0) + "\n", encoding="utf-8")
