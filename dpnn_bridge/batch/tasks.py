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
from dpnn_bridge.base.file_set import FileSet
from dpnn_bridge.base.remote import Place, absolute, beside, listed, place_of, without_query
from dpnn_bridge.base.shards import LONGEST_NAME
from dpnn_bridge.base.suffixes import INDEX
from dpnn_bridge.errors import OutputError, OutputExistsError


@dataclass(frozen=True)
class Task:
    """One conversion.

    Attributes:
        source, target: the files, or their URLs.
        key: path of the model in ``source``; None: it is detected.
    """

    source: Place
    target: Place
    key: str | None = None


@checks_arguments
def tasks_for(sources: Sequence[Place], out_dir: Place, suffix: str) -> list[Task]:
    """Return one task per file; outputs keep the names of the sources, and the folders below their common parent.

    Args:
        sources: paths and URLs; one with ``*`` matches files, unless a file has that name.
        out_dir: a folder, or the URL of one.
        suffix: of the outputs.

    Raises:
        OutputError: two sources would have one output, or one would be written over another or outside the folder.
    """
    sources = [found for s in sources for found in (listed(s) if isinstance(s, str) else _fitting(s))]
    out_dir = place_of(out_dir)
    # links keep their names: those of a cache lead to checksums
    places = [_split_url(s) if isinstance(s, str) else _split_path(s) for s in sources]
    parents: dict[str, list[str]] = {}
    for store, place in places:
        parents.setdefault(store, []).append(str(place.parent))
    common = {store: os.path.commonpath(found) for store, found in parents.items()}
    targets: dict[Place, Place] = {}
    for source, (store, place) in zip(sources, places, strict=True):
        stem = place.name if place.suffix[1:].isdigit() else place.stem  # model_1.5 is no file of type 5
        below = place.relative_to(common[store]).with_name(stem + suffix)
        if ".." in below.parts:
            raise OutputError(f"{source} would be written outside of {out_dir}")
        target = f"{out_dir.rstrip('/')}/{below.as_posix()}" if isinstance(out_dir, str) else out_dir / below
        first = targets.setdefault(target, source)
        if absolute(first) != absolute(source):
            raise OutputExistsError(f"{source} and {first} would both be written to {target}")
    _check_targets(targets, sources)
    return [Task(source, target) for target, source in targets.items()]


@checks_arguments
def tasks_for_models(source: Place, target: Place, keys: Sequence[str]) -> list[Task]:
    """Return one task per model of one file: ``out.pt`` and key ``protos.rnn`` give ``out.protos.rnn.pt``.

    Keys that would give the same name, or one that no file can have, get another.
    """
    tasks: dict[str, Task] = {}
    name = PurePosixPath(target).name
    suffix = INDEX if name.endswith(INDEX) else PurePosixPath(name).suffix
    stem = name.removesuffix(suffix)
    last: dict[str, int] = {}
    for key in keys:
        room = LONGEST_NAME - len(os.fsencode(f"{stem}.{suffix}"))
        name = _file_name(key, room)
        first = name.casefold()
        while name.casefold() in tasks:
            number = last[first] = last.get(first, 1) + 1
            name = f"{_file_name(key, room - len(str(number)) - 1)}-{number}"
        tasks[name.casefold()] = Task(source, beside(target, f"{stem}.{name}{suffix}"), key)
    _check_targets([task.target for task in tasks.values()], [source])
    return list(tasks.values())


def _fitting(path: Path) -> list[Path]:
    """Return the files that match a pattern, if the shell has not expanded it; otherwise the path itself."""
    if os.path.lexists(path) or not glob.has_magic(os.fspath(path)):
        return [path]
    return sorted(map(Path, glob.glob(os.fspath(path), recursive=True))) or [path]


def _split_url(url: str) -> tuple[str, PurePath]:
    """Return the store of a URL, and the path in it."""
    store = url.partition("://")[0]
    return store, PurePosixPath("/", without_query(url).partition("://")[2])


def _split_path(path: Path) -> tuple[str, PurePath]:
    """Return the drive of a file, empty if there is none, and its whole path."""
    whole = PurePath(os.path.abspath(path))
    return whole.drive, whole


def _check_targets(targets: Iterable[Place], sources: Sequence[Place]) -> None:
    inputs = FileSet(source for source in sources if isinstance(source, Path))
    for target in targets:
        if isinstance(target, Path) and os.path.isfile(target):
            check_output(target, True, inputs)


def _file_name(key: str, room: int) -> str:
    """Return the part of a file name that represents a key: its letters, digits and a few signs, in so many bytes."""
    name = key.replace("][", ".").strip("[]").replace("[", ".").replace("]", "").replace("'", "")
    name = re.sub(r"[^\w.+=@-]", "_", name.encode("utf-8", "replace").decode())
    return os.fsencode(name or "model")[: max(room, 1)].decode("utf-8", "ignore")
