"""Many conversions: several files, or every model of one file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dpnn_bridge.errors import DpnnBridgeError, OutputExistsError


@dataclass(frozen=True)
class Task:
    """One conversion.

    Attributes:
        source, target: the files.
        key: the model inside ``source``, None for the one that it is about.
    """

    source: Path
    target: Path
    key: str | None = None


@dataclass
class Outcome:
    """What became of a task.

    Attributes:
        task: the conversion.
        status: ``"converted"``, ``"skipped"`` (the output was there) or ``"failed"``.
        message: the error of a failed task.
        exit_code: of the error, else 0.
        facts: number of modules and parameters, unsupported classes.
    """

    task: Task
    status: str
    message: str = ""
    exit_code: int = 0
    facts: dict[str, Any] = field(default_factory=dict)


def tasks_for(sources: Sequence[Path], out_dir: Path, suffix: str) -> list[Task]:
    """One task per file; outputs keep the folders below the sources' common parent.

    Raises:
        OutputExistsError: two sources would have the same output.
    """
    parents = [str(s.resolve().parent) for s in sources]
    common = Path(os.path.commonpath(parents)) if parents else Path()
    targets: dict[Path, Path] = {}
    for source in sources:
        target = out_dir / source.resolve().relative_to(common).with_suffix(suffix)
        if targets.setdefault(target, source) != source:
            raise OutputExistsError(f"{source} and {targets[target]} would both be written to {target}")
    return [Task(source, target) for target, source in targets.items()]


def tasks_for_models(source: Path, target: Path, keys: Sequence[str]) -> list[Task]:
    """One task per model of one file: ``out.pt`` and key ``protos.rnn`` give ``out.protos.rnn.pt``."""
    names = {
        key: key.replace("][", ".").strip("[]").replace("[", ".").replace("]", "").replace("'", "") for key in keys
    }
    return [Task(source, target.with_name(f"{target.stem}.{names[k]}{target.suffix}"), k) for k in keys]


def run(
    tasks: Sequence[Task],
    *,
    jobs: int = 1,
    force: bool = False,
    started: Callable[[Task], None] = lambda task: None,
    **options: Any,
) -> Iterator[Outcome]:
    """Runs conversions, each independent of the others' failures; yields outcomes as they come.

    Args:
        tasks: the conversions.
        jobs: number of processes.
        force: convert again where the output exists; otherwise such tasks are skipped.
        started: called with each task that is begun or queued.
        **options: of :func:`dpnn_bridge.files.convert`.
    """
    todo = []
    for task in tasks:
        if task.target.exists() and not force:
            yield Outcome(task, "skipped")
        else:
            todo.append(task)
            started(task)
    if jobs <= 1 or len(todo) <= 1:
        yield from (_convert(task, options) for task in todo)
        return
    with ProcessPoolExecutor(min(jobs, len(todo))) as pool:
        for future in as_completed([pool.submit(_convert, task, options) for task in todo]):
            yield future.result()


def _convert(task: Task, options: dict[str, Any]) -> Outcome:
    from dpnn_bridge.files import convert

    try:
        report = convert(task.source, task.target, key=task.key, force=True, **options)
    except DpnnBridgeError as e:
        return Outcome(task, "failed", str(e), e.exit_code)
    facts = {
        "modules": len(report.mapped),
        "parameters": report.metadata["parameters"],
        "unsupported": len(report.unsupported),
    }
    return Outcome(task, "converted", facts=facts)
