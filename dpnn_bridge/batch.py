"""Many conversions: several files, or every model of one file."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from dpnn_bridge.base.atomic import check_output, ending_in_order, remove_temporary
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
    """One task per file; outputs keep the names of the sources, and the folders below their common parent.

    Raises:
        OutputError: two sources would have the same output, or one would be written over another.
    """
    places = [Path(os.path.abspath(s)) for s in sources]  # links keep their names: those of a cache lead to checksums
    common = Path(os.path.commonpath([str(p.parent) for p in places])) if places else Path()
    targets: dict[Path, Path] = {}
    for source, place in zip(sources, places, strict=True):
        stem = place.name if place.suffix[1:].isdigit() else place.stem  # model_1.5 is no file of type 5
        target = out_dir / place.relative_to(common).with_name(stem + suffix)
        first = targets.setdefault(target, source)
        if os.path.abspath(first) != str(place):
            raise OutputExistsError(f"{source} and {first} would both be written to {target}")
    for target in targets:
        if target.is_file():
            check_output(target, True, sources)
    return [Task(source, target) for target, source in targets.items()]


def tasks_for_models(source: Path, target: Path, keys: Sequence[str]) -> list[Task]:
    """One task per model of one file: ``out.pt`` and key ``protos.rnn`` give ``out.protos.rnn.pt``.

    Keys that would give the same name, or one that no file can have, get another.
    """
    tasks: dict[str, Task] = {}
    for key in keys:
        room = _LONGEST_NAME - len(os.fsencode(f"{target.stem}.{target.suffix}"))
        name, number = _file_name(key, room), 1
        while name.casefold() in tasks:
            number += 1
            name = f"{_file_name(key, room - len(str(number)) - 1)}-{number}"
        tasks[name.casefold()] = Task(source, target.with_name(f"{target.stem}.{name}{target.suffix}"), key)
    for task in tasks.values():
        if task.target.is_file():
            check_output(task.target, True, [source])
    return list(tasks.values())


#: bytes of a file name on all common file systems
_LONGEST_NAME = 255


def _file_name(key: str, room: int) -> str:
    """The part of a file name that stands for a key: its letters, digits and a few signs, in so many bytes."""
    name = key.replace("][", ".").strip("[]").replace("[", ".").replace("]", "").replace("'", "")
    name = re.sub(r"[^\w.+=@-]", "_", name.encode("utf-8", "replace").decode())
    return os.fsencode(name)[: max(room, 1)].decode("utf-8", "ignore")


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
        force: convert again where the output exists; otherwise a task is skipped when its output is there, whole and
            made of the same input, and fails when something else is there.
        started: called with each task that is begun or queued.
        **options: of :func:`dpnn_bridge.files.convert`.
    """
    options["force"] = force
    todo = []
    for task in tasks:
        if not force and os.path.lexists(task.target):
            yield _present(task, options)
        else:
            todo.append(task)
            started(task)
    if jobs <= 1 or len(todo) <= 1:
        yield from (_convert(task, options) for task in todo)
    else:
        yield from _run_in_workers(todo, min(jobs, len(todo)), options)


def _present(task: Task, options: dict[str, Any]) -> Outcome:
    """The outcome where something has the name of the output."""
    from dpnn_bridge.files import is_converted

    if task.target.is_file() and is_converted(task.source, task.target, key=task.key, **options):
        return Outcome(task, "skipped")
    message = f"{task.target} is there, and not what this input gives now; use --force (force=True) to replace it"
    return Outcome(task, "failed", message, OutputExistsError.exit_code)


def _run_in_workers(todo: Sequence[Task], jobs: int, options: dict[str, Any]) -> Iterator[Outcome]:
    # spawned, since a forked process can hang on the locks of PyTorch's threads
    context = multiprocessing.get_context("spawn")
    watched, held = context.Pipe(duplex=False)  # workers end when it closes, which it does when this process ends
    with ending_in_order():
        pool = ProcessPoolExecutor(jobs, context, _start_worker, (jobs, watched))
        try:
            futures = {pool.submit(_convert, task, options): task for task in todo}
            for future in as_completed(futures):
                try:
                    yield future.result()
                except BrokenProcessPool:
                    message = "a worker process died, perhaps for lack of memory; use fewer --jobs for what is left"
                    yield Outcome(futures[future], "failed", message, 1)
        except BaseException:
            held.close()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
            held.close()
            watched.close()


def _start_worker(jobs: int, watched: Connection) -> None:
    """Workers leave it to their parent to be interrupted, and end with it."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(watched,), daemon=True).start()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // jobs))


def _end_with_parent(watched: Connection) -> None:
    with suppress(EOFError, OSError):
        watched.recv_bytes()
    remove_temporary()
    os._exit(130)


def _convert(task: Task, options: dict[str, Any]) -> Outcome:
    from dpnn_bridge.files import convert

    try:
        report = convert(task.source, task.target, key=task.key, **options)
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
