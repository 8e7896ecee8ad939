"""The identity and the size of a tensor's storage."""

from __future__ import annotations

from torch import Tensor


def storage_id(tensor: Tensor) -> int:
    """Identify the storage of a tensor: the same number for all views of one storage, while one of them exists.

    Not its address, which some devices do not give and which all empty storages share.
    """
    return tensor.untyped_storage()._cdata


def storage_elements(tensor: Tensor) -> int:
    """Return how many elements the storage of a tensor has; a view may have fewer, an expanded tensor more."""
    return tensor.untyped_storage().nbytes() // tensor.element_size()
