"""Print the results of ``dpnn-convert``: one line for a file, a table for many files, and a table of classes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from dpnn_bridge.base.display import counted, printable
from dpnn_bridge.cli.terminal import console, in_options, plain_table, say

if TYPE_CHECKING:
    from rich.console import Console

    from dpnn_bridge.batch.running import Outcome
    from dpnn_bridge.conversion.report import Report

#: maximum number of files that are listed separately
MAX_ROWS = 100


def list_classes_of_lua(as_json: bool) -> None:
    """Print every Lua class with its torch modules."""
    from dpnn_bridge.conversion.registry import known_names, torch_name

    classes = {
        name: [torch_name(spec) for spec in specs]
        for name, specs in known_names().items()
        if not name.startswith("dpnn_bridge.")  # the container of several models is not a Lua class
    }
    if as_json:
        click.echo(json.dumps(classes, indent=2))
        return
    click.echo("\n".join(f"{name}\t{', '.join(modules)}" for name, modules in classes.items()))


def print_one(done: Report, files: Sequence[Any], verbose: bool, seconds: float) -> None:
    """Print the result for one file: one line, the notes, and with ``verbose`` the table of classes."""
    if verbose:
        print_table(done, console())
    facts = [counted(done.metadata.get("modules", 0), "module"), f"{done.metadata['parameters']:,} parameters"]
    if "tensors" in done.metadata:  # data without a model
        tensors, values = counted(done.metadata["tensors"], "tensor"), counted(done.metadata["values"], "other value")
        facts = ["data without a model", tensors, values]
    if done.metadata.get("key"):
        facts.insert(0, f"key {done.metadata['key']}")
    if done.unsupported:
        facts.append(counted(len(done.unsupported), "unsupported class"))
    if done.dropped:
        facts.append(f"{counted(len(done.dropped), 'value')} dropped")
    say(f"{files[0]} -> {files[1]}: {', '.join(facts)}, {seconds:.1f} s")
    for note in done.notes:
        say(f"note: {in_options(note)}")


def print_table(report: Report, console: Console) -> None:
    """Print the class mappings and the omitted values."""
    table = plain_table()
    table.add_column("count", justify="right", no_wrap=True)
    table.add_column("Lua class", overflow="fold")
    table.add_column("PyTorch module", overflow="fold")
    for (lua, torch_type), count in report.counts().items():
        own = torch_type.startswith("dpnn_bridge.")
        table.add_row(str(count), lua, torch_type.rpartition(".")[2] if own else torch_type)
    console.print(table)
    for dropped in report.dropped:
        console.print(printable(f"dropped {dropped.path}: {dropped.reason}"), highlight=False, soft_wrap=True)


def print_many(done: Sequence[Outcome], verbose: bool) -> None:
    """Print one row per file, unless there are too many files, and the number of files per status."""
    if verbose or len(done) <= MAX_ROWS:
        _print_rows(done)
    counts = ", ".join(f"{n} {status}" for status, n in sorted(Counter(o.status for o in done).items()))
    say(f"{counted(len(done), 'file')}: {counts}")


def _print_rows(done: Sequence[Outcome]) -> None:
    table = plain_table()
    table.add_column("input", overflow="fold")
    table.add_column("output", overflow="fold")
    table.add_column("result", no_wrap=True)
    for name in ("modules", "parameters"):
        table.add_column(name, justify="right", no_wrap=True)
    for o in done:
        files = (printable(str(file)) for file in (o.task.source, o.task.target))
        parameters = f"{o.facts['parameters']:,}" if o.facts else ""
        table.add_row(*files, o.status, str(o.facts.get("modules", "")), parameters)
    console().print(table)
