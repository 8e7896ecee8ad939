"""Write a report as one HTML page: the verdict, both networks side by side, and the origin of each parameter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dpnn_bridge.base.pages import rendered, static
from dpnn_bridge.porting.report import Deviation, PortReport
from dpnn_bridge.porting.sides import Step

#: maximum number of steps of a network that are drawn
_MAX_STEPS = 400
#: maximum number of characters of a label, and of the layer's name in it
_MAX_LABEL, _MAX_NAME = 52, 26
_HEIGHT, _WIDTH, _GAP, _MARGIN = 26, 400, 120, 60


def port_page(report: PortReport, title: str) -> str:
    """Return an HTML page with both networks side by side, in which the first deviation is marked.

    Args:
        report: from :func:`dpnn_bridge.port`.
        title: heading, such as the names of the model and of the network.
    """
    there, here = (steps[:_MAX_STEPS] for steps in report.sides)
    rows = _rows(there, here)
    deviating = _deviating(here, report.first)
    boxes = [*_boxes(there, rows[0], 0, None), *_boxes(here, rows[1], 1, deviating)]
    return rendered(
        "dpnn_bridge.porting",
        "port.html.j2",
        title=title,
        report=report,
        style=static("dpnn_bridge.parity", "verification.css"),
        more=static("dpnn_bridge.porting", "port.css"),
        boxes=boxes,
        joins=_joins(here, rows, deviating),
        cut=max(map(len, report.sides)) > _MAX_STEPS,
        box_width=_WIDTH,
        width=2 * (_MARGIN + _WIDTH) + _GAP,
        height=_HEIGHT * (max([*rows[0], *rows[1]], default=0) + 2),
        columns=[(_left(0), "source"), (_left(1), "your module")],
    )


def _rows(there: list[Step], here: list[Step]) -> tuple[list[int], list[int]]:
    """Return the rows of both columns. Matching steps share a row if both networks have them in the same order."""
    left, right = [0] * len(there), []
    done = row = 0
    for step in here:
        match = step.match if step.match is not None and done <= step.match < len(there) else None
        if match is not None:
            begin = left[done - 1] + 1 if done else 0
            for i in range(done, match + 1):
                left[i] = begin + i - done
            row = left[match] = max(left[match], row)
            done = match + 1
        right.append(row)
        row += 1
    begin = left[done - 1] + 1 if done else 0
    left[done:] = range(begin, begin + len(there) - done)
    return left, right


def _deviating(here: list[Step], first: Deviation | None) -> int | None:
    """Return the index of the step that a deviation names, or None."""
    if first is None:
        return None
    named = [i for i, step in enumerate(here) if step.line == first.line and step.name == first.layer]
    return next((i for i in named if here[i].match is None), next(iter(named), None))


def _left(column: int) -> int:
    return _MARGIN + column * (_WIDTH + _GAP)


def _boxes(steps: list[Step], rows: list[int], column: int, deviating: int | None) -> Iterator[dict[str, Any]]:
    """Yield the boxes of a column's steps, with the lines from the steps whose results they read."""
    for i, step in enumerate(steps):
        kind = "bad" if i == deviating else "good" if step.match is not None else "known"
        y, lines = (rows[i] + 1) * _HEIGHT, []
        for source in (s for s in step.inputs if s < len(steps)):
            above = (rows[source] + 1) * _HEIGHT + _HEIGHT - 6
            if rows[i] - rows[source] == 1:
                x = _left(column) + _WIDTH // 2
                lines.append(f"M{x} {above}V{y}")
            else:
                x, side = (_left(0), -1) if column == 0 else (_left(1) + _WIDTH, 1)
                out = x + side * min(8 + 2 * (rows[i] - rows[source]), _MARGIN - 6)
                lines.append(f"M{x} {above - 10}C{out} {above - 10} {out} {y + 10} {x} {y + 10}")
        yield {"x": _left(column), "y": y, "step": step, "kind": kind, "lines": lines, "label": _label(step)}


def _label(step: Step) -> str:
    """Return the end of the layer's name, and the beginning of the operation."""
    name = step.name
    if len(name) > _MAX_NAME:
        end = name[-_MAX_NAME:]
        name = f"…{end[max(0, end.find('.')) :]}"  # cut between two parts of the path
    text = f"{name} {step.text}".strip()
    return text if len(text) <= _MAX_LABEL else f"{text[: _MAX_LABEL - 1]}…"


def _joins(here: list[Step], rows: tuple[list[int], list[int]], deviating: int | None) -> Iterator[dict[str, Any]]:
    """Yield the lines between steps with the same result."""
    for i, step in enumerate(here):
        if step.match is not None and step.match < len(rows[0]):
            y, z = ((row + 1) * _HEIGHT + 10 for row in (rows[0][step.match], rows[1][i]))
            kind = "bad" if i == deviating else "layer" if step.layer else "good"
            yield {"path": f"M{_left(0) + _WIDTH} {y}L{_left(1)} {z}", "kind": kind}
