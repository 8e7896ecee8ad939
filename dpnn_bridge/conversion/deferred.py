"""Define parameters whose elements stay in the file, for the conversion of models larger than memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from dpnn_bridge.errors import ConversionError
from dpnn_bridge.objects import LuaStorage, LuaTensor

#: error for a class that needs the elements of a deferred parameter while it is converted
COMPUTED = "its class computes with all elements of its weights; omit max_shard_size= (--max-shard-size)"
#: smallest size of a deferred parameter in bytes
MIN_BYTES = 1 << 20
#: bytes of each chunk that is read
CHUNK = 1 << 24


class DeferredTensor:
    """Reads the elements of a parameter whose tensor is on PyTorch's device ``meta``.

    Args:
        load: function that returns all elements, in PyTorch's memory layout.
        storage: the storage that contains the elements in PyTorch's memory layout, or None if the layout differs.
        start, stop: range of the elements in the storage.
    """

    def __init__(self, load: Callable[[], Tensor], storage: LuaStorage | None, start: int, stop: int) -> None:
        self.load, self.storage, self.start, self.stop = load, storage, start, stop
        self.version = 0

    def chunks(self, parameter: Tensor) -> Iterator[Tensor]:
        """Yield all elements in row-major order, as 1-D tensors of the dtype of ``parameter``.

        Raises:
            ConversionError: a class mapping changed the parameter after it was created.
        """
        if parameter._version != self.version:
            raise ConversionError(COMPUTED)
        if self.storage is None:
            yield self.load().reshape(-1).to(parameter.dtype)
            return
        step = CHUNK // self.storage.dtype.itemsize
        for start in range(self.start, self.stop, step):
            chunk = self.storage.copy(start, min(start + step, self.stop))
            yield torch.from_numpy(chunk).to(parameter.dtype)


def deferred_of(parameter: Tensor | None) -> DeferredTensor | None:
    """Return the deferred elements of a parameter, or None if the elements are loaded."""
    return getattr(parameter, "deferred", None)


def deferred_parameter(
    tensor: LuaTensor, arrange: Callable[[Tensor], Tensor], load: Callable[[], Tensor], in_order: bool
) -> nn.Parameter:
    """Return a parameter on the device ``meta`` for a tensor whose elements stay in the file.

    Args:
        tensor: the elements.
        arrange: function that converts Lua's memory layout to PyTorch's.
        load: function that returns all elements, in PyTorch's layout.
        in_order: whether the file contains the elements in PyTorch's layout.
    """
    dtype = torch.from_numpy(np.empty(0, tensor.dtype)).dtype
    value = arrange(torch.empty(tensor.shape, dtype=dtype, device="meta"))
    parameter = nn.Parameter(value, requires_grad=value.is_floating_point())
    stop = tensor.offset + tensor.size
    deferred = DeferredTensor(load, tensor.storage if in_order else None, tensor.offset, stop)
    deferred.version = parameter._version
    parameter.deferred = deferred  # type: ignore[attr-defined]
    return parameter
