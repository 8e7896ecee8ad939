"""Read and apply lists of known differences from Torch7, in JSON files.

    [{"files": ["SparseLinear__*"], "compared": ["gradInput*"], "reason": "Torch7 returns a dense gradient"}]

A failed comparison in the list is accepted and reported with the reason of its entry. An entry may also describe the
difference. Then it accepts only this difference:

    "message": "Torch7 refused this call (*SpatialDropout.lua:37*"
    "measured": {"Kmeans__scale gradParams[1]": {"expected": -0.584, "found": -0.292, "snr": 6.02}}
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dpnn_bridge.base.json_text import parse_json
from dpnn_bridge.base.regular import read_file
from dpnn_bridge.errors import T7LimitError
from dpnn_bridge.parity.accepted import accept_known, known_reasons

__all__ = ["KnownDifference", "known_reasons", "mark_known", "read_known_differences"]

if TYPE_CHECKING:
    from dpnn_bridge.compare.differences import Difference

#: required fields of an entry
REQUIRED = {"files", "compared", "reason"}
#: maximum number of characters of a reason
_LONGEST_REASON = 2000
#: maximum number of characters of patterns and names that are compared for one file
_MAX_STEPS = 1 << 22
#: additional steps of each entry and of each pattern, whose calls take about as long as these comparisons
_STEPS_PER_CALL = 16


@dataclass(frozen=True)
class Measured:
    """A difference of two tensors. If the tensors change, one of these numbers changes.

    Attributes:
        expected, found: values of the element with the largest difference.
        snr: signal-to-noise ratio of all elements in dB.
    """

    expected: float
    found: float
    snr: float

    def matches(self, difference: Difference) -> bool:
        """Return whether a comparison has this difference, up to rounding."""
        return all(_same(a, getattr(difference, name)) for name, a in vars(self).items())


def _same(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-8, abs_tol=1e-12) or (math.isnan(a) and math.isnan(b))


@dataclass(frozen=True)
class KnownDifference:
    """One entry of a list of known differences.

    Attributes:
        files: patterns (``*``, ``?``) of the names of fixture files, without folder and suffix.
        compared: patterns of the names of comparisons, such as ``gradInput*``.
        reason: why the results differ.
        message: pattern of the message of the comparison; empty to accept any message.
        measured: ``"file comparison"`` -> the difference; empty to accept any difference.
    """

    files: tuple[str, ...]
    compared: tuple[str, ...]
    reason: str
    message: str = ""
    measured: Mapping[str, Measured] = field(default_factory=dict)

    def applies_to(self, file: str, matching: Matching | None = None) -> bool:
        """Return whether the patterns match the name of a fixture file."""
        matching = matching or Matching()
        matching.take(_STEPS_PER_CALL)
        return any(matching.matches(file, pattern) for pattern in self.files)

    def covers(self, file: str, difference: Difference, matching: Matching | None = None) -> bool:
        """Return whether the entry accepts a failed comparison of a fixture file that it applies to."""
        matching = matching or Matching()
        matching.take(_STEPS_PER_CALL)
        if not any(matching.matches(difference.name, pattern) for pattern in self.compared):
            return False
        if not matching.matches(difference.message, self.message or "*"):
            return False
        measured = self.measured.get(f"{file} {difference.name}")
        return not self.measured or (measured is not None and measured.matches(difference))


class Matching:
    """Compares names with patterns, up to a number of characters: names and patterns may be from others."""

    def __init__(self) -> None:
        self._left = _MAX_STEPS

    def take(self, steps: int) -> None:
        """Count steps.

        Raises:
            T7LimitError: there were too many.
        """
        self._left -= steps
        if self._left < 0:
            raise T7LimitError(
                f"comparing the patterns of known differences with the names of one file takes more than "
                f"{_MAX_STEPS:,} steps; use fewer or shorter patterns"
            )

    def matches(self, text: str, pattern: str) -> bool:
        """Return whether a pattern with ``*`` and ``?`` matches a text; brackets are ordinary characters.

        A compiled regular expression takes 500 bytes for each ``*``.

        Raises:
            T7LimitError: too many characters were compared.
        """
        self.take(_STEPS_PER_CALL)
        position = at = 0
        star = retry = -1  # position after the last ``*``, and where the text continues after another character for it
        while position < len(text):
            self.take(1)
            if pattern[at : at + 1] == "*":
                at, star, retry = at + 1, at + 1, position
            elif pattern[at : at + 1] in ("?", text[position]):
                position, at = position + 1, at + 1
            elif star >= 0:
                retry += 1
                position, at = retry, star
            else:
                return False
        while pattern[at : at + 1] == "*":
            self.take(1)
            at += 1
        return at == len(pattern)


def read_known_differences(path: str | os.PathLike[str]) -> list[KnownDifference]:
    """Read a list of known differences.

    Raises:
        ValueError: the file is not a JSON list of objects with ``files``, ``compared`` and ``reason``.
        NotT7Error: the file cannot be read.
    """
    try:
        entries = parse_json(read_file(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{os.fspath(path)}: expected a list of entries as JSON: {error}") from None
    if not isinstance(entries, list):
        raise ValueError(f"{os.fspath(path)}: expected a list of entries")
    return [_entry(entry, f"{os.fspath(path)}: entry {i}") for i, entry in enumerate(entries, 1)]


def _entry(entry: Any, where: str) -> KnownDifference:
    """Convert an entry of the JSON list; ``where`` begins the error message."""
    if not isinstance(entry, dict) or not REQUIRED <= entry.keys() <= REQUIRED | {"message", "measured"}:
        raise ValueError(
            f"{where}: expected an object with files, compared and reason, and optionally message or measured"
        )
    for name in ("files", "compared"):
        if not isinstance(entry[name], list) or not entry[name] or not all(isinstance(p, str) for p in entry[name]):
            raise ValueError(f"{where}: {name} must be a list of at least one pattern")
    if not isinstance(entry["reason"], str) or not entry["reason"].strip():
        raise ValueError(f"{where}: the reason is missing")
    if len(entry["reason"]) > _LONGEST_REASON:  # reports contain it once for each comparison
        raise ValueError(f"{where}: the reason has more than {_LONGEST_REASON} characters")
    message, measured = entry.get("message", ""), entry.get("measured", {})
    if not isinstance(message, str) or not isinstance(measured, dict):
        raise ValueError(f"{where}: message must be a pattern and measured an object")
    try:
        numbers = {name: Measured(**{k: float(v) for k, v in m.items()}) for name, m in measured.items()}
    except (AttributeError, TypeError, ValueError, OverflowError):
        raise ValueError(f"{where}: measured must contain expected, found and snr for each comparison") from None
    files, compared = (tuple(map(_simplified, entry[name])) for name in ("files", "compared"))
    return KnownDifference(files, compared, entry["reason"], _simplified(message), numbers)


def _simplified(pattern: str) -> str:
    """Replace several ``*`` by one, so that many of them take no time."""
    return re.sub(r"\*+", "*", pattern)


def mark_known(differences: Iterable[Difference], known: Sequence[KnownDifference], file: str) -> None:
    """Accept each failed comparison for which there is an entry, with the reason of the entry.

    Args:
        differences: comparisons of one fixture.
        known: the entries.
        file: name of the fixture's file, without folder and suffix.

    Raises:
        T7LimitError: too many patterns would be compared with too many or too long names.
    """
    matching = Matching()
    here = [k for k in known if k.applies_to(file, matching)]
    for difference in (d for d in differences if not d.ok):
        if entry := next((k for k in here if k.covers(file, difference, matching)), None):
            accept_known(difference, entry.reason)
