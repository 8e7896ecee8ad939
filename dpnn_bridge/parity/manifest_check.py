"""Checks what a manifest says: each target is what was written, and the same model as the source that is there."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, as_completed
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dpnn_bridge.base.remote import place_of
from dpnn_bridge.base.shards import checksum_of
from dpnn_bridge.base.suffixes import INDEX
from dpnn_bridge.errors import DpnnBridgeError, ModelNotFoundError, NotT7Error, VerificationError
from dpnn_bridge.executors import why_lost
from dpnn_bridge.files import is_converted
from dpnn_bridge.loaders.origin import local_file
from dpnn_bridge.manifest import Line, last_lines
from dpnn_bridge.parity.verify import verify
from dpnn_bridge.plugins import load_plugins

#: verdicts beside those of :class:`~dpnn_bridge.compare.verdict.Verdict`
FAILED, MISSING = "failed", "missing"


@dataclass
class Checked:
    """What became of one line of a manifest.

    Attributes:
        source, target, key: as in the line.
        verdict: that of comparing the target with its source; ``"failed"`` where the conversion did, ``"missing"``
            where one of the files is not there, ``"different"`` where one is another than in the line.
        message: what is wrong.
        ok: whether nothing is.
    """

    source: str
    target: str
    key: str | None
    verdict: str
    message: str = ""
    ok: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def check_manifest(
    path: str | Path, *, executor: Executor | None = None, plugins: tuple[str, ...] = ()
) -> Iterator[Checked]:
    """Checks every target of a manifest; yields results as they come.

    Args:
        path: the manifest.
        executor: what runs the checks, see :func:`dpnn_bridge.batch.run`; default: this process.
        plugins: Python files that register classes.

    Raises:
        T7FormatError: it is no manifest.
    """
    lines = last_lines(Path(path)).values()
    if executor is None:
        yield from (check_line(line, plugins) for line in lines)
        return
    futures = {executor.submit(check_line, line, plugins): line for line in lines}
    for future in as_completed(futures):
        try:
            yield future.result()
        except Exception as e:
            yield _checked(futures[future], FAILED, why_lost(e))


def check_line(line: Line, plugins: tuple[str, ...] = ()) -> Checked:
    """Checks one line of a manifest."""
    if line["verdict"] == FAILED:
        return _checked(line, FAILED, line.get("message", ""))
    load_plugins(plugins)
    try:
        with ExitStack() as stack:
            paths = []
            for name, checksum in (("source", "sha256"), ("target", "target_sha256")):
                file = stack.enter_context(local_file(place_of(line[name]), unpack=name == "source"))
                if not file.path.is_file():
                    return _checked(line, MISSING, f"{line[name]} is not there")
                if checksum_of(file.path) != line.get(checksum):
                    return _checked(line, "different", f"{line[name]} is not what it was when it was converted")
                paths.append(file.path)
            return _compared(line, *paths)
    except NotT7Error as e:
        return _checked(line, MISSING, str(e))
    except DpnnBridgeError as e:
        return _checked(line, "different" if isinstance(e, VerificationError) else FAILED, str(e))


def _compared(line: Line, source: Path, target: Path) -> Checked:
    try:
        if target.suffix == ".json" and not target.name.endswith(INDEX):
            raise ModelNotFoundError("data")
        result = verify(source, target, key=line.get("key"))
    except ModelNotFoundError:  # data
        same = is_converted(source, target, key=line.get("key"))
        return _checked(line, "equal" if same else "different", "" if same else "the source gives other data now", same)
    verdict = "equal" if result.verdict is None else result.verdict.value
    failed = next((f"{d.name}: {d.message}" for d in result.differences if not d.ok), "")
    return _checked(line, verdict, failed, result.ok)


def _checked(line: Line, verdict: str, message: str, ok: bool = False) -> Checked:
    return Checked(line["source"], line["target"], line.get("key"), verdict, message, ok)
