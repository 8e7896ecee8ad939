"""Many conversions: several files, or every model of one file."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
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

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        task = {"source": str(self.task.source), "target": str(self.task.target), "key": self.task.key}
        return {**task, "status": self.status, "message": self.message, "exit_code": self.exit_code, **self.facts}


def tasks_for(sources: Sequence[Path], out_dir: Path, suffix: str) -> list[Task]:
    """One task per file; outputs keep the folders below the sources' common parent.

    Raises:
        OutputExistsError: two sources would have the same output.
    """
    parents = [str(s.resolve().parent) for s in sources]
    common = Path(os.path.commonpath(parents)) if parents else Path()
    targets: dict[Path, Path] = {}
    for source in sources:
        place = source.resolve().relative_to(common)
        stem = place.name if place.suffix[1:].isdigit() else place.stem  # model_1.5 is no file of type 5
        target = out_dir / place.with_name(stem + suffix)
        if targets.setdefault(target, source).resolve() != source.resolve():
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
    jobs = min(jobs, len(todo))
    # spawned, since a forked process can hang on the locks of PyTorch's threads
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _start_worker, (jobs,))
    try:
        futures = {pool.submit(_convert_in_worker, task, options): task for task in todo}
        for future in as_completed(futures):
            try:
                yield future.result()
            except BrokenProcessPool:
                message = "a worker process died, perhaps for lack of memory; use fewer --jobs for what is left"
                yield Outcome(futures[future], "failed", message, 1)
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(jobs: int) -> None:
    """The first signal to end interrupts the conversion; later ones must not interrupt its cleaning up."""
    import torch

    def interrupt(*_: Any) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):  # the pool terminates all workers when one is gone
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // jobs))


def _convert_in_worker(task: Task, options: dict[str, Any]) -> Outcome:
    try:
        return _convert(task, options)
    except KeyboardInterrupt:  # its temporary file is gone; the pool would go on with the next task
        os._exit(130)


def _convert(task: Task, options: dict[str, Any]) -> Outcome:
    from dpnn_bridge.files import convert

    try:
        report = convert(task.source, task.target, key=task.key, force=True, **options)
    except DpnnBridgeError as e:
        return Outcome(task, "failed", str(e), e.exit_code)
    except Exception as e:  # one file must not end the others
        return Outcome(task, "failed", f"{type(e).__name__}: {e}", 1)
    facts = {
        "modules": len(report.mapped),
        "parameters": report.metadata["parameters"],
        "unsupported": len(report.unsupported),
    }
    return Outcome(task, "converted", facts=facts)
