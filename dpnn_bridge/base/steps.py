"""Take the work of Python loops over numbers from the resource limits of a run.

The limits measure operations of PyTorch. A loop in Python runs none, but a sort of equal numbers may take a minute. The
functions with such loops call :func:`spend_steps`; the mode that limits the run receives the steps.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: steps of the work of an element in one pass of a Python loop, about 0.1 us; a step is about 1/3 ns
STEPS_PER_ELEMENT = 1 << 8


class _Active(threading.local):
    """The functions that receive the steps of the current thread."""

    def __init__(self) -> None:
        self.takers: list[Callable[[int], None]] = []


_ACTIVE = _Active()


def spend_steps(elements: int) -> None:
    """Count the work of a Python loop over some elements.

    Raises:
        ConversionLimitError: the run exceeds its limit.
    """
    for take in _ACTIVE.takers:
        take(elements * STEPS_PER_ELEMENT)


@contextmanager
def steps_taken(take: Callable[[int], None]) -> Iterator[None]:
    """Pass the steps of Python loops of this thread to a function inside the ``with`` block."""
    _ACTIVE.takers.append(take)
    try:
        yield
    finally:
        _ACTIVE.takers.remove(take)
