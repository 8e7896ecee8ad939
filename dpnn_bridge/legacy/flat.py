"""Flatten parameters to one vector: ``module.flattenParameters()``."""

from __future__ import annotations

import torch
from torch import Tensor

from dpnn_bridge.base.storage import storage_id
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.legacy.values import whole_storage


def flattened(parameters: list[Tensor]) -> Tensor:
    """Move tensors into one new vector, whose windows they become; those on the same memory stay on the same.

    Raises:
        ConversionError: a tensor leaves out elements of its memory that another one uses.
    """
    storages: dict[int, tuple[Tensor, Tensor]] = {}
    for p in parameters:
        whole = whole_storage(p)
        _, used = storages.setdefault(storage_id(p), (whole, torch.zeros_like(whole, dtype=torch.bool)))
        used.as_strided(p.shape, p.stride(), p.storage_offset()).fill_(True)
    flat = torch.cat([whole[used] for whole, used in storages.values()])
    places, start = {}, 0
    for key, (_, used) in storages.items():
        places[key] = used.long().cumsum(0) + (start - 1)
        start += int(used.sum())
    for p in parameters:
        place = places[storage_id(p)].as_strided(p.shape, p.stride(), p.storage_offset())
        window = flat.as_strided(p.shape, p.stride(), int(place.flatten()[0]))
        if not torch.equal(
            torch.arange(start, device=p.device).as_strided(p.shape, p.stride(), window.storage_offset()), place
        ):
            raise ConversionError("a parameter skips elements of its memory that another parameter uses")
        p.set_(window)  # type: ignore[call-overload]
    return flat
