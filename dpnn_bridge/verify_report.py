"""A verification as one HTML page that needs nothing else: tree, error plot, histogram, classes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape

from dpnn_bridge.cli_verify import headline, summary
from dpnn_bridge.differences import Difference
from dpnn_bridge.verification import Layer, Verification

#: relative differences below this are drawn on the axis
SMALLEST = 1e-17


def page(result: Verification) -> str:
    """The whole page."""
    verdict = "pass" if result.ok else "fail"
    notes = "".join(f"<p class=note>{escape(note)}</p>" for note in result.notes)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(result.model)}: {"all comparisons agree" if result.ok else "deviations found"}</title>
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>{escape(result.model)}</h1>
<p>{escape(headline(result))}</p>
<p class="verdict {verdict}">{escape(summary(result))}</p>
{notes}
</header>
<main>
<section><h2>Largest difference of each layer</h2>{_plot(result)}</section>
<section><h2>Layers</h2>{_tree(result)}{_without_layer(result)}</section>
<section><h2>Elements by relative difference</h2>{_histogram(result)}</section>
<section><h2>Classes used</h2>{_classes(result)}</section>
</main>
</body>
</html>
"""


# ---------------------------------------------------------------------- plot
def _plot(result: Verification) -> str:
    """Relative difference over the layers in the order in which they ran, logarithmic."""
    ran = sorted((layer for layer in result.layers if layer.differences), key=lambda layer: layer.order)
    if not ran:
        return "<p>No layer was compared with reference values.</p>"
    width, height, left, bottom, top = 960, 300, 70, 34, 12
    low, high = -17.0, 1.0

    def y(error: float) -> float:
        exponent = min(max(math.log10(max(error, SMALLEST)), low), high)
        return top + (high - exponent) / (high - low) * (height - top - bottom)

    step = (width - left - 16) / len(ran)
    grid = "".join(
        f"<line class=grid x1={left} x2={width} y1={y(10.0**e):.1f} y2={y(10.0**e):.1f} />"
        f"<text class=tick x={left - 8} y={y(10.0**e) + 4:.1f} "
        f"text-anchor=end>{'equal' if e == low else f'1e{e:.0f}'}</text>"
        for e in (-17.0, -14.0, -11.0, -8.0, -5.0, -2.0, 1.0)
    )
    marks = []
    for i, layer in enumerate(ran):
        x = left + (i + 0.5) * step
        for d in layer.differences:
            shape = f"cx={x:.1f} cy={y(d.error):.1f} r={min(4.5, max(2.0, step / 3)):.1f}"
            kind = "bad" if not d.ok else "grad" if "grad" in d.name else "good"
            marks.append(f"<circle class={kind} {shape}><title>{escape(_title(layer, d))}</title></circle>")
    tolerances = {d.tolerance for layer in ran for d in layer.differences if d.tolerance}
    limit = "".join(f"M{left} {y(tolerance):.1f}H{width}" for tolerance in sorted(tolerances))
    every = max(1, len(ran) // 24)
    names = "".join(
        f"<text class=tick x={left + (i + 0.5) * step:.1f} y={height - 12} text-anchor=middle>{i + 1}</text>"
        for i in range(0, len(ran), every)
    )
    return (
        f'<div class=scroll><svg viewBox="0 0 {width} {height}" role=img aria-label="Relative difference by layer">'
        f'{grid}<path class=limit d="{limit}" />{"".join(marks)}{names}</svg></div>'
        "<p class=legend><span class=good>●</span> output <span class=grad>●</span> gradients "
        "<span class=bad>●</span> too large <span class=limit>┄</span> allowed; "
        "layers in the order in which they ran</p>"
    )


def _title(layer: Layer, d: Difference) -> str:
    return f"{layer.path or 'model'} ({layer.class_name}) {d.name}: {_number(d.error)}, allowed {_number(d.tolerance)}"


# ---------------------------------------------------------------------- tree
def _tree(result: Verification) -> str:
    head = (
        "<div class='row head'><span></span><span>layer</span><span>PyTorch</span><span>parameters</span>"
        "<span>compared</span><span>max abs</span><span>relative</span><span>worst element</span></div>"
    )
    return f"<div class=scroll><div class=tree>{head}{''.join(_rows(result.layers))}</div></div>"


def _rows(layers: list[Layer]) -> Iterator[str]:
    """Nested ``<details>``, open where something fails or near the top."""
    open_depths: list[int] = []
    for i, layer in enumerate(layers):
        while open_depths and open_depths[-1] >= layer.depth:
            open_depths.pop()
            yield "</details>"
        has_children = i + 1 < len(layers) and layers[i + 1].depth > layer.depth
        if not has_children:
            yield _row(layer, "div")
            continue
        inside = [below for below in _below(layers, i) if not below.ok]
        yield f"<details{' open' if layer.depth < 2 or inside else ''}>{_row(layer, 'summary')}"
        open_depths.append(layer.depth)
    yield "</details>" * len(open_depths)


def _below(layers: list[Layer], i: int) -> Iterator[Layer]:
    for layer in layers[i + 1 :]:
        if layer.depth <= layers[i].depth:
            return
        yield layer


def _row(layer: Layer, tag: str) -> str:
    d, count = layer.worst, len(layer.differences) + len(layer.converted)
    name = layer.path.rpartition(".")[2] or "model"
    kind, mark = ("none", "·") if d is None else ("good", "✓") if layer.ok else ("bad", "✗")
    compared = layer.note if d is None else d.name.rpartition(".")[2] + (f" (worst of {count})" if count > 1 else "")
    cells = [
        f"<span class=mark>{mark}</span>",
        f"<span class=name style='--depth:{layer.depth}'><b>{escape(name)}</b> {escape(layer.class_name)}</span>",
        f"<span>{escape(layer.torch_type)}</span>",
        f"<span class=n>{f'{layer.parameters:,}' if layer.parameters else ''}</span>",
        f"<span>{escape(compared)}</span>",
        _numbers(d),
    ]
    return f"<{tag} class='row {kind}'>{''.join(cells)}</{tag}>"


def _numbers(d: Difference | None) -> str:
    if d is None:
        return "<span></span><span></span><span></span>"
    if d.mismatched:
        return f"<span></span><span></span><span>{escape(d.message)}</span>"
    place = "" if d.index is None else f"{list(d.index)}: {d.found:.7g} for {d.expected:.7g}"
    return f"<span class=n>{_number(d.absolute)}</span><span class=n>{_number(d.error)}</span><span>{place}</span>"


def _number(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}"


def _without_layer(result: Verification) -> str:
    rest = result.without_layer
    if not rest:
        return ""
    failed = [d for d in rest if not d.ok]
    rows = "".join(f"<li class=bad>{escape(d.name)}: {escape(d.message)}</li>" for d in failed)
    names = ", ".join(dict.fromkeys(d.name.partition("[")[0].partition(".")[0] for d in rest))
    return f"<p>{len(rest)} comparisons of the whole model ({escape(names)}), {len(failed)} failed.</p><ul>{rows}</ul>"


# ---------------------------------------------------------------------- histogram and classes
def _histogram(result: Verification) -> str:
    if not result.histogram:
        return "<p>Nothing was compared with reference values.</p>"
    exponents = [e for e in result.histogram if e != -99]
    between = range(min(exponents, default=0), max(exponents, default=-1) + 1)
    keys = [*([-99] if -99 in result.histogram else []), *between]
    width, height, bottom, top, left = 960, 220, 34, 20, 8
    step, total = (width - left) / len(keys), sum(result.histogram.values())
    largest = max(result.histogram.values())
    bars = []
    for i, key in enumerate(keys):
        count = result.histogram.get(key, 0)
        size = (height - top - bottom) * count / largest
        x, y = left + i * step, height - bottom - size
        label = "equal" if key == -99 else f"1e{key}"
        share = f"{100 * count / total:.3g} %" if count else ""
        bars.append(
            f"<rect class=bar x={x + step * 0.1:.1f} y={y:.1f} width={step * 0.8:.1f} "
            f"height={max(size, count > 0):.1f}>"
            f"<title>{count:,} elements</title></rect>"
            f"<text class=tick x={x + step / 2:.1f} y={y - 5:.1f} text-anchor=middle>{share}</text>"
            f"<text class=tick x={x + step / 2:.1f} y={height - 14} text-anchor=middle>{label}</text>"
        )
    return (
        f'<div class=scroll><svg viewBox="0 0 {width} {height}" role=img aria-label="Histogram of differences">'
        f"{''.join(bars)}</svg></div>"
        f"<p class=legend>{total:,} elements of outputs and gradients; 1e-9 means from 1e-9 to 1e-8 of the largest "
        "value of its tensor</p>"
    )


def _classes(result: Verification) -> str:
    rows = "".join(
        f"<tr><td>{escape(c['class_name'])}</td><td>{escape(c['torch_type'])}</td><td class=n>{c['count']}</td>"
        f"<td>{escape('values of Torch7' if c['checked_by'] == 'torch7' else c['checked_by'])}</td></tr>"
        for c in result.classes()
    )
    head = "<tr><th>Lua class</th><th>PyTorch module</th><th>modules</th><th>this project checks it by</th></tr>"
    return f"<div class=scroll><table>{head}{rows}</table></div>"


_STYLE = """
:root { --bg: #fff; --fg: #1c2330; --dim: #626c7c; --line: #dfe3ea; --soft: #f5f7fa;
        --good: #0b7a4b; --bad: #c0271d; --grad: #3a63c8; --bar: #7c93c9 }
@media (prefers-color-scheme: dark) {
  :root { --bg: #12161d; --fg: #e4e8ef; --dim: #98a2b3; --line: #2b323e; --soft: #1a2029;
          --good: #4cc38a; --bad: #ff7b6e; --grad: #86a8ff; --bar: #4f689f } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 1440px; padding: 1.5rem clamp(.75rem, 3vw, 2rem) 3rem; background: var(--bg);
       color: var(--fg); font: 15px/1.5 system-ui, sans-serif }
h1 { margin: 0; font-size: 1.5rem; overflow-wrap: anywhere } h2 { margin: 2.2rem 0 .6rem; font-size: 1.1rem }
header p { margin: .4rem 0; color: var(--dim); overflow-wrap: anywhere }
.verdict { padding: .6rem .9rem; border-left: 4px solid; background: var(--soft); font-weight: 600 }
.verdict.pass { color: var(--good) } .verdict.fail { color: var(--bad) }
.scroll { overflow-x: auto } svg { display: block; width: 100%; min-width: 560px; height: auto }
.grid { stroke: var(--line) } .tick { fill: var(--dim); font: 12px system-ui, sans-serif } .bar { fill: var(--bar) }
circle.good { fill: var(--good) } circle.grad { fill: var(--grad) } circle.bad { fill: var(--bad) }
path.limit { stroke: var(--dim); stroke-dasharray: 4 4; fill: none }
.legend { margin: .3rem 0; color: var(--dim); font-size: .87rem } .legend .good { color: var(--good) }
.legend .grad { color: var(--grad) } .legend .bad, li.bad { color: var(--bad) }
.tree { min-width: 980px; font-size: .87rem; border-top: 1px solid var(--line) }
.row { display: grid; gap: .6rem;
       grid-template-columns: 1.2rem minmax(16rem, 3fr) minmax(12rem, 2fr) 5.6rem minmax(9rem, 2fr) 4.4rem 4.4rem
                              minmax(13rem, 3fr);
       padding: .2rem .3rem; border-bottom: 1px solid var(--line); align-items: baseline }
.row > span { overflow-wrap: anywhere } .row.head { color: var(--dim); background: var(--soft) }
.row.none { color: var(--dim) } .row.bad { color: var(--bad) } .good > .mark { color: var(--good) }
.name { padding-left: calc(var(--depth) * .9rem) } .name b { font-weight: 600 }
summary.row { cursor: pointer; list-style: none } summary.row::-webkit-details-marker { display: none }
summary .name b::before { content: "▸ "; color: var(--dim) } details[open] > summary .name b::before { content: "▾ " }
.n { text-align: right; font-variant-numeric: tabular-nums }
table { border-collapse: collapse; min-width: 560px; font-size: .87rem }
th { text-align: left; color: var(--dim); font-weight: 400 }
td, th { padding: .25rem 1.2rem .25rem .3rem; border-bottom: 1px solid var(--line) }
@media (max-width: 760px) {
  .tree { min-width: 0 } .row { grid-template-columns: 1.2rem 1fr 4.4rem; gap: .1rem .4rem }
  .row > :nth-child(3), .row > :nth-child(4), .row > :nth-child(6) { display: none }
  .row > :nth-child(5) { grid-column: 2; grid-row: 2; color: var(--dim) }
  .row > :nth-child(7) { grid-column: 3; grid-row: 1 } .row > :nth-child(8) { grid-column: 2 / 4; color: var(--dim) }
  .row > :empty, .row.head { display: none } }
"""
