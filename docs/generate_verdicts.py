"""Writes the table of verdicts in docs/parity.md: every fixture and sample with what Torch7 computed for it.

It runs all of them, which takes minutes; ``--check`` only compares. ``DPNN_FIXTURES`` and ``DPNN_SAMPLES`` name larger
sets of the same form.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import torch

from dpnn_bridge.compare.verdict import Verdict
from dpnn_bridge.parity.known_differences import read_known_differences
from dpnn_bridge.parity.verification import Verification, summary
from dpnn_bridge.parity.verify import verify

HERE = Path(__file__).parent
TARGET = HERE / "parity.md"
START, END = "<!-- verdicts -->\n", "<!-- /verdicts -->"
FIXTURES = Path(os.environ.get("DPNN_FIXTURES") or HERE.parent / "fixtures")
SAMPLES = Path(os.environ.get("DPNN_SAMPLES") or HERE.parent / "fixtures" / "samples")
#: samples that are no single model in one file, or were run with other settings than the file holds; tests run them
APART = {
    "OpenNMT__rnn_LSTM_general",
    "VQA_LSTM_CNN__weights_only",
    "mc-cnn__slow_net_te",
    "rnn__noise-contrastive-estimate_SeqLSTM",
}


def results() -> dict[str, list[Verification]]:
    """Return the verifications of each set."""
    known = read_known_differences(HERE.parent / "fixtures" / "known_differences.json")
    found: dict[str, list[Verification]] = {}
    for entry in json.loads((FIXTURES / "manifest.json").read_text(encoding="utf-8"))["fixtures"]:
        if entry["kind"] in ("module", "criterion"):
            found.setdefault(f"fixtures of {entry['set']}", []).append(verify(FIXTURES / entry["file"], known=known))
    return found | {"published architectures": published()}


def published() -> list[Verification]:
    """Return the verifications of the samples."""
    found = []
    for case in json.loads((SAMPLES / "manifest.json").read_text(encoding="utf-8"))["cases"]:
        folder = SAMPLES / case["name"]
        references = [path for path in (folder / "ref.t7", folder / "ref_train.t7") if path.exists()]
        for path in references if case["name"] not in APART else ():
            found.append(verify(folder / "model.t7", reference=path))
    return found


def rows(name: str, verifications: Collection[Verification]) -> str:
    """One row for forward and one for gradients."""
    lines = []
    for part in ("forward", "gradients"):
        counts = Counter(getattr(v, part) for v in verifications)
        cells = " | ".join(str(counts[v] or "") for v in Verdict)
        lines.append(f"| {name if part == 'forward' else ''} | {part} | {cells} |\n")
    return "".join(lines)


def table(found: dict[str, list[Verification]]) -> str:
    """Return the rows of all sets under their heading."""
    head = "| | | " + " | ".join(v.text for v in Verdict) + " |\n|---|---|" + "---|" * len(Verdict) + "\n"
    return head + "".join(rows(*each) for each in found.items())


def main() -> int:
    torch.set_num_threads(1)
    found = results()
    for verification in (v for group in found.values() for v in group if not v.ok):
        print(f"{verification.model}, {verification.reference}: {summary(verification)}", file=sys.stderr)
    before, _, rest = TARGET.read_text(encoding="utf-8").partition(START)
    text = before + START + table(found) + END + rest.partition(END)[2]
    if "--check" in sys.argv:
        return int(TARGET.read_text(encoding="utf-8") != text)
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
