"""Compare nested values, and access the memory of tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def equal(first: Any, second: Any) -> bool:
    """Return whether two nested values contain equal tensors and numbers, where NaN in tensors equals NaN."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        if first is second:
            return True
        same = first.shape == second.shape and first.dtype == second.dtype and first.device == second.device
        return same and bool(((first == second) | ((first != first) & (second != second))).all())
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        return len(first) == len(second) and all(map(equal, first, second))
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(equal(first[k], second[k]) for k in first)
    return type(first) is type(second) and bool(first == second)


def storage_tensor(tensor: Tensor) -> Tensor:
    """Return a 1-D view of all elements in the storage of a tensor."""
    return torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(tensor.untyped_storage())
