"""Run conversions one after the other or in several processes, and write their manifest."""

from __future__ import annotations

import os
import pickle
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import Unpack

from dpnn_bridge.base.arguments import checks_arguments, renamed
from dpnn_bridge.base.atomic import imported_files, protecting
from dpnn_bridge.base.file_set import check_distinct
from dpnn_bridge.base.folders import remove_abandoned
from dpnn_bridge.base.remote import Location, absolute, location_of, url_exists
from dpnn_bridge.base.shards import checksum_of
from dpnn_bridge.base.suffixes import index_of
from dpnn_bridge.base.version import package_version
from dpnn_bridge.batch.executors import failure_message, run_in_workers
from dpnn_bridge.batch.manifest import Line, Manifest
from dpnn_bridge.batch.tasks import Task
from dpnn_bridge.errors import (
    ConversionError,
    DpnnBridgeError,
    MissingFileError,
    OptionError,
    OutputError,
    OutputExistsError,
)
from dpnn_bridge.outputs.options import ConvertKeywords

if TYPE_CHECKING:
    from dpnn_bridge.files.source_cache import SourceCache


@dataclass
class Outcome:
    """The result of a task.

    Attributes:
        task: the conversion.
        status: ``"converted"``, ``"skipped"`` (the output exists and is up to date) or ``"failed"``.
        message: the error of a failed task.
        exit_code: exit code of the error; 0 without an error.
        facts: numbers of modules, parameters and unsupported classes.
        seconds: duration of the conversion.
        checksums: for a manifest: checksums of source, arguments and target.
    """

    task: Task
    status: str
    message: str = ""
    exit_code: int = 0
    facts: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    checksums: dict[str, Any] = field(default_factory=dict)

    @property
    def proof(self) -> dict[str, Any]:
        """The earlier name of :attr:`checksums`."""
        return self.checksums

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        task = {"source": str(self.task.source), "target": str(self.task.target), "key": self.task.key}
        return {**task, "status": self.status, "message": self.message, "exit_code": self.exit_code, **self.facts}

    def to_line(self) -> Line:
        """Return the line of a manifest, see :mod:`dpnn_bridge.batch.manifest`."""
        paths = {"source": absolute(self.task.source), "target": absolute(self.task.target)}
        verdict = "failed" if self.status == "failed" else "equal"
        result = {"verdict": verdict, "seconds": round(self.seconds, 3), "dpnn_bridge": package_version()}
        return {**self.to_dict(), **paths, **self.checksums, **result, "host": socket.gethostname()}


@renamed(example="input")
@checks_arguments
def run(
    tasks: Sequence[Task],
    *,
    to: str | None = None,
    jobs: int = 1,
    executor: Executor | None = None,
    manifest: str | Path | None = None,
    force: bool = False,
    **options: Unpack[ConvertKeywords],
) -> Iterator[Outcome]:
    """Run conversions and yield each outcome when its conversion ends. A failure does not affect other conversions.

    Args:
        tasks: the conversions.
        to: name of the format, if the suffix of a target does not determine it.
        jobs: number of processes.
        executor: executor to use instead: any :class:`concurrent.futures.Executor`, of threads, or of processes on
            other machines (``dask.distributed.Client(…).get_executor()``, ``mpi4py.futures.MPIPoolExecutor()``), which
            find files under the same paths. It is not shut down.
        manifest: file to which a line is appended for each conversion, see :mod:`dpnn_bridge.batch.manifest`.
        force: convert again if the output exists. Otherwise a task is skipped if its output is complete and was
            converted from the same input with the same options, and fails for any other existing file.
        **options: options of :func:`dpnn_bridge.files.convert`.

    Raises:
        OptionError: two different tasks write the same file, or a task writes the manifest.
    """
    log = None if manifest is None else Manifest(manifest)
    key = options.get("key")
    tasks = [task if key is None or task.key is not None else replace(task, key=key) for task in tasks]
    if options.get("max_shard_size") is not None:
        tasks = [replace(task, target=_index_of(task.target, to)) for task in tasks]
    # a task may be listed twice: the second one finds the output of the first
    targets = {(absolute(t.source), absolute(t.target), repr(t.key)): location_of(t.target) for t in tasks}
    check_distinct(log and Path(os.path.realpath(log.path)), *targets.values())
    task_options: dict[str, Any] = {name: value for name, value in options.items() if name != "key"}
    task_options |= {"to": to, "force": force, "checksum": log is not None}
    calls = [(task, log and log.equal(absolute(task.target))) for task in tasks]
    if executor is not None:
        outcomes = _run_in(executor, calls, task_options)
    elif jobs <= 1 or len(tasks) <= 1:
        outcomes = _run_sequentially(calls, task_options)
    else:
        outcomes = _run_in_workers(calls, min(jobs, len(tasks)), task_options)
    missing = _missing_folders(tasks)
    try:
        for outcome in outcomes:
            listed = log and _is_line_of(log.of(absolute(outcome.task.target)), outcome)
            if log is not None and not (outcome.status == "skipped" and listed):
                log.add(outcome.to_line())
            yield outcome
    finally:  # remove new folders whose outputs all failed
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()


def _index_of(target: Location, to: str | None) -> Location:
    """Return the index to which shards are written; a target that cannot have shards is refused later."""
    from dpnn_bridge.outputs.formats import suffix_of

    try:
        suffix = suffix_of(target, to)
    except ConversionError:
        return target
    if suffix != ".safetensors":
        return target
    return index_of(target) if isinstance(target, str) else Path(index_of(target))


def _missing_folders(tasks: Iterable[Task]) -> list[Path]:
    """Return the folders that the outputs need and that do not exist, the innermost first."""
    folders = {folder for task in tasks if isinstance(task.target, Path) for folder in task.target.parents}
    return sorted((f for f in folders if not os.path.exists(f)), key=lambda f: len(f.parts), reverse=True)


@checks_arguments
def run_one(task: Task, line: Line | None = None, **options: Any) -> Outcome:
    """Run one conversion. An error is not raised but returned as an outcome with the status ``"failed"``.

    Args:
        task: the conversion.
        line: the manifest's line of the last successful conversion to the target of the task.
        **options: options of :func:`dpnn_bridge.files.convert`.
    """
    started = time.perf_counter()
    try:
        outcome = _run_one(task, line, options)
    except DpnnBridgeError as e:
        outcome = Outcome(task, "failed", str(e), e.exit_code)
    except Exception as e:  # an error in one file must not stop the batch
        outcome = Outcome(task, "failed", f"{type(e).__name__}: {e}", 1)
    outcome.seconds = time.perf_counter() - started
    return outcome


def _run_one(task: Task, line: Line | None, options: dict[str, Any]) -> Outcome:
    from dpnn_bridge.files.converting import convert

    if not options.get("force"):
        exists = url_exists(task.target) if isinstance(task.target, str) else os.path.lexists(task.target)
        if exists:
            return _outcome_of_existing(task, line, options)
    try:
        if isinstance(task.target, Path):
            _make_folder(task.target.parent)
        report = convert(task.source, task.target, key=task.key, **options)
    except OutputExistsError:  # another process has written the output in the meantime
        return _outcome_of_existing(task, line, options)
    facts = {
        "modules": report.metadata.get("modules", 0),  # no entry for a file that was converted as data
        "parameters": report.metadata["parameters"],
        "unsupported": len(report.unsupported),
    }
    checksums = _checksums(report.metadata["origin"], report.metadata["written"]) if options.get("checksum") else {}
    return Outcome(task, "converted", facts=facts, checksums=checksums)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # a file has this name, or the parent folder is read-only
        raise OutputError(f"cannot create the folder {folder}: {error.strerror}; name another folder") from error


def _outcome_of_existing(task: Task, line: Line | None, options: dict[str, Any]) -> Outcome:
    """Return the outcome of a task whose target exists."""
    from dpnn_bridge.files.converting import has_converted_content, in_effect, is_converted
    from dpnn_bridge.files.source_cache import checksum_once
    from dpnn_bridge.loaders.origin import local_file
    from dpnn_bridge.outputs.options import ConvertOptions, origin_text

    is_file = isinstance(task.target, str) or os.path.isfile(task.target)  # a string is a remote address
    checksums: dict[str, Any] = {}
    if is_file and options.get("checksum"):
        with local_file(task.source) as source:
            chosen = in_effect(ConvertOptions.of({"key": task.key, **_result_options(options)}))
            origin = origin_text(checksum_once(source), chosen)
        checksums = _checksums(origin, _target_checksum(task.target))
    inputs = {name: value for name, value in checksums.items() if name != "target_sha256"}
    has_checksum = bool(inputs.get("arguments"))  # a function among the options has no checksum
    same_inputs = has_checksum and line is not None and inputs.items() <= line.items()
    edited = bool(checksums) and line is not None and checksums["target_sha256"] != line.get("target_sha256")
    if edited and not _stores_origin(task.target, options):  # its origin, if it has one, may be that before the edit
        result_options = {"to": options.get("to"), "key": task.key, **_result_options(options)}
        up_to_date = has_converted_content(task.source, task.target, **result_options)
    elif same_inputs:
        up_to_date = not edited
    else:
        up_to_date = is_file and is_converted(task.source, task.target, key=task.key, **options)
    if up_to_date:
        return Outcome(task, "skipped", checksums=checksums)
    reason = "exists and is not known to be the result of this input with these options"
    message = f"{task.target} {reason}; use --force (force=True) to replace it"
    return Outcome(task, "failed", message, OutputExistsError.exit_code)


def _stores_origin(target: Location, options: dict[str, Any]) -> bool:
    """Return whether a target always contains the checksum of its source, and is not compared with a new conversion."""
    from dpnn_bridge.outputs.writing import target_of

    return target_of(target, options.get("to"), options.get("max_shard_size"))[1].origin_beside


def _result_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that change the output."""
    return {name: value for name, value in options.items() if name not in ("to", "force", "checksum")}


def _target_checksum(target: Location) -> str:
    """Return the checksum of an existing target, or an empty string if one of its shards is missing."""
    from dpnn_bridge.loaders.origin import local_file

    try:
        with local_file(target, unpack=False) as file:
            return checksum_of(file.path)
    except MissingFileError:
        return ""


def _checksums(origin: str, written: str) -> dict[str, Any]:
    # origin is sha256:INPUT-OPTIONS
    source, _, arguments = origin.partition(":")[2].partition("-")
    return {"sha256": source, "arguments": arguments, "target_sha256": written}


def _is_line_of(line: Line | None, outcome: Outcome) -> bool:
    """Return whether a manifest's line describes the same successful conversion as an outcome."""
    described = outcome.to_line()
    names = ("source", "key", "verdict", *outcome.checksums)
    return line is not None and all(line.get(name) == described[name] for name in names)


Call = tuple[Task, Line | None]


def _run_in(executor: Executor, calls: Sequence[Call], options: dict[str, Any]) -> Iterator[Outcome]:
    futures = {}
    try:
        for task, line in calls:
            remote = replace(task, source=location_of(absolute(task.source)), target=location_of(absolute(task.target)))
            try:
                futures[executor.submit(run_one, remote, line, **options)] = task
            except Exception as e:  # for example if an option cannot be pickled
                yield Outcome(task, "failed", failure_message(e), 1)
        for future in as_completed(futures):
            try:
                outcome = replace(future.result(), task=futures[future])
            except Exception as e:  # a worker died, or returned no outcome, as one of another version may
                outcome = Outcome(futures[future], "failed", failure_message(e), 1)
            yield outcome
    finally:
        for future in futures:
            future.cancel()


def _run_sequentially(calls: Iterable[Call], options: dict[str, Any]) -> Iterator[Outcome]:
    from dpnn_bridge.files.source_cache import SourceCache, using_cache

    cache = SourceCache()
    for task, line in calls:
        with using_cache(cache):
            outcome = run_one(task, line, **options)
        yield outcome


def _run_in_workers(calls: Sequence[Call], jobs: int, options: dict[str, Any]) -> Iterator[Outcome]:
    for name, value in options.items():
        try:
            pickle.dumps(value)
        except Exception as e:
            raise OptionError(f"run: argument {name}: cannot be pickled for other processes ({e}); pass jobs=1") from e
    for call, result in run_in_workers(partial(_run_in_worker, **options), calls, jobs):
        task: Task = call[0]
        if isinstance(result, Outcome):
            yield replace(result, task=task)
            continue
        if isinstance(result, BrokenProcessPool) and isinstance(task.target, Path):
            remove_abandoned(task.target.parent)
        yield Outcome(task, "failed", failure_message(result), 1)


def _run_in_worker(task: Task, line: Line | None, **options: Any) -> Outcome:
    """Run one conversion in a worker process. Outputs cannot replace Python files that the process has imported."""
    from dpnn_bridge.files.source_cache import using_cache

    with protecting(imported_files), using_cache(_cache_of_process()):
        return run_one(task, line, **options)


@cache
def _cache_of_process() -> SourceCache:
    from dpnn_bridge.files.source_cache import SourceCache

    return SourceCache()
