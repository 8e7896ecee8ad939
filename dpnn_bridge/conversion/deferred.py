"""Define parameters whose elements stay in the file, for the conversion of models larger than memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from dpnn_bridge.errors import ConversionError
from dpnn_bridge.objects import LuaStorage, LuaTensor

#: why a class cannot be converted so
COMPUTED = "its class computes on all weights at once; omit max_shard_size= (--max-shard-size)"
#: bytes from which a parameter stays in the file
LEAST = 1 << 20
#: bytes that are read at once
CHUNK = 1 << 24


class DeferredTensor:
    """The elements of a parameter on PyTorch's device ``meta``.

    Args:
        whole: reads and arranges all of them.
        storage: where they are in the same order, or None.
        start, stop: their position in it.
    """

    def __init__(self, whole: Callable[[], Tensor], storage: LuaStorage | None, start: int, stop: int) -> None:
        self.whole, self.storage, self.start, self.stop = whole, storage, start, stop
        self.version = 0

    def pieces(self, parameter: Tensor) -> Iterator[Tensor]:
        """Yield all elements in row-major order and the type of ``parameter``, one after the other in 1-D tensors.

        Raises:
            ConversionError: a mapping of a class changed the parameter after it was filled.
        """
        if parameter._version != self.version:
            raise ConversionError(COMPUTED)
        if self.storage is None:
            yield self.whole().reshape(-1).to(parameter.dtype)
            return
        step = CHUNK // self.storage.dtype.itemsize
        for start in range(self.start, self.stop, step):
            piece = self.storage.copy(start, min(start + step, self.stop))
            yield torch.from_numpy(piece).to(parameter.dtype)


def deferred_of(parameter: Tensor | None) -> DeferredTensor | None:
    """Return the deferred elements of a parameter, or None if the elements are loaded."""
    return getattr(parameter, "deferred", None)


def deferred_parameter(
    tensor: LuaTensor, arrange: Callable[[Tensor], Tensor], whole: Callable[[], Tensor], plain: bool
) -> nn.Parameter:
    """Return a parameter without elements for those of a tensor.

    Args:
        tensor: the elements.
        arrange: turns Lua's memory layout into torch's.
        whole: reads and arranges all of them.
        plain: whether they are in the file in torch's order.
    """
    dtype = torch.from_numpy(np.empty(0, tensor.dtype)).dtype
    value = arrange(torch.empty(tensor.shape, dtype=dtype, device="meta"))
    parameter = nn.Parameter(value, requires_grad=value.is_floating_point())
    stop = tensor.offset + tensor.size
    held = DeferredTensor(whole, tensor.storage if plain else None, tensor.offset, stop)
    held.version = parameter._version
    parameter.deferred = held  # type: ignore[attr-defined]
    return parameter
