"""Measure the difference of two nested values of tensors and numbers."""

from __future__ import annotations

import math
import re
import sys
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dpnn_bridge.base.display import keys_text, printable, shortened, summarized
from dpnn_bridge.compare.limited import take_comparison, without_repeats
from dpnn_bridge.compare.verdict import Verdict
from dpnn_bridge.errors import VerificationError

#: prefixes of the names of comparisons that are never gradients
FORWARD = ("output", "after", "params", "converted")
#: smallest and largest positive number
_SMALLEST, _LARGEST = math.ulp(0.0), sys.float_info.max


@dataclass(frozen=True)
class Tolerance:
    """Largest accepted difference, relative to the largest expected value, for each dtype.

    Attributes:
        double, single: largest difference in double and in single precision.
        floor: minimum scale of relative differences, for tensors with only small expected values.
    """

    double: float = 1e-10
    single: float = 1e-5
    floor: float = 1e-3

    def of(self, tensor: Tensor) -> float:
        """Return the accepted difference for an expected tensor: 0 for integers."""
        if not tensor.is_floating_point():
            return 0.0
        return self.double if tensor.dtype == torch.float64 else self.single

    def in_single(self) -> Tolerance:
        """Return the tolerance for a computation in single precision, for results of any dtype."""
        return replace(self, double=self.single)


#: tolerance for comparing bits, independent of the size of the values
BITS = Tolerance(0.0, 0.0, torch.finfo(torch.float64).tiny)
#: tolerances for computations in half precision, which has 11 bits, and in bfloat16, which has 8
HALF = {torch.float16: Tolerance(2e-2, 2e-2), torch.bfloat16: Tolerance(1e-1, 1e-1)}


@dataclass
class Difference:
    """One compared tensor.

    Attributes:
        name: name of the comparison, such as ``gradParams[2]``.
        error: largest difference relative to the largest expected value; inf if shapes differ, if one value is not a
            tensor, or if an element that differs is nan or inf.
        tolerance: accepted difference.
        message: description of a difference beyond the tolerance.
        absolute: largest absolute difference.
        index: index of the element with the largest difference, from 0; None if all are equal or the shapes differ.
        expected, found: the values of this element.
        cosine: cosine of the angle between both tensors; 1 if they are equal.
        snr: signal-to-noise ratio in dB, where the noise is found minus expected; inf if they are equal.
        accepted: the verdict that excuses a difference beyond the tolerance; None if the difference is not excused.
        reason: reason for accepting the difference.
        rounding: measured effect of rounding, relative to the largest expected value; 0 if it was not measured.
    """

    name: str
    error: float
    tolerance: float
    message: str = ""
    absolute: float = 0.0
    index: tuple[int, ...] | None = None
    expected: float = 0.0
    found: float = 0.0
    cosine: float = 1.0
    snr: float = float("inf")
    accepted: Verdict | None = None
    reason: str = ""
    rounding: float = 0.0

    def __post_init__(self) -> None:
        #: for a difference beyond the tolerance, which elements differ beyond it, flat; not part of reports
        self.differing: Tensor | None = None
        #: the value that errors are relative to; ``absolute / error`` may be inf / inf; not part of reports
        self.scale = 1.0

    @property
    def verdict(self) -> Verdict:
        """The verdict of the comparison."""
        return Verdict.EQUAL if self.error <= self.tolerance else self.accepted or Verdict.DIFFERENT

    @property
    def excuse(self) -> Verdict | None:
        """The earlier name of :attr:`accepted`."""
        return self.accepted

    @property
    def ok(self) -> bool:
        """Whether the comparison passed: equal, or different with an accepted reason."""
        return self.verdict is not Verdict.DIFFERENT

    @property
    def is_gradient(self) -> bool:
        """Whether the compared value was computed by a backward pass."""
        head, last = re.split(r"[.\[]", self.name)[0], self.name.rpartition(".")[2]
        return head not in FORWARD and (head.startswith("grad") or last.startswith("grad") or last == "backward")

    @property
    def worst_element(self) -> tuple[tuple[int, ...] | None, str]:
        """Index and ``repr`` of the element with the largest difference; a string, so that nan equals nan."""
        return self.index, repr(self.found)

    @property
    def is_computed(self) -> bool:
        """Whether the compared value is a result; False for parameters, whose differences are never accepted."""
        return not self.name.startswith("params")

    @property
    def mismatched(self) -> bool:
        """Whether shapes differ or one value is not a tensor, so that no elements were compared."""
        return self.error == float("inf") and self.index is None


@dataclass
class Result:
    """All comparisons of one fixture."""

    differences: list[Difference] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return all(d.ok for d in self.differences)

    @property
    def failures(self) -> list[Difference]:
        return [d for d in self.differences if not d.ok]

    def raise_for_failures(self) -> None:
        """Raise a :class:`VerificationError` that lists every failed comparison, if a comparison failed."""
        if not self.ok:
            error = VerificationError("\n".join(printable(f"{d.name}: {d.message}") for d in self.failures))
            error.several_lines = True
            raise error


def compare(name: str, actual: Any, expected: Any, tolerance: Tolerance | None = None) -> list[Difference]:
    """Compare nested values strictly: a missing or an additional value is a failure.

    Args:
        name: name of the comparison.
        actual: tensor, number or nested lists/dicts.
        expected: Torch7's value, as :func:`~dpnn_bridge.conversion.lua_values.to_value` returns it.
        tolerance: defaults to ``Tolerance()``.
    """
    tolerance = tolerance or Tolerance()
    if isinstance(expected, (list, tuple)):
        if not isinstance(actual, (list, tuple)) or len(actual) != len(expected):
            return [mismatch(name, actual, f"a list of {len(expected)}")]
        return [d for i, e in enumerate(expected) for d in compare(f"{name}[{i + 1}]", actual[i], e, tolerance)]
    if isinstance(expected, dict):
        if not isinstance(actual, dict) or actual.keys() != expected.keys():
            return [mismatch(name, actual, f"a dict with {keys_text(expected)}")]
        return [d for k, e in expected.items() for d in compare(f"{name}.{shortened(str(k))}", actual[k], e, tolerance)]
    if isinstance(expected, Tensor):
        return [compare_tensor(name, actual, expected, tolerance)]
    if isinstance(expected, bool) or expected is None or isinstance(expected, str):
        same = actual is expected or (not isinstance(actual, Tensor) and actual == expected)
        return [Difference(name, 0.0, 0.0) if same else mismatch(name, actual, summarized(expected))]
    value = actual if isinstance(actual, Tensor) else None
    if isinstance(actual, (int, float)):
        value = torch.tensor(actual, dtype=torch.float64)
    if value is None or value.numel() != 1:
        return [mismatch(name, actual, f"the number {expected}")]
    reference = torch.tensor([expected], dtype=torch.float64)
    if value.is_floating_point() and value.dtype != torch.float64:
        reference = reference.float()
    return [compare_tensor(name, value.reshape(1), reference, tolerance)]


def compare_tensor(name: str, actual: Any, expected: Tensor, tolerance: Tolerance) -> Difference:
    """Compare one tensor; see :func:`compare`."""
    if not isinstance(actual, Tensor) or tuple(actual.shape) != tuple(expected.shape):
        return mismatch(name, actual, f"a tensor of shape {tuple(expected.shape)}")
    limit = tolerance.of(expected)
    if expected.numel() == 0:
        return Difference(name, 0.0, limit)
    shape, total = expected.shape, expected.numel()
    actual, expected = without_repeats(actual.detach(), expected.detach())
    take_comparison(expected)
    a, e = actual.to("cpu", torch.float64), expected.to("cpu", torch.float64)
    distance = errors(a, e)
    if actual.dtype == expected.dtype and not expected.is_floating_point():  # float64 is not exact for all integers
        distance = torch.where(actual.cpu() == expected.cpu(), 0.0, distance.clamp(min=1.0))
    worst = int(distance.argmax())
    absolute, expected_value, found = (float(t.flatten()[worst]) for t in (distance, e, a))
    if absolute == 0.0:
        return Difference(name, 0.0, limit)
    scale = scale_of(e, tolerance)
    relative = absolute / scale
    if absolute < math.inf:  # neither 0 nor inf after an underflow or overflow
        relative = min(max(relative, _SMALLEST), _LARGEST)
    index = tuple(int(i) for i in np.unravel_index(worst, tuple(distance.shape)))
    differs, message = distance / scale > limit if limit else distance > 0, ""
    if relative > limit:
        message = (
            f"expected {expected_value:.17g}, found {found:.17g} at {list(index)}, "
            f"relative error {relative:.3g} > {limit:g}, "
            f"{int(differs.sum()) * (total // differs.numel())} of {total} elements differ"
        )
    d = Difference(name, relative, limit, message, absolute, index, expected_value, found, *_similarity(a, e))
    d.scale = scale
    if not d.ok:
        differs = differs.expand(shape)
        take_comparison(differs)
        d.differing = differs.flatten()
    return d


def _similarity(actual: Tensor, expected: Tensor) -> tuple[float, float]:
    """Return the cosine of the angle between two different tensors, and the signal-to-noise ratio in dB."""
    a, e = (t.flatten().nan_to_num(0.0, 0.0, 0.0) for t in (actual, expected))
    noise, halved = a - e, 0
    if not noise.isfinite().all():
        noise, halved = a / 2 - e / 2, 1
    (a, _), (e, power), (noise, noise_power) = map(_squarable, (a, e, noise))
    cosine = float(torch.nn.functional.cosine_similarity(a, e, dim=0))
    signal, size = float(e.norm()), float(noise.norm())
    if size == 0.0:  # only elements that are not finite differ
        return cosine, math.inf
    decades = (power - noise_power - halved) * math.log10(2)
    return cosine, 20 * (math.log10(signal / size) + decades) if signal else -math.inf


def _squarable(value: Tensor) -> tuple[Tensor, int]:
    """Divide a tensor by a power of two, so that the sum of its squares neither overflows nor underflows.

    Returns:
        The quotient and the exponent of the power.
    """
    exponent = math.frexp(float(value.abs().max()))[1]
    half = exponent // 2  # the power itself may be infinite
    return value * 2.0**-half * 2.0 ** (half - exponent), exponent


def errors(actual: Tensor, expected: Tensor) -> Tensor:
    """Return the absolute differences: 0 where both are equal or both nan, otherwise inf where one is nan or inf.

    The difference of two finite numbers is finite.
    """
    same = (actual == expected) | (actual.isnan() & expected.isnan())
    distance = torch.where(same, torch.zeros_like(actual), (actual - expected).abs())
    distance = distance.nan_to_num(nan=math.inf, posinf=math.inf)
    if distance.numel() and float(distance.max()) == math.inf:
        distance = distance.where(~(actual.isfinite() & expected.isfinite()), distance.clamp(max=_LARGEST))
    return distance


def scale_of(expected: Tensor, tolerance: Tolerance) -> float:
    """Return the scale of relative differences: the largest finite expected value, at least ``tolerance.floor``."""
    finite = expected[expected.isfinite()]
    return max(float(finite.abs().max()) if finite.numel() else 0.0, tolerance.floor)


def mismatch(name: str, actual: Any, expected: str) -> Difference:
    """Return a difference of shape or type, where ``expected`` describes the expected value."""
    return Difference(name, float("inf"), 0.0, f"expected {expected}, found {summarized(actual)}")
