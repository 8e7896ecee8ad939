"""Identify and measure a tensor's storage."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def storage_id(tensor: Tensor) -> int:
    """Return a number that is equal for all views of one storage, and unique while one of the views exists.

    It is not the address of the data, which some devices do not provide and which is 0 for all empty storages.
    """
    return tensor.untyped_storage()._cdata


def storage_elements(tensor: Tensor) -> int:
    """Return the number of elements in the storage of a tensor; a view may have fewer, an expanded tensor more."""
    return tensor.untyped_storage().nbytes() // tensor.element_size()


def memory_of(tensor: Tensor) -> tuple[Any, ...]:
    """Return a key that is equal for tensors with the same elements in memory, in the same arrangement."""
    return storage_id(tensor), tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype


def one_parameter(tensor: Tensor) -> tuple[Any, ...]:
    """Return a key that is equal for tensors on one memory that one parameter, or one buffer, can replace."""
    return *memory_of(tensor), isinstance(tensor, nn.Parameter), tensor.requires_grad


def own_copy(tensor: Tensor) -> Tensor:
    """Return a copy with its own memory; a view that has more elements than its memory remains one."""
    stored = storage_elements(tensor)
    if stored >= tensor.numel():
        return tensor.clone()
    return (
        tensor.as_strided((stored,), (1,), 0).clone().as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
    )
