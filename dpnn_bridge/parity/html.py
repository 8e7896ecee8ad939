"""A verification as one HTML page that needs nothing else: verdict, error plot, layers, histogram, classes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

from dpnn_bridge.base.display import in_html
from dpnn_bridge.compare.differences import Difference
from dpnn_bridge.compare.verdict import Verdict
from dpnn_bridge.parity.verification import Layer, Verification, headline, reasons, verdicts

#: relative differences below this are drawn on the axis
SMALLEST = 1e-17
#: key of the elements that are equal in the histogram
EQUAL = -99


def page(result: Verification, graph: str = "", facts: Sequence[tuple[str, str]] = ()) -> str:
    """The whole page.

    Args:
        result: the verification.
        graph: HTML of a picture of the model.
        facts: further pairs of a name and a value for its head.
    """
    numbers = {id(layer): i for i, layer in enumerate(_ran(result), 1)}
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{in_html(result.model)}: {"all comparisons agree" if result.ok else "deviations found"}</title>
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>{in_html(result.model)}</h1>
<p>{in_html(headline(result))}</p>
{_verdict(result, numbers)}
{_facts(result, facts)}
{_notes(result)}
</header>
<main>
{f"<section><h2>Graph</h2>{graph}</section>" if graph else ""}
<section><h2>Differences of each layer</h2>{_plot(result)}</section>
<section><h2>Layers</h2>{_tree(result, numbers)}{_without_layer(result)}</section>
<section><h2>Elements by relative difference</h2>{_histogram(result)}</section>
<section><h2>Classes used</h2>{_classes(result)}</section>
</main>
</body>
</html>
"""


def _ran(result: Verification) -> list[Layer]:
    """The layers that were compared with a reference, in the order in which they ran."""
    return sorted((layer for layer in result.layers if layer.differences), key=lambda layer: layer.order)


# ---------------------------------------------------------------------- head
def _verdict(result: Verification, numbers: dict[int, int]) -> str:
    """Pass or fail, and for a failure where to look first."""
    if result.ok:
        if not result.differences:
            return "<p class='verdict'>Not compared, for want of a reference: see how each class was checked</p>"
        excused = sum(d.excuse is not None for d in result.differences)
        text = "All comparisons agree" if not excused else f"All comparisons agree but {excused} that are excused"
        return f"<p class='verdict pass'>✓ {text}: {in_html(verdicts(result))}</p>"
    failed = [d for d in result.differences if not d.ok]
    text = f"✗ {len(failed)} of {len(result.differences)} comparisons fail: {in_html(verdicts(result))}"
    first = result.first_deviating
    name, found = failed[0].name, failed[0]
    if first is not None:
        found = first.failure or found
        place = f"<b>{in_html(first.path or 'the model')}</b>"
        if number := numbers.get(id(first)):
            place = f"<a href=#layer-{number}>{place}</a>"
        name = f"First layer that deviates: {place} ({in_html(first.class_name)}), {in_html(_field(first, found))}"
    return f"<div class='verdict fail'><p>{text}</p><p class=detail>{name}: {_sentence(found)}</p></div>"


def _sentence(d: Difference) -> str:
    if d.index is None:
        return in_html(d.message)
    return (
        f"{d.found:.7g} in place of {d.expected:.7g} at {list(d.index)}, relative difference {_number(d.error)}, "
        f"allowed {_number(d.tolerance)}"
    )


def _facts(result: Verification, more: Sequence[tuple[str, str]]) -> str:
    """The numbers that one looks for first."""
    compared = sum(bool(layer.differences or layer.converted) for layer in result.layers)
    worst = max((d.error for d in result.differences if d.excuse is None), default=0.0)
    facts = {
        "comparisons": f"{len(result.differences):,}",
        "largest relative difference": "other shapes" if math.isinf(worst) else _number(worst) if worst else "none",
        "layers compared": f"{compared} of {len(result.layers)}",
        "elements compared": f"{sum(result.histogram.values()):,}",
    }
    facts |= {in_html(name): in_html(value) for name, value in more}
    return "<dl>" + "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts.items()) + "</dl>"


def _notes(result: Verification) -> str:
    notes = [
        f"<b>{in_html(verdict.text.capitalize())}</b> in {in_html(', '.join(names))}: {in_html(reason)}"
        for (verdict, reason), names in reasons(result).items()
    ]
    return "".join(f"<p class=note>{note}</p>" for note in [*notes, *map(in_html, result.notes)])


# ---------------------------------------------------------------------- plot
def _plot(result: Verification) -> str:
    """Relative difference over the layers in the order in which they ran, logarithmic."""
    ran = _ran(result)
    if len(ran) < 2:
        return f"<p>{'Only the whole model' if ran else 'Nothing'} was compared with reference values.</p>"
    width, height, left, right, bottom, top = 960, 300, 48, 108, 40, 12
    low, high = -17.0, 1.0

    def y(error: float) -> float:
        exponent = min(max(math.log10(max(error, SMALLEST)), low), high)
        return top + (high - exponent) / (high - low) * (height - top - bottom)

    step = (width - left - right) / len(ran)
    grid = "".join(
        f"<line class=grid x1={left} x2={width - right} y1={y(10.0**e):.1f} y2={y(10.0**e):.1f} />"
        f"<text x={left - 8} y={y(10.0**e) + 4:.1f} text-anchor=end>{'equal' if e == low else _power(e)}</text>"
        for e in (-17, -14, -11, -8, -5, -2, 1)
    )
    marks = []
    for i, layer in enumerate(ran, 1):
        x = left + (i - 0.5) * step
        dots = "".join(_dot(layer, d, x, y(d.error), min(4.5, max(2.0, step / 3))) for d in layer.differences)
        marks.append(f"<a href=#layer-{i}>{dots}</a>")
    limits: dict[float, str] = {}
    for d in (d for layer in ran for d in layer.differences if d.tolerance):
        limits.setdefault(d.tolerance, "gradients" if "grad" in d.name else "outputs")
    limit = "".join(
        f'<path class=limit d="M{left} {y(t):.1f}H{width - right}" />'
        f"<text x={width - right + 6} y={y(t) + 4:.1f}>{'allowed' if len(limits) == 1 else what} "
        f"{_power(math.log10(t))}</text>"
        for t, what in limits.items()
    )
    every = max(1, -(-len(ran) // 24))
    names = "".join(
        f"<text x={left + (i + 0.5) * step:.1f} y={height - 22} text-anchor=middle>{i + 1}</text>"
        for i in range(0, len(ran), every)
    )
    return (
        f'<div class=scroll><svg viewBox="0 0 {width} {height}" role=img aria-label="Relative difference by layer">'
        f"{grid}{limit}{''.join(marks)}{names}"
        f"<text x={(left + width - right) / 2:.0f} y={height - 4} text-anchor=middle>"
        "layer, in the order in which they ran</text></svg></div>"
        f"<p class=legend>{_legend(result.differences)}</p>"
    )


def _legend(differences: list[Difference]) -> str:
    items = {"good": "● output and state", "grad": "◆ gradient"}
    if any(not d.ok for d in differences):
        items["bad"] = "● too large"
    if any(d.excuse is not None for d in differences):
        items["known"] = "● excused"
    return "".join(f"<span class={kind}>{text[0]}</span>{text[1:]}" for kind, text in items.items())


def _dot(layer: Layer, d: Difference, x: float, y: float, r: float) -> str:
    gradient = "grad" in d.name
    kind = "known" if d.excuse is not None else "bad" if not d.ok else "grad" if gradient else "good"
    place = f"{layer.path or 'model'} ({layer.class_name}) {_field(layer, d)}"
    title = f"<title>{in_html(place)}: {_number(d.error)}, allowed {_number(d.tolerance)}</title>"
    if gradient:
        shape = (
            f'd="M{x:.1f} {y - r - 1:.1f}l{r + 1:.1f} {r + 1:.1f}l{-r - 1:.1f} {r + 1:.1f}l{-r - 1:.1f} {-r - 1:.1f}z"'
        )
        return f"<path class={kind} {shape}>{title}</path>"
    return f"<circle class={kind} cx={x:.1f} cy={y:.1f} r={r:.1f}>{title}</circle>"


# ---------------------------------------------------------------------- tree
def _tree(result: Verification, numbers: dict[int, int]) -> str:
    head = (
        "<div class='row head'><span></span><span class=n>#</span><span>layer</span><span>PyTorch</span>"
        "<span class=n>parameters</span><span>worst comparison</span><span class=n>absolute</span>"
        "<span class=n>relative</span><span>found, expected</span></div>"
    )
    return f"<div class=scroll><div class=tree>{head}{''.join(_rows(result, numbers))}</div></div>"


def _rows(result: Verification, numbers: dict[int, int]) -> Iterator[str]:
    """Nested ``<details>``, open where something fails or near the top."""
    layers, first = result.layers, result.first_deviating
    open_depths: list[int] = []
    for i, layer in enumerate(layers):
        while open_depths and open_depths[-1] >= layer.depth:
            open_depths.pop()
            yield "</details>"
        row = _row(layer, numbers.get(id(layer), 0), layer is first)
        if i + 1 == len(layers) or layers[i + 1].depth <= layer.depth:
            yield f"<div {row}</div>"
            continue
        inside = any(d.error > d.tolerance for below in _below(layers, i) for d in below.differences + below.converted)
        yield f"<details{' open' if layer.depth < 2 or inside else ''}><summary {row}</summary>"
        open_depths.append(layer.depth)
    yield "</details>" * len(open_depths)


def _below(layers: list[Layer], i: int) -> Iterator[Layer]:
    for layer in layers[i + 1 :]:
        if layer.depth <= layers[i].depth:
            return
        yield layer


def _row(layer: Layer, number: int, is_first: bool) -> str:
    """Attributes and cells of a row, without the tag around them."""
    d, count = layer.worst, len(layer.differences) + len(layer.converted)
    kind, mark = ("none", "·") if d is None else ("good", "✓") if layer.ok else ("bad", "✗")
    if d is not None and d.verdict not in (Verdict.EQUAL, Verdict.DIFFERENT):
        kind, mark = "known", "≠"
    name = layer.path.rpartition(".")[2] or "model"
    compared = layer.note if d is None else f"{_field(layer, d)}{f', of {count}' if count > 1 else ''}"
    cells = [
        f"<span class=mark>{mark}</span>",
        f"<span class='n dim'>{number or ''}</span>",
        f"<span class=name style='--depth:{layer.depth}'><b>{in_html(name)}</b> {_name(layer.class_name)}</span>",
        f"<span>{_name(layer.torch_type.removeprefix('torch.'))}</span>",
        f"<span class=n>{f'{layer.parameters:,}' if layer.parameters else ''}</span>",
        f"<span>{in_html(compared)}</span>",
        _numbers(d),
    ]
    anchor = f" id=layer-{number}" if number else ""
    return f"class='row {kind}{' first' if is_first else ''}'{anchor}>{''.join(cells)}"


def _name(text: str) -> str:
    """A class name that breaks between its words when it must."""
    return re.sub(r"(?<=[a-z.])(?=[A-Z])", "<wbr>", in_html(text))


def _field(layer: Layer, d: Difference) -> str:
    return d.name.removeprefix(f"{layer.path}.") if layer.path else d.name


def _numbers(d: Difference | None) -> str:
    if d is None:
        return "<span></span><span></span><span></span>"
    if d.mismatched:
        return f"<span></span><span class='n value'>≠</span><span>{in_html(d.message)}</span>"
    index = "" if d.index is None else ",".join(map(str, d.index))
    place = "" if d.index is None else f"{d.found:.6g}, {d.expected:.6g} <i>at [{index}]</i>"
    absolute, relative = _number(d.absolute), _number(d.error)
    return f"<span class=n>{absolute}</span><span class='n value'>{relative}</span><span>{place}</span>"


def _number(value: float) -> str:
    """``0.00049`` as ``4.9e-4``."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "∞"
    digits, _, exponent = f"{value:.1e}".partition("e")
    return f"{digits.removesuffix('.0')}e{int(exponent)}"


def _power(exponent: float) -> str:
    """``-5`` as ``10⁻⁵``."""
    digits = str(round(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{digits}"


def _without_layer(result: Verification) -> str:
    rest = result.without_layer
    if not rest:
        return ""
    failed = [d for d in rest if not d.ok]
    rows = "".join(f"<li><b>{in_html(d.name)}</b>: {in_html(d.message)}</li>" for d in failed)
    names = ", ".join(dict.fromkeys(d.name.partition("[")[0].partition(".")[0] for d in rest))
    counted = f"{len(rest)} comparisons of the whole model ({in_html(names)}), {len(failed)} failed."
    return f"<p class=legend>{counted}</p>" + (f"<ul>{rows}</ul>" if rows else "")


# ---------------------------------------------------------------------- histogram and classes
def _histogram(result: Verification) -> str:
    """One bar for each decade, from the smallest difference to the largest."""
    if not result.histogram:
        return "<p>Nothing was compared with reference values.</p>"
    exponents = [e for e in result.histogram if e != EQUAL]
    between = range(min(exponents, default=0), max(exponents, default=-1) + 1)
    total, largest = sum(result.histogram.values()), max(result.histogram.values())
    rows = []
    for key in [*([EQUAL] if EQUAL in result.histogram else []), *between]:
        count = result.histogram.get(key, 0)
        label = "equal" if key == EQUAL else f"{_power(key)} – {_power(key + 1)}"
        bar = f"<span class=bar style='width:{100 * count / largest:.2f}%'></span>" if count else ""
        share = f"{100 * count / total:.3g} %" if count else "–"
        rows.append(f"<span class=n>{label}</span><span>{bar}</span><span class=n title='{count:,}'>{share}</span>")
    return (
        f"<div class=histogram>{''.join(rows)}</div><p class=legend>{total:,} elements of outputs and gradients; "
        "differences relative to the largest value of the tensor</p>"
    )


def _classes(result: Verification) -> str:
    rows = "".join(
        f"<tr><td>{_name(c['class_name'])}</td><td>{_name(c['torch_type'])}</td><td class=n>{c['count']}</td>"
        f"<td>{in_html(c['evidence'])}</td></tr>"
        for c in result.classes()
    )
    head = "<tr><th>Lua class</th><th>PyTorch module</th><th class=n>count</th><th>checked by</th></tr>"
    return f"<table>{head}{rows}</table>"


_STYLE = """
:root { --bg: #fff; --fg: #1c2330; --dim: #5f6a7a; --line: #dfe3ea; --soft: #f5f7fa; --mark: #fff3f1;
        --good: #0b7a4b; --bad: #c0271d; --grad: #3a63c8; --known: #a16207; --bar: #7c93c9 }
@media screen and (prefers-color-scheme: dark) {
  :root { --bg: #12161d; --fg: #e4e8ef; --dim: #98a2b3; --line: #2b323e; --soft: #1a2029; --mark: #2c1a1b;
          --good: #4cc38a; --bad: #ff7b6e; --grad: #86a8ff; --known: #e0af4a; --bar: #4f689f } }
@media screen { :root { color-scheme: light dark } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 1360px; padding: 1.5rem clamp(.75rem, 3vw, 2rem) 3rem; background: var(--bg);
       color: var(--fg); font: 15px/1.5 system-ui, sans-serif; font-variant-numeric: tabular-nums }
h1 { margin: 0; font-size: 1.5rem; overflow-wrap: anywhere } h2 { margin: 2.2rem 0 .6rem; font-size: 1.1rem }
a { color: inherit } header p { margin: .4rem 0; overflow-wrap: anywhere } header > p { color: var(--dim) }
header .verdict { margin: .8rem 0; padding: .6rem .9rem; border-left: 4px solid; background: var(--soft) }
.verdict.pass { color: var(--good); font-weight: 600 } .verdict.fail { border-color: var(--bad) }
.verdict.fail p { margin: 0 } .verdict.fail > :first-child { color: var(--bad); font-weight: 600 }
dl { display: flex; flex-wrap: wrap; gap: .3rem 2.2rem; margin: .8rem 0 } dt { color: var(--dim); font-size: .87rem }
dd { margin: 0; font-size: 1.15rem; font-weight: 600; overflow-wrap: anywhere }
.note { border-left: 4px solid var(--known); padding-left: .9rem }
.scroll { overflow-x: auto } .scroll > svg { display: block; width: 100%; min-width: 640px; height: auto }
.scroll text { fill: var(--dim); font: 12px system-ui, sans-serif } .grid { stroke: var(--line) }
path.limit { stroke: var(--dim); stroke-dasharray: 4 4; fill: none }
svg .good { fill: var(--good) } svg .grad { fill: var(--grad) } svg .bad { fill: var(--bad) }
svg .known { fill: var(--known) }
.legend { margin: .3rem 0; color: var(--dim); font-size: .87rem } .legend span:not(:first-child) { margin-left: .8rem }
.legend .good { color: var(--good) } .legend .grad { color: var(--grad) } .legend .bad { color: var(--bad) }
.legend .known { color: var(--known) } .dim, i { color: var(--dim); font-style: normal } i { white-space: nowrap }
.tree { min-width: 1120px; font-size: .87rem; border-top: 1px solid var(--line) }
.row { display: grid; gap: .7rem; padding: .22rem .3rem; border-bottom: 1px solid var(--line); align-items: baseline;
       grid-template-columns: 1rem 1.6rem minmax(19rem, 3fr) minmax(10.5rem, 1.4fr) 5.1rem minmax(8.6rem, 1.5fr)
                              3.9rem 3.5rem minmax(15.5rem, 2.2fr) }
.row > span { overflow-wrap: anywhere } .row.head { color: var(--dim); background: var(--soft) }
.row.none { color: var(--dim) } .good > .mark { color: var(--good) }
.bad > .mark, .bad > .value { color: var(--bad); font-weight: 600 }
.known > .mark, .known > .value { color: var(--known) }
.row.first, .row:target { background: var(--mark) } .row.first { box-shadow: inset 3px 0 var(--bad) }
.row:target { outline: 2px solid var(--grad) }
.name { padding-left: calc(var(--depth) * .9rem) } .name b { font-weight: 600 }
summary.row { cursor: pointer; list-style: none } summary.row::-webkit-details-marker { display: none }
summary .name b::before { content: "▸ "; color: var(--dim) } details[open] > summary .name b::before { content: "▾ " }
.n { text-align: right }
.histogram { display: grid; grid-template-columns: max-content 1fr max-content; gap: .25rem .8rem; max-width: 760px;
             font-size: .87rem; align-items: center }
.histogram .n:nth-child(3n + 1) { color: var(--dim) }
.bar { display: block; height: .95rem; min-width: 1px; border-radius: 0 2px 2px 0; background: var(--bar) }
table { border-collapse: collapse; font-size: .87rem } td, th { padding: .25rem 1.4rem .25rem .3rem; text-align: left }
tr { border-bottom: 1px solid var(--line) } th { color: var(--dim); font-weight: 400 }
td { overflow-wrap: anywhere } td.n, th.n { text-align: right }
@media (max-width: 760px) {
  .tree { min-width: 0 } .row { grid-template-columns: 1rem 1fr max-content; gap: .05rem .5rem; padding: .35rem .2rem }
  .row > :nth-child(2), .row > :nth-child(4), .row > :nth-child(5), .row > :nth-child(7) { display: none }
  .row > :nth-child(3) { grid-column: 2 } .row > :nth-child(8) { grid-column: 3; grid-row: 1 }
  .row > :nth-child(6), .row > :nth-child(9) { grid-column: 2 / 4; color: var(--dim) }
  .row > :empty, .row.head { display: none } table { font-size: .8rem }
  td, th { padding-right: .6rem } .scroll > svg { min-width: 760px } }
@media print { .scroll { overflow: visible } .scroll > svg, .tree { min-width: 0 } .row, tr { break-inside: avoid } }
"""
