"""``dpnn-inspect``: prints what a .t7 file holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from dpnn_bridge.cli import exits_with_errors


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("source", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a tree.")
@click.option("--limit", default=100, show_default=True, help="Entries of a table that are listed.")
@click.option("--depth", default=50, show_default=True, help="Levels that are listed.")
@click.option("--mode", type=click.Choice(["binary", "ascii"]), help="Encoding; found by itself when left out.")
@click.option("--long-size", type=click.Choice(["4", "8"]), help="Bytes of a C long; found by itself.")
@click.option("--big-endian/--little-endian", default=None, help="Byte order; found by itself.")
@exits_with_errors
def inspect_command(source: Path, as_json: bool, limit: int, depth: int, **options: Any) -> None:
    """Shows the classes, fields, tensors and functions of FILE, and what is shared; runs nothing, loads no tensor."""
    from dpnn_bridge.inspect import describe

    if options["long_size"]:
        options["long_size"] = int(options["long_size"])
    description = describe(source, limit=limit, depth=depth, **options)
    if as_json:
        click.echo(json.dumps(description.to_dict()))
    else:
        for line in description.lines():
            click.echo(line)
