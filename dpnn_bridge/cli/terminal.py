"""What all commands share: options, errors, tables, progress."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from dpnn_bridge.errors import DpnnBridgeError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


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


quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")


json_option = click.option("--json", "as_json", is_flag=True, help="Print the whole result as JSON.")


version_option = click.version_option(package_name="dpnn-bridge")


def console(*, stderr: bool = False) -> Console:
    """What commands print with: plain under NO_COLOR, and never folded to some width when the output is no terminal."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or os.environ.get("COLUMNS") else 1000
    return Console(stderr=stderr, width=width, color_system=None if os.environ.get("NO_COLOR") else "auto")


def plain_table(**options: Any) -> Table:
    """A table without lines but one under its heading."""
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, **options)


@contextmanager
def steps(quiet: bool) -> Iterator[Callable[[str], None]]:
    """Yields a function that shows the current step on stderr while the block runs; silent when not a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda step: None
        return
    with console(stderr=True).status("starting") as status:
        yield lambda step: status.update(f"{step} …")
