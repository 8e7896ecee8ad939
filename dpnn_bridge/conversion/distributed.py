"""Gather and distribute parameters (FSDP2, tensor parallelism).

The functions that communicate are collective: every process of the group must call them in the same order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

#: package of classes that distribute the parameters of a module; those of FSDP2 compute what the module computes
FSDP = "torch.distributed.fsdp"
#: advice for distributed weights
FULL_STATE = (
    "load the full state_dict into a new model (torch.distributed.checkpoint.state_dict.get_model_state_dict), "
    "and save that model"
)


def is_distributed(tensor: Any) -> bool:
    """Return whether a tensor is a DTensor, without the slow import of its module."""
    return hasattr(tensor, "full_tensor")


def full(tensor: Any) -> Tensor:
    """Return all elements of a tensor, on every process."""
    return tensor.full_tensor() if is_distributed(tensor) else tensor


def is_equal(one: Any, other: Any) -> bool:
    """Return whether two values are the same tensor, both None, or tensors with equal elements, dtypes and devices."""
    if one is other or one is None or other is None:
        return one is other
    return (one.dtype, one.device) == (other.dtype, other.device) and torch.equal(full(one), full(other))


def local(tensor: Any) -> Tensor:
    """Return the shard of a tensor on this process, without a copy."""
    return tensor.to_local() if is_distributed(tensor) else tensor


def distribute_like(value: Tensor, other: Any) -> Tensor:
    """Distribute a tensor like another tensor of the same shape."""
    if not is_distributed(other):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, other.device_mesh, other.placements)
