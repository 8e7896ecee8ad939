"""What a module says when an index is not in its table: where counting starts."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

T = TypeVar("T")


def says_where_indices_start(forward: Callable[..., T]) -> Callable[..., T]:
    """Adds to an ``IndexError`` of a method of a module with ``index_base`` what Torch7's users need to know."""

    @wraps(forward)
    def explained(self: Any, *args: Any) -> T:
        try:
            return forward(self, *args)
        except IndexError as error:
            raise IndexError(f"{error}: {where_indices_start(self.index_base)}") from error

    return explained


def where_indices_start(base: int) -> str:
    """``indices start at 1 … index_base=0``."""
    if base == 0:
        return "indices start at 0, as index_base=0 says"
    return f"indices start at {base}, as in Lua; load(…, index_base=0) makes them start at 0"
