"""Implement ``dpnn-inspect``: print the content of a .t7 file."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dpnn_bridge.cli.draw import draw, picture_options
from dpnn_bridge.cli.terminal import (
    Command,
    InputType,
    SourceType,
    accept_only,
    console,
    in_options,
    json_option,
    piped,
    protect_inputs,
    quiet_option,
    say,
    steps,
    version_option,
)
from dpnn_bridge.cli.torch_import import load_torch
from dpnn_bridge.errors import NotT7Error

if TYPE_CHECKING:
    from rich.console import Console

    from dpnn_bridge.checkpoints.describe import Description
    from dpnn_bridge.loaders.encoding import Encoding
    from dpnn_bridge.loaders.origin import LocalFile
    from dpnn_bridge.loaders.t7_reader import ReadOptions

#: kind of a row -> style of rich
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
#: minimum number of columns for the text of a row, at any depth of the tree
NARROWEST = 24


@click.command("dpnn-inspect", cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("source", metavar="FILE", type=SourceType())
@click.option(
    "--raw", is_flag=True, help="Print every entry as a tree. Implied by --json, -v, --limit, --depth and encodings."
)
@click.option("--plugin", multiple=True, type=InputType(), help="Python file with @lua_class mappings.")
@click.option("--limit", type=click.IntRange(0), help="Maximum number of entries per table. Default: 100; with -v all.")
@click.option("--depth", type=click.IntRange(0), help="Maximum number of levels. Default: 50.")
@click.option("--mode", type=click.Choice(["binary", "ascii"]), help="Encoding. Detected automatically.")
@click.option("--long-size", type=click.Choice(["4", "8"]), help="Bytes of a C long. Detected automatically.")
@click.option("--big-endian/--little-endian", default=None, help="Byte order. Detected automatically.")
@picture_options
@json_option
@quiet_option
@click.option("-v", "--verbose", is_flag=True, help="List every entry, with stride and offset of each tensor.")
@version_option
def inspect_command(
    source: Any,
    raw: bool,
    key: str | None,
    inputs: tuple[str, ...],
    plugin: tuple[Path, ...],
    limit: int | None,
    depth: int | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Summarize FILE: its models, their layers and parameters, whether they are supported, and the next command.

    \b
      one screen
        dpnn-inspect model.t7
      with the shapes of the outputs
        dpnn-inspect model.t7 --input 1x3x224x224
      every class, field, tensor and function, without loading tensors
        dpnn-inspect model.t7 --raw

    --html, --dot and --mermaid draw the model in FILE instead: its layers with shapes, parameters and both names, and
    the data flow between them.
    """
    picture = {name: options.pop(name) for name in ("html", "dot", "mermaid", "unfold")}
    raw = raw or as_json or verbose or any(value is not None for value in (limit, depth, *options.values()))
    if any(picture[name] for name in ("html", "dot", "mermaid")):
        accept_only("a picture", *picture, "key", "inputs", "plugin")
    elif raw:
        accept_only("the tree (--raw)", "raw", "limit", "depth", *options, "as_json", "verbose")
    protect_inputs(source, *plugin, *inputs)
    if draw(source, key=key, inputs=inputs, plugins=plugin, quiet=quiet, **picture):
        return
    if options["long_size"]:
        options["long_size"] = int(options["long_size"])
    if raw:
        limit = (sys.maxsize if verbose else 100) if limit is None else limit
        _raw(source, limit, depth, as_json, quiet, verbose, options)
        return
    with steps(quiet) as progress:
        load_torch(progress)
        from dpnn_bridge.cli.inputs import example_input
        from dpnn_bridge.files import summary

        progress(f"reading {source}")
        example = partial(example_input, inputs) if inputs else None
        found = summary.inspect(piped(source), key=key, input=example, plugins=plugin)
    if sys.stdout.isatty() and not quiet:
        from rich.text import Text

        for style, line in summary.lines(found):
            console().print(Text(in_options(line), style), soft_wrap=True)
    elif not quiet:
        for _, line in summary.lines(found):
            say(in_options(line))


def _raw(
    source: Any, limit: int, depth: int | None, as_json: bool, quiet: bool, verbose: bool, options: dict[str, Any]
) -> None:
    from dpnn_bridge.checkpoints.describe import describe

    shown = 50 if depth is None else depth
    description = describe(piped(source), limit=limit, depth=shown, read=_read, **options)
    if as_json:
        click.echo(json.dumps(description.to_dict(), indent=2))
    elif sys.stdout.isatty() and not quiet:
        print_tree(description, console(), verbose=verbose)
    elif not quiet:
        for line in description.lines(verbose):
            say(line)


def _read(file: LocalFile, options: ReadOptions) -> tuple[Any, Encoding]:
    """Return content and encoding of a Torch7 file, or of a pickle of ``torch.legacy.nn``, which needs PyTorch."""
    from dpnn_bridge.loaders.t7_reader import read_local

    try:
        return read_local(file, options)
    except NotT7Error:
        from dpnn_bridge.legacy.pickles import PickleEncoding, contains_legacy, read
        from dpnn_bridge.outputs.formats import is_converted_file

        if not contains_legacy(file.path):
            if is_converted_file(file.path):
                advice = "for a summary, omit --raw, --json, -v and the other options of the tree"
                raise NotT7Error(f"{file.name}: a tree of entries needs a .t7 file; {advice}") from None
            raise
        return read(file), PickleEncoding()


def print_tree(description: Description, console: Console, *, verbose: bool = False) -> None:
    """Print the rows in color; long rows are wrapped to the right of the tree lines."""
    from rich.text import Text

    from dpnn_bridge.checkpoints.describe import continued

    for bars, name, text, kind in description.rows(verbose):
        line = Text.assemble(name, (text, STYLES.get(kind, "")))
        line.highlight_regex(r", (?:the same as|shares storage) .*", "not bold dim")
        width = max(console.width - len(bars), NARROWEST)
        for i, part in enumerate(line.wrap(console, width) if text else [line]):
            before = Text(continued(bars) if i else bars, "dim")
            console.print(Text.assemble(before, part), soft_wrap=True)
