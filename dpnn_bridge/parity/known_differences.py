"""Read and apply lists of known differences from Torch7: JSON files beside the fixtures.

    [{"files": ["SparseLinear__*"], "compared": ["gradInput*"], "reason": "Torch7 returns a dense gradient"}]

A comparison that fails and is listed counts as known: it is reported with its reason and is not a failure. All
other comparisons are unaffected. An entry may describe the difference, and then applies only to that difference:

    "message": "Torch7 refused this call (*SpatialDropout.lua:37*"
    "measured": {"Kmeans__scale gradParams[1]": {"expected": -0.584, "found": -0.292, "snr": 6.02}}
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from dpnn_bridge.base.regular import read_file
from dpnn_bridge.errors import T7LimitError
from dpnn_bridge.parity.accepted import accept_known, known_reasons

__all__ = ["KnownDifference", "known_reasons", "mark_known", "read_known_differences"]

if TYPE_CHECKING:
    from dpnn_bridge.compare.differences import Difference

#: required fields of an entry
NEEDED = {"files", "compared", "reason"}
#: comparisons of patterns with names that are made for one file
_MOST_MATCHES = 1 << 20


@dataclass(frozen=True)
class Measured:
    """The distance of two tensors: any other value on either side changes one of these numbers.

    Attributes:
        expected, found: the values where they differ most.
        snr: signal-to-noise ratio in dB, over all elements.
    """

    expected: float
    found: float
    snr: float

    def is_that_of(self, difference: Difference) -> bool:
        """Return whether a comparison found this difference, up to rounding."""
        return all(_same(a, getattr(difference, name)) for name, a in vars(self).items())


def _same(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-8, abs_tol=1e-12) or (math.isnan(a) and math.isnan(b))


@dataclass(frozen=True)
class KnownDifference:
    """One entry of the file.

    Attributes:
        files: patterns (``*``, ``?``) of the names of fixture files, without folder and suffix.
        compared: patterns of the names of comparisons, such as ``gradInput*``.
        reason: why they differ.
        message: pattern of the message of the comparison; empty for any.
        measured: ``"file comparison"`` -> the difference there; empty for any.
    """

    files: tuple[str, ...]
    compared: tuple[str, ...]
    reason: str
    message: str = ""
    measured: Mapping[str, Measured] = field(default_factory=dict)

    def applies_to(self, file: str) -> bool:
        """Return whether the entry is one of a fixture."""
        return any(fnmatchcase(file, pattern) for pattern in self.files)

    def covers(self, file: str, difference: Difference) -> bool:
        """Return whether a failed comparison of a fixture that the entry applies to differs as it may."""
        if not any(fnmatchcase(difference.name, pattern) for pattern in self.compared):
            return False
        if not fnmatchcase(difference.message, self.message or "*"):
            return False
        measured = self.measured.get(f"{file} {difference.name}")
        return not self.measured or (measured is not None and measured.is_that_of(difference))


def read_known_differences(path: str | os.PathLike[str]) -> list[KnownDifference]:
    """Read the file.

    Raises:
        ValueError: the file is not a JSON list of objects with ``files``, ``compared`` and ``reason``.
        NotT7Error: it cannot be read.
    """
    try:
        entries = json.loads(read_file(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{os.fspath(path)}: expected a list of entries as JSON: {error}") from None
    if not isinstance(entries, list):
        raise ValueError(f"{os.fspath(path)}: expected a list of entries")
    return [_entry(entry, f"{os.fspath(path)}: entry {i}") for i, entry in enumerate(entries, 1)]


def _entry(entry: Any, place: str) -> KnownDifference:
    if not isinstance(entry, dict) or not NEEDED <= entry.keys() <= NEEDED | {"message", "measured"}:
        raise ValueError(
            f"{place}: expected an object with files, compared and reason, and optionally message or measured"
        )
    for name in ("files", "compared"):
        if not isinstance(entry[name], list) or not all(isinstance(p, str) for p in entry[name]):
            raise ValueError(f"{place}: {name} must be a list of patterns")
    if not isinstance(entry["reason"], str) or not entry["reason"].strip():
        raise ValueError(f"{place}: the reason is missing")
    message, measured = entry.get("message", ""), entry.get("measured", {})
    if not isinstance(message, str) or not isinstance(measured, dict):
        raise ValueError(f"{place}: message must be a pattern and measured an object")
    try:
        numbers = {name: Measured(**{k: float(v) for k, v in m.items()}) for name, m in measured.items()}
    except (AttributeError, TypeError, ValueError, OverflowError):
        raise ValueError(f"{place}: measured must name expected, found and snr for each comparison") from None
    return KnownDifference(tuple(entry["files"]), tuple(entry["compared"]), entry["reason"], message, numbers)


def mark_known(differences: Iterable[Difference], known: Sequence[KnownDifference], file: str) -> None:
    """Accept each failed comparison that is listed as known, with its reason.

    Args:
        differences: comparisons of one fixture.
        known: accepted differences.
        file: name of the fixture's file, without folder and suffix.

    Raises:
        T7LimitError: many patterns would be compared with many failed comparisons.
    """
    failed = [d for d in differences if not d.ok]
    here = [k for k in known if k.applies_to(file)]
    patterns = sum(len(k.compared) for k in here)
    if len(failed) * patterns > _MOST_MATCHES:
        raise T7LimitError(f"{patterns:,} patterns of known differences for {len(failed):,} comparisons are too many")
    for difference in failed:
        if entry := next((k for k in here if k.covers(file, difference)), None):
            accept_known(difference, entry.reason)
