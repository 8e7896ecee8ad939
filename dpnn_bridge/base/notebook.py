"""Render results in notebooks: small HTML tables without scripts, which need no network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dpnn_bridge.base.display import in_html, shortened

#: maximum number of rows of a table
MAX_ROWS = 60


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], notes: Sequence[str] = ()) -> str:
    """Return an HTML table with a title, and notes below it. Text from files is escaped.

    Args:
        title: One line.
        columns: Headings. A ``#`` at the beginning, which is removed, aligns the column to the right, for numbers.
        rows: Cells; None is an empty cell, and an integer gets thousands separators.
        notes: Lines below the table.
    """
    right = [name.startswith("#") for name in columns]
    align = ["text-align:right" if number else "text-align:left" for number in right]
    heads = "".join(f"<th style='{a}'>{_cell(name.lstrip('#'))}</th>" for name, a in zip(columns, align, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td style='{a}'>{_cell(v)}</td>" for v, a in zip(row, align, strict=True)) + "</tr>"
        for row in rows[:MAX_ROWS]
    )
    below = [*([f"… {len(rows) - MAX_ROWS} more"] if len(rows) > MAX_ROWS else []), *notes]
    lines = "".join(f"<div style='opacity:.75'>{_cell(line)}</div>" for line in below)
    content = f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>" if rows else ""
    return f"<div><div style='font-weight:bold'>{_cell(title)}</div>{content}{lines}</div>"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,}" if type(value) is int else in_html(shortened(str(value), 200))
