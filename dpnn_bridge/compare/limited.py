"""Limit the memory and computation of comparisons, which run outside of the limits of a run.

A view such as the output of ``nn.Replicate`` may repeat an element 2**28 times without memory, in a result and in a
reference. A comparison copies both.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar

import torch
from torch import Tensor

from dpnn_bridge.base.scoped import scoped
from dpnn_bridge.errors import ConversionLimitError

#: memory of the comparison of an element, in bytes, and its steps (see conversion/limits.py) in a pass over a tensor
BYTES_PER_ELEMENT, STEPS_PER_ELEMENT = 80, 32


class _Budget:
    """The limits of the comparisons in one ``with`` block: bytes at once, and steps of all together."""

    def __init__(self, limit: int, steps: int, advice: str) -> None:
        self.bytes, self.steps, self.limit_steps, self.advice = limit, steps, steps, advice

    def take(self, elements: int, repeated: int) -> None:
        self.steps -= elements * STEPS_PER_ELEMENT
        if repeated * BYTES_PER_ELEMENT > self.bytes:
            raise ConversionLimitError(self._message(f"{self.bytes >> 20:,} MiB"))
        if self.steps < 0:
            raise ConversionLimitError(self._message(f"{self.limit_steps:.1g} steps"))

    def _message(self, limit: str) -> str:
        return (
            f"comparing the results takes more than {limit}, the limit for the size of the file and the input: "
            f"{self.advice}"
        )


_active: ContextVar[_Budget | None] = ContextVar("budget of the comparisons", default=None)


def limited_comparisons(limit: int, steps: int, advice: str) -> AbstractContextManager[None]:
    """Limit the comparisons of this thread inside the ``with`` block; an inner block has its own limits.

    Args:
        limit: maximum number of bytes for the elements of one comparison for which the reference has no memory.
        steps: maximum number of steps of all comparisons.
        advice: end of the message of the error.

    Raises:
        ConversionLimitError: a comparison exceeds a limit; raised before it allocates memory.
    """
    return scoped(_active, _Budget(limit, steps, advice))


def take_comparison(expected: Tensor) -> None:
    """Count a comparison with an expected tensor, or of its copy.

    Raises:
        ConversionLimitError: the comparisons exceed a limit.
    """
    if (budget := _active.get()) is not None:
        elements = expected.numel()
        strided = expected.layout is torch.strided
        own = expected.untyped_storage().nbytes() // expected.itemsize if strided else elements
        budget.take(elements, max(0, elements - own))


def without_repeats(*tensors: Tensor) -> Sequence[Tensor]:
    """Return views of tensors of one shape, of size 1 in each dimension in which all of them repeat their elements."""
    found: Sequence[Tensor] = tensors
    if all(t.layout is torch.strided for t in tensors):
        for dim in range(tensors[0].dim()):
            if tensors[0].shape[dim] > 1 and all(t.stride(dim) == 0 for t in tensors):
                found = [t.narrow(dim, 0, 1) for t in found]
    return found
