"""Convert indices, and explain errors for indices that are out of range."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def must_check_ranges(index: torch.Tensor) -> bool:
    """Return whether a module has to check itself that indices are in range.

    CUDA kernels check their indices. On other devices, kernels may clamp them or read another element. The check
    synchronizes with the device. A compiled program omits it.
    """
    return index.device.type not in ("cuda", "meta") and not torch.compiler.is_compiling()


def from_one(number: int, name: str = "dimension") -> int:
    """Convert a 1-based number to a 0-based one. Negative numbers count from the end in both.

    Raises:
        IndexError: the number is 0.
    """
    if number == 0:
        raise IndexError(f"expected a {name} counted from 1, or a negative one counted from the end, found 0")
    return number if number < 0 else number - 1


def rows_at(weight: torch.Tensor, index: torch.Tensor, base: int) -> torch.Tensor:
    """Select rows of a matrix.

    Args:
        weight: the matrix.
        index: vector of 0-based indices.
        base: index of the first row for the user of the module; used in the error message.

    Raises:
        IndexError: an index is out of range. Unlike in ``weight[index]``, negative indices are out of range.
    """
    try:
        return weight.index_select(0, index)
    except (IndexError, RuntimeError) as error:
        if "out of range" not in str(error):
            raise
        raise IndexError(f"{str(error).rstrip('.')}: {index_range(base, len(weight))}") from error


def explains_index_base(forward: Callable[..., T]) -> Callable[..., T]:
    """Decorate a ``forward`` with indices: add the valid range and ``index_base`` to the error for a wrong index."""

    @wraps(forward)
    def explained(self: Any, *args: Any) -> T:
        try:
            return forward(self, *args)
        except (IndexError, RuntimeError) as error:
            if not isinstance(error, IndexError) and "lass values must be" not in str(error):  # error of F.one_hot
                raise
            rows = getattr(self, "num_embeddings", None) or getattr(self, "out_features", None) or self.size
            raise IndexError(f"{str(error).rstrip('.')}: {index_range(self.index_base, rows)}") from error

    return explained


def index_range(base: int, rows: int) -> str:
    """Describe the valid range of indices, and how to change the index of the first row."""
    last = base + rows - 1
    if base == 0:
        return f"indices start at 0 and end at {last}"
    return f"indices start at {base}, as in Lua, and end at {last}; index_base=0 (--index-base 0) makes them start at 0"
