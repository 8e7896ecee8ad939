"""Writes the table and the plot of recurrent modules in docs/benchmarks.md, from the output of bench_rnn.py.

python benchmarks/bench_rnn.py --threads 1 2 > rnn.txt
python docs/generate_recurrent.py rnn.txt 2026-11-28
"""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).parent
BEGIN, END = "<!-- recurrent: written by docs/generate_recurrent.py -->", "<!-- end of recurrent -->"
NAMES = {
    "FastLSTM": "Sequencer(FastLSTM)",
    "GRU": "Sequencer(GRU)",
    "LSTM, peepholes": "Sequencer(LSTM), peepholes",
    "char-rnn": "`run_sequence`, char-rnn of 2 layers",
    "NCE": "language model, NCE",
    "SoftMaxTree": "language model, SoftMaxTree",
    "attention": "recurrent attention of rnn's examples",
}
#: stock PyTorch computes another function, which is a bound
BOUND = {"GRU", "LSTM, peepholes", "SeqGRU"}
#: without one call for each time step
WHOLE = {"SeqLSTM", "SeqLSTMP", "SeqGRU"}


class Row(NamedTuple):
    """A row of bench_rnn.py: milliseconds and ratios, not a number where something was not measured."""

    name: str
    sizes: str
    threads: str
    stock: float
    ours: float
    steps: float
    torch7: float
    by_stock: float
    by_torch7: float
    kept: float


def rows(text: str) -> list[Row]:
    """Return the rows in the output of bench_rnn.py."""
    line = re.compile(r"^(\S.*?)\s{2,}((?:\d+, ){3}\d+)\s+(\d+)" + r"\s+([\d.]+|nan)" * 7 + r"\s*$", re.MULTILINE)
    return [Row(*found[:3], *map(float, found[3:])) for found in line.findall(text)]


def table(measured: list[Row]) -> str:
    """Return the table; a ratio beyond its target is bold."""
    lines = [
        "| Module | T, N, I, H | threads | stock | ours | steps | Torch7 | / stock | / Torch7 | kept |",
        "|---" * 10 + "|",
    ]
    for row in measured:
        steps = math.nan if row.name in WHOLE else row.steps
        times = ["" if math.isnan(v) else f"{v:.1f}" for v in (row.stock, row.ours, steps, row.torch7)]
        targets = ((row.by_stock, 1.5 if row.name in BOUND else 1.1), (row.by_torch7, 0.6), (row.kept, 1.1))
        ratios = ["" if math.isnan(v) else f"**{v:.2f}**" if v > limit else f"{v:.2f}" for v, limit in targets]
        lines.append(f"| {' | '.join([NAMES.get(row.name, row.name), row.sizes, row.threads, *times, *ratios])} |")
    return "\n".join(lines)


def plot(measured: list[Row]) -> str:
    """Return an SVG with the times of the rows of one thread, relative to stock PyTorch and to Torch7."""
    measured = [row for row in measured if row.threads == "1"]
    scale, left, height = 160, 330, 34 * len(measured)
    parts = []
    for k, row in enumerate(measured):
        label = f"{NAMES.get(row.name, row.name).replace('`', '')}: {row.sizes}"
        parts.append(f'<text x="{left - 8}" y="{34 * k + 20}" text-anchor="end">{label}</text>')
        for y, ratio, color in ((3, row.by_stock, "#4269d0"), (17, row.by_torch7, "#efb118")):
            if not math.isnan(ratio):
                top, width = 34 * k + y, ratio * scale
                parts.append(f'<rect x="{left}" y="{top}" width="{width:.0f}" height="12" fill="{color}"/>')
                parts.append(f'<text x="{left + width + 4:.0f}" y="{top + 10}">{ratio:.2f}</text>')
    legend = f'<text x="{left}" y="{height + 18}">time / stock PyTorch (blue), / Torch7 (yellow); line: 1</text>'
    line = f'<path d="M{left + scale} 0V{height}" stroke="#888"/>'
    body = "\n".join(['<rect width="100%" height="100%" fill="#fff"/>', *parts, line, legend])
    size = f'viewBox="0 0 {left + 3 * scale} {height + 26}" font-family="sans-serif" font-size="11"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n{body}\n</svg>\n'


if __name__ == "__main__":
    measured, page = rows(Path(sys.argv[1]).read_text(encoding="utf-8")), DOCS / "benchmarks.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    picture = "![Times of one thread, relative to stock PyTorch and to Torch7](images/recurrent.svg)"
    section = f"{BEGIN}\n\nMeasured on {sys.argv[2]}.\n\n{picture}\n\n{table(measured)}\n\n"
    page.write_text(before + section + END + rest.partition(END)[2], encoding="utf-8")
    (DOCS / "images" / "recurrent.svg").write_text(plot(measured), encoding="utf-8")
