"""Explain an index that is out of range, including the index base."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def must_check_ranges(index: torch.Tensor) -> bool:
    """Return whether a module has to look for indices out of range itself.

    CUDA's kernels check their indices. Other devices clamp them or read another element, so that a module has to look,
    which waits for the device. A compiled program does not look.
    """
    return index.device.type not in ("cuda", "meta") and not torch.compiler.is_compiling()


def from_one(number: int, name: str = "dimension") -> int:
    """Return a number that counts from 1 as one that counts from 0; negative ones count from the end in both.

    Raises:
        IndexError: it is 0, which would be the last.
    """
    if number == 0:
        raise IndexError(f"expected a {name} that counts from 1, or from the end if it is negative; found 0")
    return number if number < 0 else number - 1


def rows_at(weight: torch.Tensor, index: torch.Tensor, base: int) -> torch.Tensor:
    """Return the rows of a matrix at a vector of indices that count from 0.

    Args:
        weight: the matrix.
        index: the indices. Unlike ``weight[index]`` this refuses negative ones, which are below the first.
        base: number that the user of the module gives the first row, for the message.

    Raises:
        IndexError: there is no such row.
    """
    try:
        return weight.index_select(0, index)
    except (IndexError, RuntimeError) as error:
        if "out of range" not in str(error):
            raise
        raise IndexError(f"{str(error).rstrip('.')}: {index_range(base, len(weight))}") from error


def explains_index_base(forward: Callable[..., T]) -> Callable[..., T]:
    """Add to the error for an index outside a module with ``index_base`` what Torch7's users need to know."""

    @wraps(forward)
    def explained(self: Any, *args: Any) -> T:
        try:
            return forward(self, *args)
        except (IndexError, RuntimeError) as error:
            if not isinstance(error, IndexError) and "lass values must be" not in str(error):  # of F.one_hot
                raise
            rows = getattr(self, "num_embeddings", None) or getattr(self, "out_features", None) or self.size
            raise IndexError(f"{str(error).rstrip('.')}: {index_range(self.index_base, rows)}") from error

    return explained


def index_range(base: int, rows: int) -> str:
    """Return ``indices start at 1 and end at … index_base=0``."""
    last = base + rows - 1
    if base == 0:
        return f"indices start at 0, as index_base=0 says, and end at {last}"
    return f"indices start at {base}, as in Lua, and end at {last}; load(…, index_base=0) makes them start at 0"
