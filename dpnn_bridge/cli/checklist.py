"""Print the checklist of ``dpnn-verify``: every layer with its largest difference, accepted reasons and a summary."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dpnn_bridge.base.display import listed, printable
from dpnn_bridge.cli.terminal import plain_table
from dpnn_bridge.compare.verdict import MARKS, Verdict

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from dpnn_bridge.compare.differences import Difference
    from dpnn_bridge.parity.verification import Layer, Verification

#: color of a verdict: yellow if differences were accepted or nothing was compared
_COLORS = {
    Verdict.EQUAL: "green",
    Verdict.ROUNDING: "green",
    Verdict.RANDOM: "yellow",
    Verdict.KNOWN: "yellow",
    Verdict.DIFFERENT: "red",
    None: "yellow",
}
#: heading of a column -> function that returns the text of its cell for a comparison
NUMBERS: dict[str, Callable[[Difference], str]] = {
    "max abs": lambda d: f"{d.absolute:.1e}",
    "relative": lambda d: f"{d.error:.1e}",
    "allowed": lambda d: f"{d.tolerance:.0e}" if d.tolerance else "0",
    "cosine": lambda d: f"{d.cosine:.6f}",
    "SNR dB": lambda d: f"{d.snr:.0f}",
}


def print_checklist(result: Verification, console: Console, *, verbose: bool = False) -> None:
    """Print the tree of layers, then the comparisons without a layer, then a summary in one line.

    Args:
        result: The result of the verification.
        console: The console to print to.
        verbose: Print every comparison instead of the worst one of each layer.
    """
    from rich.text import Text

    from dpnn_bridge.parity.verification import headline, reasons, summary

    def line(text: str, style: str) -> None:
        console.print(Text(printable(text), style), soft_wrap=True)

    title = Text.assemble((printable(result.model), "bold"), " ", (printable(headline(result)), "dim"))
    console.print(title, soft_wrap=True)
    console.print(_Checklist(result, console.width, verbose).table)
    for (verdict, reason), names in reasons(result).items():
        line(f"{verdict.text}: {listed(names)}: {reason}", "yellow")
    for note in result.notes:
        line(f"note: {note}", "yellow")
    if marks := _legend(result):
        line(f"marks: {', '.join(marks)}", "dim")
    line(summary(result), f"bold {_COLORS[result.verdict]}")


class _Checklist:
    """The table of all layers, as wide as the terminal allows."""

    def __init__(self, result: Verification, width: int, verbose: bool) -> None:
        self.verbose, self.wide = verbose, width >= 100
        self.show_elements = self.wide and (verbose or not result.ok)
        self.numbers = [*NUMBERS][: None if width >= 140 else 3] if self.wide else ["relative"]
        self.evidence = {} if result.differences else {c["class_name"]: c["evidence"] for c in result.classes()}
        self.table = self._columns()
        for layer in result.layers:
            self._add_layer(layer)
        for d in result.without_layer if verbose else [d for d in result.without_layer if not d.ok]:
            self._add("", "", d.name, d)

    def _columns(self) -> Table:
        table = plain_table(highlight=False)
        for name in ("", "layer in Lua", "class"):
            table.add_column(name, no_wrap=True, overflow="ellipsis")
        table.add_column("compared", min_width=12)
        for name in self.numbers:
            table.add_column(name, justify="right", no_wrap=True)
        if self.show_elements:
            table.add_column("worst element", min_width=24)
        return table

    def _add_layer(self, layer: Layer) -> None:
        from rich.text import Text

        from dpnn_bridge.parity.verification import what_differs

        compared = layer.compared
        shown = compared if self.verbose else [layer.worst] if layer.worst else []
        name = "  " * layer.depth + (layer.path.rpartition(".")[2] or "model")
        if not shown:
            note = layer.note or self.evidence.get(layer.class_name, "")
            self.table.add_row(Text(MARKS[None], "dim"), name, layer.class_name, Text(note, "dim"))
        for i, d in enumerate(shown):
            label = (name, layer.class_name) if i == 0 else ("", "")
            also = f" (of {len(compared)})" if self.wide and not self.verbose and len(compared) > 1 else ""
            self._add(*label, what_differs(layer, d) + also, d)

    def _add(self, layer: str, class_name: str, what: str, d: Difference) -> None:
        element = [_worst_element(d)] if self.show_elements else []
        row = (_mark(d), layer, class_name, what, *_cells(d, self.numbers), *element)
        self.table.add_row(*row, style="" if d.ok else "red")


def _legend(result: Verification) -> list[str]:
    """Return the marks in the table with their meanings; an empty list if all comparisons are equal."""
    verdicts = {d.verdict for d in result.differences}
    if verdicts <= {Verdict.EQUAL}:
        return []
    marks = [f"{MARKS[v]} {v.text}" for v in Verdict if v in verdicts | {Verdict.EQUAL}]
    return [*marks, f"{MARKS[None]} not compared"] if any(not layer.compared for layer in result.layers) else marks


def _mark(difference: Difference) -> Any:
    from rich.text import Text

    return Text(MARKS[difference.verdict], _COLORS[difference.verdict])


def _cells(d: Difference, names: list[str]) -> list[str]:
    """Return the numbers of a comparison as text; empty strings if the shapes or types differ."""
    return ["" if d.mismatched else NUMBERS[name](d) for name in names]


def _worst_element(d: Difference) -> str:
    """Return index and values of the element with the largest difference, or the message of the comparison."""
    if d.index is None:
        return d.message
    return f"{list(d.index)}: {d.found:.7g} for {d.expected:.7g}"
