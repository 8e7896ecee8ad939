"""Find the accepted reason for a difference. Only this file changes a verdict from different to another one.

The reasons are: a fault of Torch7, an entry of the user's list, layers that draw random numbers, rounding errors. The
first reason that applies counts. Parameters are copies, so neither random numbers nor rounding may change them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from dpnn_bridge.compare.verdict import Verdict

if TYPE_CHECKING:  # known differences are read where PyTorch is not loaded
    from dpnn_bridge.compare.differences import Difference


def accept_known(difference: Difference, reason: str) -> None:
    """Accept a difference that is known: Torch7 is wrong there, or a list names it."""
    _accept(difference, Verdict.KNOWN, reason)


def accept_random(difference: Difference, layers: Sequence[str], advice: str) -> None:
    """Accept a difference that changes with the random numbers which these layers draw."""
    if difference.is_computed:
        _accept(
            difference,
            Verdict.RANDOM,
            f"{', '.join(layers)} {'draw' if layers[1:] else 'draws'} random numbers{advice}",
        )


def accept_rounding(difference: Difference, reason: str = "rounding errors explain it", limit: float = 0.0) -> None:
    """Accept a difference that rounding errors explain, which may be so large, relative to the largest value."""
    if difference.is_computed:
        _accept(difference, Verdict.ROUNDING, reason)
        difference.rounding = limit or difference.rounding


def accept_as(difference: Difference, other: Difference) -> None:
    """Accept a difference for the reason that another one was accepted for."""
    if other.accepted is not None:
        _accept(difference, other.accepted, other.reason)


def _accept(difference: Difference, verdict: Verdict, reason: str) -> None:
    if not difference.ok:
        difference.accepted, difference.reason = verdict, reason


def known_reasons(differences: Iterable[Difference]) -> dict[str, list[str]]:
    """Return ``reason -> names of the comparisons`` that are known to differ and do."""
    found: dict[str, list[str]] = {}
    for difference in differences:
        if difference.verdict is Verdict.KNOWN:
            found.setdefault(difference.reason, []).append(difference.name)
    return found
