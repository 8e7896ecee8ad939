"""Define the verdicts of a comparison with Torch7."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum


class Verdict(str, Enum):
    """The verdict of a comparison, from the best to the worst. Only :attr:`DIFFERENT` is a failure.

    Attributes:
        EQUAL: within the tolerance, and in single precision within the limit of the rounding test.
        ROUNDING: beyond the tolerance, and explained by rounding, see :mod:`dpnn_bridge.parity.rounding`.
        RANDOM: depends on random numbers, and the reference has neither a seed nor the noise.
        KNOWN: a known difference: a fault of Torch7, or an entry of the user's list; always with its reason.
        DIFFERENT: none of these.
    """

    EQUAL = "equal"
    ROUNDING = "rounding"
    RANDOM = "random"
    KNOWN = "known"
    DIFFERENT = "different"

    @property
    def text(self) -> str:
        """The verdict in words."""
        return {"rounding": "rounding only", "known": "known difference"}.get(self.value, self.value)

    @property
    def severity(self) -> int:
        """Position in the order from the best verdict, 0, to the worst."""
        return list(Verdict).index(self)


#: verdict -> its mark in reports; None: not compared
MARKS: dict[Verdict | None, str] = {
    Verdict.EQUAL: "✓",
    Verdict.ROUNDING: "≈",
    Verdict.RANDOM: "?",
    Verdict.KNOWN: "≠",
    Verdict.DIFFERENT: "✗",
    None: "·",
}


def worst_verdict(verdicts: Iterable[Verdict]) -> Verdict | None:
    """Return the worst of several verdicts; None without verdicts, because nothing was compared."""
    return max(verdicts, key=lambda v: v.severity, default=None)
