"""Differences of random instances that are on purpose, by name."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from instances import Instance


class Explained(NamedTuple):
    """A difference that may be.

    Attributes:
        layer: pattern of the class.
        described: what the description of the instance holds.
        difference: pattern of the message.
        reason: why it is.
    """

    layer: str
    described: str
    difference: str
    reason: str


STRIDED = "Torch7 takes a gradient in another arrangement of memory for one in plain order; here it is used as it is"
REFUSED = "Torch7 refuses backward in evaluation; here it is the derivative"
VIEW = "Torch7 refuses a view of a strided gradient; here it works"
BALANCE = "in evaluation Torch7 divides the gradient by sums of an earlier training batch, or by none"
UNSET = "Torch7 leaves what its memory held in the gradient of targets that are not the smallest"
CANCELS = "1 - (1 - tanh^2) for small numbers in single precision: what is left is rounding error on both sides"
SIGN = "where a difference is 0 Torch7 draws a random sign"

EXPLAINED = (
    Explained("*", "strided", "backward: *expecting a contiguous tensor*", VIEW),
    Explained("nn.LayerNormalization", "strided", "backward: *Container.lua*", VIEW),
    Explained("nn.SpatialDropout", "eval", "backward: *", REFUSED),
    Explained("nn.VolumetricDropout", "eval", "backward: *", REFUSED),
    Explained("nn.Sequencer", "NormStabilizer", "backward: *", REFUSED),
    Explained("nn.SpatialDepthWiseConvolution", "strided 'gradient'", "grad*", STRIDED),
    Explained("nn.SpatialDepthWiseConvolution", "strided 'both'", "grad*", STRIDED),
    Explained("nn.PairwiseDistance", "PairwiseDistance(1)", "gradInput*found *0 at *", SIGN),
    Explained("nn.DistMarginCriterion", "", "gradInput: *, found *0 at *", UNSET),
    Explained("nn.TanhShrink", "float", "gradInput: *", CANCELS),
    Explained("nn.Balance", "eval", "gradInput: *", BALANCE),
)


def explanation(case: Instance, fixture: Any, difference: str) -> str:
    """The reason of a difference, empty where there is none."""
    for known in EXPLAINED:
        if (
            fnmatchcase(fixture["class"], known.layer)
            and known.described in repr(case)
            and fnmatchcase(difference, known.difference)
        ):
            return known.reason
    return ""
