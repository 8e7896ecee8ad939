"""Where a module differs from Torch7 on purpose: a JSON file beside the fixtures that says where and why.

    [{"files": ["SparseLinear__*"], "compared": ["gradInput*"], "reason": "Torch7 returns a dense gradient"}]

A comparison that fails and is named there counts as known: it is reported with its reason and is no failure. All
others are compared as strictly as ever.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpnn_bridge.compare.verdict import Verdict

if TYPE_CHECKING:
    from dpnn_bridge.compare.differences import Difference


@dataclass(frozen=True)
class KnownDifference:
    """One entry of the file.

    Attributes:
        files: patterns (``*``, ``?``) of the names of fixture files, without folder and suffix.
        compared: patterns of the names of comparisons, such as ``gradInput*``.
        reason: why they differ.
    """

    files: tuple[str, ...]
    compared: tuple[str, ...]
    reason: str

    def covers(self, file: str, comparison: str) -> bool:
        """Whether a comparison of a fixture is one that may differ."""
        return any(fnmatchcase(file, p) for p in self.files) and any(fnmatchcase(comparison, p) for p in self.compared)


def read_known_differences(path: str | os.PathLike[str]) -> list[KnownDifference]:
    """Reads the file.

    Raises:
        ValueError: it is no JSON list of objects with ``files``, ``compared`` and ``reason``.
        OSError: it cannot be read.
    """
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from None
    if not isinstance(entries, list):
        raise ValueError(f"{os.fspath(path)}: expected a list of entries")
    return [_entry(entry, f"{os.fspath(path)}: entry {i}") for i, entry in enumerate(entries, 1)]


def _entry(entry: Any, place: str) -> KnownDifference:
    if not isinstance(entry, dict) or entry.keys() != {"files", "compared", "reason"}:
        raise ValueError(f"{place}: expected an object with files, compared and reason")
    for name in ("files", "compared"):
        if not isinstance(entry[name], list) or not all(isinstance(p, str) for p in entry[name]):
            raise ValueError(f"{place}: {name} must be a list of patterns")
    if not isinstance(entry["reason"], str) or not entry["reason"].strip():
        raise ValueError(f"{place}: the reason is missing")
    return KnownDifference(tuple(entry["files"]), tuple(entry["compared"]), entry["reason"])


def mark_known(differences: Iterable[Difference], known: Sequence[KnownDifference], file: str) -> None:
    """Excuses each failed comparison that is a known one, with its reason.

    Args:
        differences: comparisons of one fixture.
        known: what may differ.
        file: name of the fixture's file, without folder and suffix.
    """
    for difference in differences:
        if not difference.ok and (entry := next((k for k in known if k.covers(file, difference.name)), None)):
            difference.excuse, difference.reason = Verdict.KNOWN, entry.reason


def known_reasons(differences: Iterable[Difference]) -> dict[str, list[str]]:
    """``reason -> names of the comparisons`` that are known to differ and do."""
    found: dict[str, list[str]] = {}
    for difference in differences:
        if difference.verdict is Verdict.KNOWN:
            found.setdefault(difference.reason, []).append(difference.name)
    return found
