"""The command line: parses, calls the API, prints. No logic of its own; PyTorch is imported only when needed."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dpnn_bridge.errors import DpnnBridgeError

if TYPE_CHECKING:
    from dpnn_bridge.report import Report

DTYPES = ("float16", "bfloat16", "float32", "float64")


def exits_with_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """Turns a :class:`DpnnBridgeError` into its one message on stderr and its exit code."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except DpnnBridgeError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(error.exit_code)

    return run


@contextmanager
def steps(quiet: bool) -> Iterator[Callable[[str], None]]:
    """Yields a function that shows the current step on stderr while the block runs; silent when not a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda step: None
        return
    from rich.console import Console

    with Console(stderr=True).status("starting") as status:
        yield lambda step: status.update(f"{step} …")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("source", metavar="IN.t7", type=click.Path(path_type=Path))
@click.argument("target", metavar="OUT.pt", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--key", help="Path of the model inside the file, such as protos.rnn; found by itself when left out.")
@click.option("--force", is_flag=True, help="Replace OUT.pt when it exists.")
@click.option("--dtype", type=click.Choice(DTYPES), help="Cast floating point tensors; default: as in the file.")
@click.option("--plugin", multiple=True, type=click.Path(path_type=Path), help="Python file with @lua_class blocks.")
@click.option("--allow-unsupported", is_flag=True, help="Unknown classes become placeholders that raise when they run.")
@click.option("--report", type=click.Path(path_type=Path), help="Write what was mapped to what, as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("-v", "--verbose", is_flag=True, help="Print the conversion table.")
@click.version_option(package_name="dpnn-bridge")
@exits_with_errors
def convert_command(
    source: Path,
    target: Path,
    key: str | None,
    force: bool,
    dtype: str | None,
    plugin: tuple[Path, ...],
    allow_unsupported: bool,
    report: Path | None,
    quiet: bool,
    verbose: bool,
) -> None:
    """Converts the Torch7 model in IN.t7 to OUT.pt, which dpnn_bridge.load and torch.load (weights_only) read.

    \b
    Exit codes: 0 done, 2 wrong usage, 3 the input cannot be read, 4 verification failed,
    5 a class or value cannot be converted, 6 the output exists (see --force).
    """
    started = time.perf_counter()
    with steps(quiet) as progress:
        progress("loading PyTorch")
        import torch

        from dpnn_bridge.files import convert

        done = convert(
            source,
            target,
            key=key,
            force=force,
            dtype=getattr(torch, dtype) if dtype else None,
            plugins=plugin,
            allow_unsupported=allow_unsupported,
            progress=progress,
        )
    if report is not None:
        report.write_text(json.dumps(done.to_dict(), indent=2) + "\n")
    if verbose:
        _print_table(done)
    if not quiet:
        facts = [f"{len(done.mapped)} modules", f"{done.metadata['parameters']:,} parameters"]
        if done.metadata["key"]:
            facts.insert(0, f"key {done.metadata['key']}")
        if done.unsupported:
            facts.append(f"{len(done.unsupported)} unsupported classes")
        if done.dropped:
            facts.append(f"{len(done.dropped)} values dropped")
        click.echo(f"{source} -> {target}: {', '.join(facts)}, {time.perf_counter() - started:.1f} s")


def _print_table(report: Report) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("Lua class", "PyTorch module", "count")
    for (lua, torch_type), count in report.counts().items():
        table.add_row(lua, torch_type, str(count))
    console = Console()
    console.print(table)
    for dropped in report.dropped:
        console.print(f"dropped {dropped.path}: {dropped.reason}", highlight=False, markup=False)
