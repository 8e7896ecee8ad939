"""Record new conformance cases of an area in real Torch7.

    DPNN_TORCH7=/path/to/th python tests/record_cases.py mathfn

Records that exist are never changed; a case that Torch7 now answers otherwise is listed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from lua.conformance.compare import compare, load

from dpnn_bridge.lua.torch7 import NOT_FOUND, find_torch7

FOLDER = Path(__file__).parent / "lua" / "conformance"


def main(areas: list[str] = sys.argv[1:], expected: Path = FOLDER / "expected") -> int:
    """Print the number of new records of each area."""
    if not areas:
        print(__doc__, file=sys.stderr)
        return 2
    torch7 = find_torch7()
    if torch7 is None:
        print(NOT_FOUND, file=sys.stderr)
        return 1
    different = []
    with tempfile.TemporaryDirectory() as out:
        if code := subprocess.run([torch7, "run.lua", out, *areas], cwd=FOLDER, check=False).returncode:
            print(f"run.lua {' '.join(areas)}: exit code {code}", file=sys.stderr)
            return 1
        for area in areas:
            target = expected / f"{area}.jsonl"
            before = load(target) if target.exists() else {}
            now = load(Path(out) / f"{area}.jsonl")
            lines = zip(now, (Path(out) / f"{area}.jsonl").read_text(encoding="utf-8").splitlines(), strict=True)
            new = [line for name, line in lines if name not in before]
            with open(target, "a", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in new)
            different += [f"{area}/{name}" for name in before if compare(before[name], now.get(name))[0] == "fail"]
            print(f"{area}: {len(new)} new cases")
    if different:
        print("not as recorded (another Torch7?):", *different, sep="\n", file=sys.stderr)
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
