"""Write the result of a verification as an HTML page: verdict, error plot, layers, histogram, classes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from dpnn_bridge.base.display import in_html
from dpnn_bridge.base.pages import rendered, static
from dpnn_bridge.compare.differences import Difference
from dpnn_bridge.compare.verdict import MARKS, Verdict
from dpnn_bridge.parity.layers import EQUAL
from dpnn_bridge.parity.verification import Layer, Verification, headline, reasons, verdicts, what_differs

#: smallest relative difference in the plot; smaller ones are drawn on the axis
MIN_ERROR = 1e-17


def page(result: Verification, graph: str = "", facts: Sequence[tuple[str, str]] = ()) -> str:
    """Return the HTML page.

    Args:
        result: the verification.
        graph: HTML of a diagram of the model.
        facts: additional pairs of name and value for the head of the page.
    """
    ran = sorted((layer for layer in result.layers if layer.differences), key=lambda layer: layer.order)
    numbers = {id(layer): i for i, layer in enumerate(ran, 1)}
    failed = [d for d in result.differences if not d.ok]
    first = result.first_deviating
    found = (first.failure if first is not None else None) or (failed[0] if failed else None)
    rest = result.without_layer
    return rendered(
        "dpnn_bridge.parity",
        "verification.html.j2",
        result=result,
        style=static("dpnn_bridge.parity", "verification.css"),
        graph=Markup(graph),
        headline=headline(result),
        verdicts=verdicts(result),
        accepted=sum(d.accepted is not None for d in result.differences),
        failed=len(failed),
        first=first and _layer(first, numbers),
        failure=found and f"{what_differs(first, found) if first else found.name}: {_sentence(found)}",
        facts=[*_facts(result), *facts],
        reasons=[(v.text.capitalize(), ", ".join(names), why) for (v, why), names in reasons(result).items()],
        compared=bool(ran),
        plot=_plot(ran) if len(ran) > 1 else None,
        legend=list(_legend(result.differences)),
        rows=list(_rows(result, numbers)),
        rest=rest,
        rest_names=", ".join(dict.fromkeys(d.name.partition("[")[0].partition(".")[0] for d in rest)),
        bars=list(_bars(result.histogram)),
        elements=f"{sum(result.histogram.values()):,}",
        classes=[{**c, "lua": _name(c["class_name"]), "torch": _name(c["torch_type"])} for c in result.classes()],
    )


# ---------------------------------------------------------------------- head
def _layer(layer: Layer, numbers: dict[int, int]) -> dict[str, Any]:
    return {"number": numbers.get(id(layer), 0), "path": layer.path or "the model", "lua": layer.class_name}


def _sentence(d: Difference) -> str:
    if d.index is None:
        return d.message
    return (
        f"{d.found:.7g} instead of {d.expected:.7g} at {list(d.index)}, relative difference {_number(d.error)}, "
        f"allowed {_number(d.tolerance)}"
    )


def _facts(result: Verification) -> Iterator[tuple[str, str]]:
    """Yield the names and values of the summary."""
    left = [d for d in result.differences if d.accepted is None]
    worst = max((d.error for d in left), default=0.0)
    compared = sum(bool(layer.differences or layer.converted) for layer in result.layers)
    yield "comparisons", f"{len(result.differences):,}"
    largest = "other shapes" if any(d.mismatched for d in left) else _number(worst)
    yield "largest relative difference", largest if worst else "none"
    yield "layers compared", f"{compared} of {len(result.layers)}"
    yield "elements compared", f"{sum(result.histogram.values()):,}"


# ---------------------------------------------------------------------- plot
def _plot(ran: list[Layer]) -> dict[str, Any]:
    """Return the data of a logarithmic plot of the relative differences of the layers, in the order of the run."""
    width, height, left, right, bottom, top = 960, 300, 48, 852, 40, 12
    low, high = -17.0, 1.0

    def y(error: float) -> float:
        exponent = min(max(math.log10(max(error, MIN_ERROR)), low), high)
        return round(top + (high - exponent) / (high - low) * (height - top - bottom), 1)

    step = (right - left) / len(ran)
    radius = min(4.5, max(2.0, step / 3))
    limits: dict[float, str] = {}
    for d in (d for layer in ran for d in layer.differences if d.tolerance):
        limits.setdefault(d.tolerance, "gradients" if d.is_gradient else "outputs")
    return {
        **{"width": width, "height": height, "left": left, "right": right},
        "grid": [(y(10.0**e), "equal" if e == low else _power(e)) for e in (-17, -14, -11, -8, -5, -2, 1)],
        "limits": [
            (y(t), f"{'allowed' if len(limits) == 1 else what} {_power(math.log10(t))}") for t, what in limits.items()
        ],
        "layers": [
            [_dot(layer, d, left + (i + 0.5) * step, y(d.error), radius) for d in layer.differences]
            for i, layer in enumerate(ran)
        ],
        "numbers": [(round(left + (i + 0.5) * step, 1), i + 1) for i in range(0, len(ran), max(1, -(-len(ran) // 24)))],
    }


def _legend(differences: list[Difference]) -> Iterator[tuple[str, str, str]]:
    yield "good", "●", "output and state"
    yield "grad", "◆", "gradient"
    if any(not d.ok for d in differences):
        yield "bad", "●", "too large"
    if any(d.accepted is not None for d in differences):
        yield "known", "●", "accepted"


def _dot(layer: Layer, d: Difference, x: float, y: float, r: float) -> dict[str, Any]:
    gradient = d.is_gradient
    name = f"{layer.path or 'model'} ({layer.class_name}) {what_differs(layer, d)}"
    return {
        "gradient": gradient,
        "kind": "known" if d.accepted is not None else "bad" if not d.ok else "grad" if gradient else "good",
        **{"x": round(x, 1), "y": y, "r": round(r, 1)},
        "title": f"{name}: {_number(d.error)}, allowed {_number(d.tolerance)}",
    }


# ---------------------------------------------------------------------- tree
def _rows(result: Verification, numbers: dict[int, int]) -> Iterator[dict[str, Any]]:
    """Yield the layers as rows of nested ``<details>``, which are open near the top and where a comparison fails."""
    layers, first = result.layers, result.first_deviating
    depths: list[int] = []
    for i, layer in enumerate(layers):
        before = len(depths)
        while depths and depths[-1] >= layer.depth:
            depths.pop()
        closed = before - len(depths)
        inner = list(_inner_layers(layers, i))
        if inner:
            depths.append(layer.depth)
        yield {
            **_row(layer),
            **{"number": numbers.get(id(layer), 0), "first": layer is first, "inner": bool(inner), "closed": closed},
            "open": layer.depth < 2 or any(d.error > d.tolerance for b in inner for d in b.differences + b.converted),
            "last": len(depths) if i + 1 == len(layers) else 0,
        }


def _inner_layers(layers: list[Layer], i: int) -> Iterator[Layer]:
    for layer in layers[i + 1 :]:
        if layer.depth <= layers[i].depth:
            return
        yield layer


def _row(layer: Layer) -> dict[str, Any]:
    d, count = layer.worst, len(layer.compared)
    kinds = {None: "none", Verdict.EQUAL: "good", Verdict.DIFFERENT: "bad"}
    return {
        **{
            "kind": kinds.get(layer.verdict, "known"),
            "mark": MARKS[layer.verdict],
            "depth": layer.depth,
            "parameters": layer.parameters,
        },
        "name": layer.path.rpartition(".")[2] or "model",
        "lua": _name(layer.class_name),
        "torch": _name(layer.torch_type.removeprefix("torch.")),
        "compared": layer.note if d is None else f"{what_differs(layer, d)}{f', of {count}' if count > 1 else ''}",
        **_numbers(d),
    }


def _name(text: str) -> Markup:
    """Return a class name as HTML, in which a line may break between words."""
    return Markup(re.sub(r"(?<=[a-z.])(?=[A-Z])", "<wbr>", in_html(text)))


def _numbers(d: Difference | None) -> dict[str, str]:
    if d is None:
        return {"absolute": "", "relative": "", "pair": "", "at": ""}
    if d.mismatched:
        return {"absolute": "", "relative": "≠", "pair": d.message, "at": ""}
    pair, at = ("", "") if d.index is None else (f"{d.found:.6g}, {d.expected:.6g}", ",".join(map(str, d.index)))
    return {"absolute": _number(d.absolute), "relative": _number(d.error), "pair": pair, "at": at}


def _number(value: float) -> str:
    """Return ``0.00049`` as ``4.9e-4``."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "∞"
    digits, _, exponent = f"{value:.1e}".partition("e")
    return f"{digits.removesuffix('.0')}e{int(exponent)}"


def _power(exponent: float) -> str:
    """Return ``-5`` as ``10⁻⁵``."""
    digits = str(round(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{digits}"


# ---------------------------------------------------------------------- histogram
def _bars(histogram: Mapping[int, int]) -> Iterator[tuple[str, int, str, str]]:
    """Yield label, count, width in percent and share of each decade, from the smallest difference to the largest."""
    exponents = [e for e in histogram if e != EQUAL]
    between = range(min(exponents, default=0), max(exponents, default=-1) + 1)
    total, largest = sum(histogram.values()), max(histogram.values(), default=0)
    for key in [*([EQUAL] if EQUAL in histogram else []), *between]:
        count = histogram.get(key, 0)
        label = "equal" if key == EQUAL else f"{_power(key)} – {_power(key + 1)}"
        yield label, count, f"{100 * count / largest:.2f}", f"{100 * count / total:.3g} %" if count else "–"
