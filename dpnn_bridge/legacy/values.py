"""Compare nested values, and access the memory of tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def equal(a: Any, b: Any) -> bool:
    """Return whether two nested values contain equal tensors and numbers, where NaN in tensors equals NaN."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a is b:
            return True
        same = a.shape == b.shape and a.dtype == b.dtype and a.device == b.device
        return same and bool(((a == b) | ((a != a) & (b != b))).all())
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    return type(a) is type(b) and bool(a == b)


def storage_tensor(tensor: Tensor) -> Tensor:
    """Return a 1-D view of all elements in the storage of a tensor."""
    return torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(tensor.untyped_storage())
