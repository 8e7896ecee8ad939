"""Copy modules, and tensors to memory with another layout, where equal values give results with other last bits.

The address and alignment of a tensor determine where vector instructions, blocks of a matrix product and the parts of
threads begin. Then sums run in another order, or elements take another path through the same function.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.compare import nested


def moved(tensor: Tensor, offset: int = 0, like: Tensor | None = None) -> Tensor:
    """Copy a tensor into memory of its own.

    Args:
        tensor: Any tensor; one that is sparse or contains no elements is returned as it is.
        offset: Elements between the boundary of an allocation (64 bytes) and the first element.
        like: The elements get the order in memory that they have in this tensor, if it has the same shape; default:
            their own order.
    """
    if tensor.layout != torch.strided or tensor.is_meta or not tensor.numel():
        return tensor
    if like is None or like.layout != torch.strided or like.shape != tensor.shape:
        like = tensor
    strides = torch.empty_like(like.detach(), device="meta").stride()  # without gaps and repeated elements
    block = tensor.detach().new_empty(offset + tensor.numel())
    return block.as_strided(tensor.shape, strides, offset).copy_(tensor.detach())


def copied(module: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """Return a deep copy, also of a module that keeps a result with its graph, as weight_norm and pruning do."""
    kept = (t for part in module.modules() for t in nested.tensors(vars(part)) if not t.is_leaf)
    return copy.deepcopy(module, {id(t): t.detach().clone() for t in kept} | (memo or {}))


def relocate(module: nn.Module, offset: int = 0, like: Mapping[str, Tensor] | None = None) -> nn.Module:
    """Move all parameters and buffers of a module as :func:`moved` does, in place; return the module.

    Args:
        module: The module.
        offset: As of :func:`moved`.
        like: Tensors whose order in memory those of the same name get.
    """
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        tensor.data = moved(tensor, offset, (like or {}).get(name))
    return module
