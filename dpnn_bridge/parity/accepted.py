"""Accept differences for a reason. Only this file changes the verdict *different* to another verdict.

The reasons are: a fault of Torch7, an entry of the user's list, layers that draw random numbers, rounding errors. The
first reason that applies counts. Random numbers and rounding are no reasons for differences of parameters, which are
copied, not computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from dpnn_bridge.compare.verdict import Verdict

if TYPE_CHECKING:  # this module must not import PyTorch
    from dpnn_bridge.compare.differences import Difference


def accept_known(difference: Difference, reason: str) -> None:
    """Accept a known difference: a fault of Torch7, or an entry of a list."""
    _accept(difference, Verdict.KNOWN, reason)


def accept_random(difference: Difference, layers: Sequence[str], advice: str) -> None:
    """Accept a difference that random numbers of layers explain.

    Args:
        difference: the difference.
        layers: the layers that draw random numbers.
        advice: end of the reason.
    """
    if difference.is_computed:
        _accept(
            difference,
            Verdict.RANDOM,
            f"{', '.join(layers)} {'draw' if layers[1:] else 'draws'} random numbers{advice}",
        )


def accept_rounding(difference: Difference, reason: str = "rounding errors explain it", limit: float = 0.0) -> None:
    """Accept a difference that rounding errors explain.

    Args:
        difference: the difference.
        reason: the reason.
        limit: maximum relative error that rounding explains; 0 if it was not measured.
    """
    if difference.is_computed:
        _accept(difference, Verdict.ROUNDING, reason)
        difference.rounding = limit or difference.rounding


def accept_as(difference: Difference, other: Difference) -> None:
    """Accept a difference for the reason of another accepted difference."""
    if other.accepted is not None:
        _accept(difference, other.accepted, other.reason)


def _accept(difference: Difference, verdict: Verdict, reason: str) -> None:
    if not difference.ok:
        difference.accepted, difference.reason = verdict, reason


def known_reasons(differences: Iterable[Difference]) -> dict[str, list[str]]:
    """Return reason -> names of the comparisons that were accepted as known differences for this reason."""
    found: dict[str, list[str]] = {}
    for difference in differences:
        if difference.verdict is Verdict.KNOWN:
            found.setdefault(difference.reason, []).append(difference.name)
    return found
