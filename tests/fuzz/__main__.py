"""The command: ``python -m tests.fuzz``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from .run import TARGETS, in_a_process


@click.command()
@click.option("--target", "targets", multiple=True, type=click.Choice(TARGETS), help="Repeatable; default: all.")
@click.option("--minutes", type=float, help="Duration of all targets together. Default: 10 without --cases.")
@click.option("--cases", type=int, help="Number of cases of each target.")
@click.option("--seed", default=1, show_default=True, help="The same seed gives the same cases.")
@click.option(
    "--found",
    type=click.Path(path_type=Path, file_okay=False),
    default="fuzz-found",
    show_default=True,
    help="Folder for minimized files that break a promise. Move a file to tests/fuzz/corpus after the fix.",
)
def main(targets: tuple[str, ...], minutes: float | None, cases: int | None, seed: int, found: Path) -> None:
    """Change files of all types and check the promises of SECURITY.md. Exit code 1: a promise is broken."""
    targets = targets or TARGETS
    if minutes is None and cases is None:
        minutes = 10
    failed = False
    for target in targets:
        seconds = None if minutes is None else minutes * 60 / len(targets)
        for figures in in_a_process(target, seed, seconds, cases, found.resolve()):
            click.echo(f"{target}: {figures}", color=False)
            failed |= bool(figures.found)
    sys.exit(failed)


if __name__ == "__main__":
    main()
