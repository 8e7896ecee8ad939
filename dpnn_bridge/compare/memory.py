"""Copy modules and tensors, also to memory with another alignment, which changes the rounding of computations.

The alignment of a tensor determines which elements share a vector instruction, a block of a matrix product or a thread.
With another alignment, sums are computed in another order, and elementwise functions may use scalar instructions.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.compare import nested


def moved(tensor: Tensor, offset: int = 0, like: Tensor | None = None) -> Tensor:
    """Copy a tensor into new memory.

    Args:
        tensor: Any tensor. A sparse, empty or meta tensor is returned unchanged.
        offset: Number of elements between the start of the allocation (aligned to 64 bytes) and the first element.
        like: A tensor whose memory format the copy gets, if the shapes are equal; default: ``tensor``.
    """
    if tensor.layout != torch.strided or tensor.is_meta or not tensor.numel():
        return tensor
    if like is None or like.layout != torch.strided or like.shape != tensor.shape:
        like = tensor
    strides = torch.empty_like(like.detach(), device="meta").stride()  # no gaps, no stride 0
    block = tensor.detach().new_empty(offset + tensor.numel())
    return block.as_strided(tensor.shape, strides, offset).copy_(tensor.detach())


def copied(module: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """Return a deep copy, also of a module with non-leaf tensors, such as the weight that weight_norm computes."""
    computed = (t for part in module.modules() for t in nested.tensors(vars(part)) if not t.is_leaf)
    return copy.deepcopy(module, {id(t): t.detach().clone() for t in computed} | (memo or {}))


def relocate(module: nn.Module, offset: int = 0, like: Mapping[str, Tensor] | None = None) -> nn.Module:
    """Move all parameters and buffers of a module as :func:`moved` does, in place; return the module.

    Args:
        module: The module.
        offset: See :func:`moved`.
        like: Name of a parameter or buffer -> tensor whose memory format the copy gets.
    """
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        tensor.data = moved(tensor, offset, (like or {}).get(name))
    return module


def device_of(module: nn.Module) -> torch.device:
    """Return the device of a module's first parameter or buffer; the CPU if it has none."""
    return next((t.device for t in [*module.parameters(), *module.buffers()]), torch.device("cpu"))
