"""Identify and measure a tensor's storage."""

from __future__ import annotations

from torch import Tensor


def storage_id(tensor: Tensor) -> int:
    """Return a number that is equal for all views of one storage, and unique while one of the views exists.

    It is not the address of the data, which some devices do not provide and which is 0 for all empty storages.
    """
    return tensor.untyped_storage()._cdata


def storage_elements(tensor: Tensor) -> int:
    """Return the number of elements in the storage of a tensor; a view may have fewer, an expanded tensor more."""
    return tensor.untyped_storage().nbytes() // tensor.element_size()
