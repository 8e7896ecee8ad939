"""Gather parameters that are distributed over processes (FSDP2, tensor parallelism).

Every process of the group calls these functions, in the same order.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor


def is_spread(tensor: Tensor | None) -> bool:
    """Return whether each process holds a part of a tensor."""
    return hasattr(tensor, "full_tensor")  # only a DTensor has it, whose module takes long to import


def gathered(tensor: Tensor) -> Tensor:
    """Return all elements of a tensor, on every process."""
    whole = getattr(tensor, "full_tensor", None)
    return tensor if whole is None else whole()


def local(tensor: Tensor) -> Tensor:
    """Return this process's part of a tensor, in the same memory."""
    part = getattr(tensor, "to_local", None)
    return tensor if part is None else part()


def scattered(value: Tensor, like: Tensor) -> Tensor:
    """Return this process's part of a value, distributed like another tensor of its shape."""
    spread: Any = like
    if not is_spread(like):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, spread.device_mesh, spread.placements)
