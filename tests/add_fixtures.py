"""Run a generator of ``fixtures/gen`` in real Torch7, and add those of its fixtures whose file has a word in its name.

    DPNN_TORCH7=/path/to/th python tests/add_fixtures.py fixtures/gen/nn/09_optim.lua adamax

Further arguments go to the generator (``08_small.lua Binary bnn``). Existing fixtures are never changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from dpnn_bridge.lua.torch7 import NOT_FOUND, find_torch7

FIXTURES = Path(__file__).parent.parent / "fixtures"
#: fields of a generator's entry that the manifest has too
FIELDS = (
    *("class", "class_under_test", "dtype", "error", "kind", "mode", "name", "notes", "package", "provenance", "tree"),
)


def main(fixtures: Path = FIXTURES, arguments: list[str] = sys.argv[1:]) -> int:
    """Print the file of each fixture that was added."""
    if len(arguments) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    torch7 = find_torch7()
    if torch7 is None:
        print(NOT_FOUND, file=sys.stderr)
        return 1
    script = Path(arguments[0]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "out"
        written.mkdir()
        entries, failures = _generated(torch7, script, arguments[2:], written)
        if failures:
            print("nothing was added; the generator failed:", *failures, sep="\n", file=sys.stderr)
            return 1
        wanted = [entry for entry in entries if arguments[1] in entry["file"]]
        added = _add(wanted, written, script.parent.name, fixtures)
    print(
        *added, f"{len(added)} added, {len(wanted) - len(added)} exist, {len(entries) - len(wanted)} others", sep="\n"
    )
    return 0


def _generated(torch7: str, script: Path, more: list[str], out: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Run a generator; return the entries of its fixtures, with files in ``out``, and the cases that failed."""
    if (script.parent / "run.lua").exists():  # of dpnn: its generators are functions
        command, manifest = ["run.lua", *(more or ["head"]), str(out), script.stem], out.glob("*/manifest.*.json")
    else:
        command, manifest = [script.name, *more], (out.parent / "parts").glob("*.jsonl")
    done = subprocess.run([torch7, *command], cwd=script.parent, env={**os.environ, "FX_OUT": str(out)}, check=False)
    if done.returncode:
        return [], [f"{' '.join(command)}: exit code {done.returncode}"]
    entries, failures = [], [p.read_text() for p in (out.parent / "parts").glob("*.failures") if p.stat().st_size]
    for path in manifest:
        if path.suffix == ".jsonl":
            entries += map(json.loads, path.read_text().splitlines())
            continue
        content = json.loads(path.read_text())
        shared = {"provenance": content["provenance"]}
        entries += [{**e, **shared, "file": os.path.relpath(e["file"], out)} for e in content["fixtures"]]
        failures += [f"{e['name']}: {e['error']}" for e in content["failed"]]
    return entries, failures


def _add(entries: list[dict[str, Any]], written: Path, group: str, fixtures: Path) -> list[str]:
    """Copy the fixtures that are new, and list them in the manifest."""
    manifest = fixtures / "manifest.json"
    content = json.loads(manifest.read_text())
    known, added = {e["file"] for e in content["fixtures"]}, []
    for entry in entries:
        source, target = written / entry["file"], f"{group}/{entry['file']}"
        if target in known:
            continue
        (fixtures / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, fixtures / target)
        sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
        fields = {name: entry[name] for name in FIELDS if name in entry}
        content["fixtures"].append({**fields, "file": target, "set": group, "sha256": sha256})
        added.append(target)
    manifest.write_text(json.dumps(content, indent=0, sort_keys=True))
    return added


if __name__ == "__main__":
    sys.exit(main())
