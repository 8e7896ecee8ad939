"""Name the outputs of many conversions."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath

from dpnn_bridge.base.arguments import checks_arguments
from dpnn_bridge.base.atomic import check_output
from dpnn_bridge.base.file_set import FileSet, folded
from dpnn_bridge.base.remote import (
    Location,
    absolute,
    beside,
    input_place,
    listed,
    location_of,
    url_place,
    with_star_only,
    without_query,
)
from dpnn_bridge.base.shards import LONGEST_NAME, new_generation, shard_names
from dpnn_bridge.base.suffixes import INDEX
from dpnn_bridge.errors import MissingFileError, OutputError, OutputExistsError


@dataclass(frozen=True)
class Task:
    """One conversion.

    Attributes:
        source, target: paths or URLs of the input and the output.
        key: path of the model in ``source``; None: the model is detected.
    """

    source: Location
    target: Location
    key: str | None = None

    def __post_init__(self) -> None:
        for name in ("source", "target"):  # a text without a protocol is a path
            object.__setattr__(self, name, location_of(getattr(self, name)))


@checks_arguments
def tasks_for(sources: Sequence[Location], out_dir: Location, suffix: str) -> list[Task]:
    """Return one task per file. Outputs keep the names of the sources and their folders below the common parent.

    Args:
        sources: paths, URLs, or patterns with ``*``. A name with ``*`` is not a pattern if a file has this name.
        out_dir: path or URL of a folder.
        suffix: suffix of the outputs, such as ``.pt``.

    Raises:
        MissingFileError: no file matches a text.
        OutputError: two sources would have the same output, or an output would replace a source or be outside
            ``out_dir``.
    """
    sources = [found for source in sources for found in _expanded(source)]
    out_dir = location_of(out_dir)
    # symbolic links are not resolved: links in a download cache refer to files that are named by a checksum
    paths = [_split_url(s) if isinstance(s, str) else _split_path(s) for s in sources]
    parents: dict[str, list[str]] = {}
    for store, path in paths:
        parents.setdefault(store, []).append(str(path.parent))
    common = {store: os.path.commonpath(found) for store, found in parents.items()}
    targets: dict[Location, Location] = {}
    for source, (store, path) in zip(sources, paths, strict=True):
        stem = path.name if path.suffix[1:].isdigit() else path.stem  # ".5" of "model_1.5" is not a suffix
        relative = path.relative_to(common[store]).with_name(stem + suffix)
        if ".." in relative.parts:
            raise OutputError(f"{source} would be written outside of {out_dir}")
        target = f"{out_dir.rstrip('/')}/{relative.as_posix()}" if isinstance(out_dir, str) else out_dir / relative
        first = targets.setdefault(target, source)
        if absolute(first) != absolute(source):
            raise OutputExistsError(f"{source} and {first} would both be written to {target}")
    _check_targets(targets, sources)
    return [Task(source, target) for target, source in targets.items()]


@checks_arguments
def tasks_for_models(source: Location, target: Location, keys: Sequence[str]) -> list[Task]:
    """Return one task per model of one file: ``out.pt`` and key ``protos.rnn`` give ``out.protos.rnn.pt``.

    A key whose file name would be invalid or a duplicate gets another file name.
    """
    tasks: dict[str, Task] = {}
    target = location_of(target)
    name = PurePosixPath(target).name
    suffix = INDEX if name.endswith(INDEX) else PurePosixPath(name).suffix
    stem = name.removesuffix(suffix)
    # the names of shards are longer than that of their index
    longest = shard_names(Path(suffix), 1, new_generation())[0] if suffix == INDEX else suffix
    last: dict[str, int] = {}
    for key in keys:
        available = LONGEST_NAME - len(os.fsencode(f"{stem}.{longest}"))
        name = _file_name(key, available)
        first = folded(name)
        while folded(name) in tasks:
            number = last[first] = last.get(first, 1) + 1
            name = f"{_file_name(key, available - len(str(number)) - 1)}-{number}"
        tasks[folded(name)] = Task(source, beside(target, f"{stem}.{name}{suffix}"), key)
    _check_targets([task.target for task in tasks.values()], [source])
    return list(tasks.values())


def _expanded(source: Location) -> Sequence[Location]:
    """Return the files that match a pattern that the shell has not expanded, or the path of an existing file.

    In a text only ``*`` is special, as in a URL.
    """
    location = location_of(source)
    if isinstance(location, str):
        return listed(location)
    if os.path.lexists(location):
        return [location]
    pattern = with_star_only(str(location)) if isinstance(source, str) else str(location)
    found = sorted(Path(p) for p in glob.glob(pattern, recursive=True) if not os.path.isdir(p))
    if not found and isinstance(source, str) and "*" in source:
        raise MissingFileError(f"{source}: no file matches")
    return found or [location]


def _split_url(url: str) -> tuple[str, PurePath]:
    """Return the protocol of a URL, and the path after the protocol."""
    store = url.partition("://")[0]
    return store, PurePosixPath("/", without_query(url).partition("://")[2])


def _split_path(path: Path) -> tuple[str, PurePath]:
    """Return the drive of a file (empty except on Windows) and its absolute path."""
    absolute_path = PurePath(os.path.abspath(path))
    return absolute_path.drive, absolute_path


def _check_targets(targets: Iterable[Location], sources: Sequence[Location]) -> None:
    inputs = FileSet(filter(None, map(input_place, sources)))
    for target in targets:
        if url_place(target) in inputs.urls if isinstance(target, str) else os.path.isfile(target):
            check_output(target, True, inputs)


def _file_name(key: str, max_bytes: int) -> str:
    """Return a key as part of a file name: its letters, digits and some symbols, shortened to ``max_bytes`` bytes."""
    name = key.replace("][", ".").strip("[]").replace("[", ".").replace("]", "").replace("'", "")
    name = re.sub(r"[^\w.+=@-]", "_", name.encode("utf-8", "replace").decode())
    return os.fsencode(name or "model")[: max(max_bytes, 1)].decode("utf-8", "ignore")
