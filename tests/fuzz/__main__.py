"""The command: ``python -m tests.fuzz``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from .run import TARGETS, in_a_process


@click.command()
@click.option("--target", "targets", multiple=True, type=click.Choice(TARGETS), help="Repeatable; default: all.")
@click.option("--minutes", type=float, help="For all targets together; default 10 without --cases.")
@click.option("--cases", type=int, help="Of each target.")
@click.option(
    "--seed", default=1, show_default=True, help="The same seed and version of Hypothesis give the same cases."
)
@click.option(
    "--found",
    type=click.Path(path_type=Path, file_okay=False),
    default="fuzz-found",
    show_default=True,
    help="Folder for the files of findings, each as small as it gets; move them to tests/fuzz/corpus when mended.",
)
def main(targets: tuple[str, ...], minutes: float | None, cases: int | None, seed: int, found: Path) -> None:
    """Changes files of every kind and looks whether a promise of SECURITY.md breaks. Exit code 1: one did."""
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
