"""Set a context variable for the time of a ``with`` block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def scoped(variable: ContextVar[T], value: T) -> Iterator[None]:
    """Set a context variable inside the ``with`` block, and restore it afterwards."""
    before = variable.set(value)
    try:
        yield
    finally:
        variable.reset(before)
