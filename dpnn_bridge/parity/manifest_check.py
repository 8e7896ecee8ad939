"""Verify the targets of a manifest: each is unchanged since it was written, and equals its source.

A manifest is data, and data must not select a program to run. Unless the user trusts the manifest, its lines may
contain only local files in data formats. Nothing is downloaded, run or passed to another program. Fields for plugins
or Lua files are ignored.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, as_completed
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from dpnn_bridge.base.arguments import checks_arguments
from dpnn_bridge.base.atomic import StrPath
from dpnn_bridge.base.boundary import as_package_error
from dpnn_bridge.base.display import shortened
from dpnn_bridge.base.reading import file_status
from dpnn_bridge.base.remote import Location, location_of
from dpnn_bridge.base.shards import checksum_of
from dpnn_bridge.batch.executors import failure_message, run_in_workers
from dpnn_bridge.batch.manifest import Line, last_lines
from dpnn_bridge.conversion.options import Options
from dpnn_bridge.errors import DpnnBridgeError, MissingFileError, T7Error, VerificationError
from dpnn_bridge.files import classes_in_lua
from dpnn_bridge.loaders.origin import local_file
from dpnn_bridge.outputs.formats import is_data_file
from dpnn_bridge.parity.data import verify_model_or_data
from dpnn_bridge.parity.verify import verify
from dpnn_bridge.plugins import load_plugins

#: verdicts in addition to :class:`~dpnn_bridge.compare.verdict.Verdict`
FAILED, MISSING, REFUSED = "failed", "missing", "refused"


@dataclass
class Checked:
    """The result of one line of a manifest.

    Attributes:
        source, target, key: fields of the line.
        verdict: verdict of the comparison of target and source; ``"failed"`` if the conversion failed, ``"missing"``
            if a file is missing, ``"different"`` if a file has changed since the conversion, ``"refused"`` if only a
            trusted manifest may name this file.
        message: description of the error, or empty.
        ok: whether source and target were compared and are equal.
    """

    source: str
    target: str
    key: str | None
    verdict: str
    message: str = ""
    ok: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class ClassOptions:
    """The arguments of :func:`check_manifest` that define the conversion; pickled for worker processes."""

    plugins: tuple[str, ...] = ()
    lua: Any = None
    sandbox: bool | Literal["partial"] = False
    allow_unsupported: bool = False
    index_base: Literal[0, 1] = 1

    def options(self) -> Options:
        """Return the options of the conversion, with a Lua bridge in this process."""
        own = classes_in_lua(self.lua, self.sandbox)
        return Options(index_base=self.index_base, allow_unsupported=self.allow_unsupported, **own)


@checks_arguments
def check_manifest(
    path: str | Path,
    *,
    jobs: int = 1,
    executor: Executor | None = None,
    plugins: Sequence[StrPath] = (),
    lua: Any = None,
    sandbox: bool | Literal["partial"] = False,
    allow_unsupported: bool = False,
    index_base: Literal[0, 1] = 1,
    trusted: bool = False,
) -> Iterator[Checked]:
    """Check every target of a manifest; yield each result when its check ends.

    Args:
        path: the manifest.
        jobs: number of processes.
        executor: executor to use instead, see :func:`dpnn_bridge.batch.run`.
        plugins: Python files that register classes.
        lua: Lua files that define classes; in this process also a :class:`~dpnn_bridge.lua.LuaBridge`.
        sandbox: whether to run these Lua files in a process that can only compute.
        allow_unsupported: whether to convert unknown classes to placeholders.
        index_base: value of ``index_base`` with which the targets were converted.
        trusted: whether the manifest is trusted. Its lines may contain URLs, which are downloaded, ``.onnx`` and
            ``.pt2`` files, which other programs read, and ``.py`` files, which are run. By default such lines are
            refused.

    Raises:
        T7FormatError: the file is not a manifest.
        NotT7Error: the path is not a regular file.
    """
    lines = last_lines(Path(path)).values()
    classes = ClassOptions(tuple(os.fspath(plugin) for plugin in plugins), lua, sandbox, allow_unsupported, index_base)
    folder = None if trusted else os.path.realpath(os.path.dirname(os.path.abspath(path)))
    calls = [(line, classes, folder) for line in lines]
    if executor is not None:
        futures = {executor.submit(check_line, *call): call for call in calls}
        results = ((futures[future], _result_of(future)) for future in as_completed(futures))
    elif jobs > 1 and len(calls) > 1:
        results = run_in_workers(check_line, calls, min(jobs, len(calls)))
    else:
        results = ((call, check_line(*call)) for call in calls)
    for (line, *_), result in results:
        yield result if isinstance(result, Checked) else _result(line, FAILED, failure_message(result))


def _result_of(future: Future[Checked]) -> Checked | Exception:
    try:
        return future.result()
    except Exception as error:
        return error


def check_line(line: Line, classes: ClassOptions, folder: str | None = None) -> Checked:
    """Check one line of a manifest.

    Args:
        line: the line.
        classes: options of the conversion.
        folder: folder of the manifest; None if the manifest is trusted.
    """
    try:
        locations = _locations(line, folder)
    except (DpnnBridgeError, OSError, ValueError) as e:
        return _fault(line, e)
    if isinstance(locations, Checked):
        return locations
    load_plugins(classes.plugins)
    options = classes.options()
    try:
        with ExitStack() as stack:
            paths = []
            for name, checksum in (("source", "sha256"), ("target", "target_sha256")):
                file = stack.enter_context(local_file(locations[name], unpack=name == "source"))
                if not isinstance(line.get(checksum), str):
                    return _result(line, "different", f"the line has no {checksum}")
                if checksum_of(file.path) != line[checksum]:
                    return _result(line, "different", f"{line[name]} has changed since the conversion")
                paths.append(file.path)
            return _compare(line, paths[0], paths[1], classes, options)
    except (DpnnBridgeError, OSError, ValueError) as e:
        return _fault(line, e)


def _locations(line: Line, folder: str | None) -> dict[str, Location] | Checked:
    """Return the paths or URLs of a line's files, or the result if the files must not or cannot be read."""
    if line["verdict"] == FAILED:
        message = line.get("message")
        return _result(line, FAILED, message if isinstance(message, str) else "")
    if folder is not None and (reason := _refusal_reason(line, folder)):
        return _result(line, REFUSED, reason)
    locations = {name: location_of(line[name]) for name in ("source", "target")}
    for location in locations.values():  # before the source is downloaded
        if not isinstance(location, str) and not _is_file(location):
            return _result(line, MISSING, f"{location} is missing")
    return locations


def _is_file(path: Path) -> bool:
    """Return whether a path is a file. Unlike ``os.path.isfile``, raise an error if the folder cannot be searched."""
    try:
        return stat.S_ISREG(file_status(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _fault(line: Line, error: Exception) -> Checked:
    """Return the result of a line whose files cannot be read or compared."""
    if isinstance(error, MissingFileError):
        return _result(line, MISSING, str(error))
    if isinstance(error, DpnnBridgeError):
        return _result(line, "different" if isinstance(error, VerificationError) else FAILED, str(error))
    # for example a disk error or an invalid file name
    return _result(line, FAILED, str(as_package_error(error, T7Error, "reading the files")))


def _refusal_reason(line: Line, folder: str) -> str:
    """Return the reason why a line of an untrusted manifest is refused; empty if it is accepted."""
    for name in (line["source"], line["target"]):
        if "://" in name or name[:2] in ("//", "\\\\"):
            reason = f"{shortened(name)} is not a local file"
        elif not os.path.isabs(name) and not _is_below(os.path.realpath(name), folder):
            reason = f"{shortened(name)}, relative to the working directory, is outside the folder of the manifest"
        else:
            continue
        return f"{reason}; {_ADVICE}"
    suffix = Path(line["target"]).suffix
    if not is_data_file(line["target"]):
        return f"a {suffix or 'file without suffix'} contains a program or is read by another program; {_ADVICE}"
    return ""


_ADVICE = "if you wrote the manifest, check it with trusted=True (--trust-manifest)"


def _is_below(path: str, folder: str) -> bool:
    return os.path.commonpath([path, folder]) == folder


def _compare(line: Line, source: Path, target: Path, classes: ClassOptions, options: Options) -> Checked:
    """Compare the target of a line with its source."""
    key = line.get("key")
    verify_model = partial(verify, source, target, key=key, options=options)
    result = verify_model_or_data(verify_model, source, target, key=key, lua=classes.lua, sandbox=classes.sandbox)
    if isinstance(result, str):
        text = f"the data differs from the source: {result}" if result else ""
        return _result(line, "different" if result else "equal", text, not result)
    verdict = "equal" if result.verdict is None else result.verdict.value
    failed = next((f"{d.name}: {d.message}" for d in result.differences if not d.ok), "")
    return _result(line, verdict, failed, result.ok)


def _result(line: Line, verdict: str, message: str, ok: bool = False) -> Checked:
    key = line.get("key")  # of any type, as the manifest may come from anybody
    return Checked(line["source"], line["target"], key if isinstance(key, str) else None, verdict, message, ok)
