"""Flatten parameters to one vector: ``module.flattenParameters()``."""

from __future__ import annotations

import torch
from torch import Tensor

from dpnn_bridge.base.storage import storage_id
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.legacy.values import storage_tensor


def flattened(parameters: list[Tensor]) -> Tensor:
    """Move tensors into one new vector, so that they become views of it. Tensors that share memory still share it.

    Raises:
        ConversionError: a tensor with gaps, where another tensor uses the elements in the gaps, or several types.
    """
    parameters = list({id(p): p for p in parameters}.values())  # a module may occur several times
    types = sorted({str(p.dtype) for p in parameters})
    if len(types) > 1:
        raise ConversionError(
            f"the parameters have the types {' and '.join(types)}; convert the module to one type first"
        )
    storages: dict[int, tuple[Tensor, Tensor]] = {}
    for p in parameters:
        elements = storage_tensor(p)
        _, used = storages.setdefault(storage_id(p), (elements, torch.zeros_like(elements, dtype=torch.bool)))
        used.as_strided(p.shape, p.stride(), p.storage_offset()).fill_(True)
    flat = torch.cat([elements[used] for elements, used in storages.values()])
    positions, start = {}, 0  # storage -> position in the vector of each element
    for key, (_, used) in storages.items():
        positions[key] = used.long().cumsum(0) + (start - 1)
        start += int(used.sum())
    for p in parameters:
        expected = positions[storage_id(p)].as_strided(p.shape, p.stride(), p.storage_offset())
        view = flat.as_strided(p.shape, p.stride(), int(expected.flatten()[0]))
        actual = torch.arange(start, device=p.device).as_strided(p.shape, p.stride(), view.storage_offset())
        if not torch.equal(actual, expected):
            raise ConversionError("a parameter has gaps in memory that another parameter uses")
        p.set_(view)  # type: ignore[call-overload]
    return flat
