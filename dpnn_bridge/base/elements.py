"""Exchange elements between Lua tensors or storages and other libraries."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import numpy as np


class Elements:
    """Base class that implements the array interfaces of numpy and ``torch.from_dlpack``.

    Attributes:
        numpy: returns the elements as an array.
    """

    __slots__ = ()
    numpy: Callable[[], np.ndarray]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self.numpy()
        if copy is False and dtype is not None and array.dtype != dtype:
            raise ValueError(f"cannot convert {array.dtype} to {np.dtype(dtype)} without a copy; omit copy=False")
        return array.astype(array.dtype if dtype is None else dtype, copy=bool(copy))

    def __dlpack__(self, **options: Any) -> Any:
        return self.numpy().__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.numpy().__dlpack_device__()


def require_unmasked(value: Any) -> Any:
    """Return ``value``; raise ``TypeError`` for a masked array of numpy, because a tensor has no mask."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError("the array is masked; pass an array without a mask, such as its filled(0) or compressed()")
    return value


def lists_of(shape: Sequence[int]) -> int:
    """Return how many lists ``tolist()`` creates for an array of this shape, also if it has no elements."""
    return sum(accumulate(shape[:-1], operator.mul, initial=1)) if shape else 0
