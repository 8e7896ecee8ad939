"""``dpnn-inspect``: prints what a .t7 file holds."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dpnn_bridge.cli.draw import draw, picture_options
from dpnn_bridge.cli.terminal import Command, console, json_option, quiet_option, say, version_option

if TYPE_CHECKING:
    from rich.console import Console

    from dpnn_bridge.checkpoints.describe import Description

#: kind of a line -> rich style
STYLES = {
    "boolean": "blue",
    "file": "bold",
    "function": "magenta",
    "model": "bold green",
    "nil": "dim",
    "number": "blue",
    "object": "bold cyan",
    "omitted": "dim",
    "storage": "green",
    "string": "yellow",
    "tensor": "green",
}
#: at least so many columns for a text, however deep it stands
NARROWEST = 24


@click.command("dpnn-inspect", cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("source", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--limit", default=100, show_default=True, help="Entries of a table that are listed.")
@click.option("--depth", default=50, show_default=True, help="Levels that are listed.")
@click.option("--mode", type=click.Choice(["binary", "ascii"]), help="Encoding; found by itself when left out.")
@click.option("--long-size", type=click.Choice(["4", "8"]), help="Bytes of a C long; found by itself.")
@click.option("--big-endian/--little-endian", default=None, help="Byte order; found by itself.")
@picture_options
@json_option
@quiet_option
@click.option("-v", "--verbose", is_flag=True, help="List every entry, and stride and offset of each tensor.")
@version_option
def inspect_command(
    source: Path, limit: int, depth: int, as_json: bool, quiet: bool, verbose: bool, **options: Any
) -> None:
    """Shows the classes, fields, tensors and functions of FILE, and what is shared; runs nothing, loads no tensor.

    With --html, --dot or --mermaid the model in FILE is drawn instead: its layers with shapes, parameters and both
    names, and what hands its value to what.

    Exit codes: 0 done, 2 wrong usage, 3 the file cannot be read.
    """
    from dpnn_bridge.checkpoints.describe import describe

    if draw(source, **{name: options.pop(name) for name in ("html", "dot", "mermaid", "unfold", "key", "inputs")}):
        return
    if options["long_size"]:
        options["long_size"] = int(options["long_size"])
    description = describe(source, limit=sys.maxsize if verbose else limit, depth=depth, **options)
    if as_json:
        click.echo(json.dumps(description.to_dict(), indent=2))
    elif sys.stdout.isatty() and not quiet:
        print_tree(description, console(), verbose=verbose)
    elif not quiet:
        for line in description.lines(verbose):
            say(line)


def print_tree(description: Description, console: Console, *, verbose: bool = False) -> None:
    """The lines in colour; those wider than the terminal go on below, beside the lines of the tree."""
    from rich.text import Text

    from dpnn_bridge.checkpoints.describe import continued

    for bars, name, text, kind in description.rows(verbose):
        line = Text.assemble(name, (text, STYLES.get(kind, "")))
        line.highlight_regex(r", (?:the same as|shares storage) .*", "not bold dim")
        width = max(console.width - len(bars), NARROWEST)
        for i, part in enumerate(line.wrap(console, width) if text else [line]):
            before = Text(continued(bars) if i else bars, "dim")
            console.print(Text.assemble(before, part), soft_wrap=True)
