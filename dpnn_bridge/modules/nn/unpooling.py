"""Max unpooling: writes values to the positions of the maxima."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.objects import LuaObject, LuaTensor


def dims_of(pooling: nn.Module) -> int:
    """Return the number of spatial dimensions of a max pooling, 2 or 3."""
    return 3 if isinstance(pooling, nn.MaxPool3d) else 2


def keep_indices(pooling: Any, args: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> Tensor:
    """Store the indices and the input size of a max pooling for unpooling; return only the values (forward hook)."""
    values, pooling.indices = output
    pooling._input_size = tuple(args[0].shape[-dims_of(pooling) :])
    return values


class MaxUnpooling(nn.Module):
    """Writes each value to the position of the maximum in a max pooling; other elements are zero.

    Args:
        pooling: the :class:`torch.nn.MaxPool2d` or :class:`torch.nn.MaxPool3d`, whose last forward pass determines the
            positions.

    Shape:
        - Input: the shape of the pooling's output.
        - Output: the shape of the pooling's input.

    Differs from PyTorch:
        The indices come from the pooling module, not from an argument.

    Lua:
        ``nn.SpatialMaxUnpooling(pooling)``, SpatialMaxUnpooling.lua; ``nn.VolumetricMaxUnpooling(pooling)``,
        VolumetricMaxUnpooling.lua

    Raises:
        RuntimeError: the pooling has not run yet.
        ValueError: the input does not have the shape of the pooling's output.
    """

    pooling: Any

    fx_leaf = True

    def __init__(self, pooling: Any) -> None:
        super().__init__()
        self.pooling = pooling
        if "indices" not in pooling._buffers:
            pooling.return_indices = True
            pooling._input_size = None
            pooling.register_buffer("indices", None, persistent=False)
            pooling.register_forward_hook(keep_indices)

    def forward(self, input: Tensor) -> Tensor:
        size, indices = self.pooling._input_size, self.pooling.indices
        if indices is None:
            raise RuntimeError(f"unpooling uses the indices of {self.pooling}; run this pooling before the unpooling")
        if indices.shape != input.shape:
            raise ValueError(
                f"expected the shape {tuple(indices.shape)} of the pooling's output, found {tuple(input.shape)}"
            )
        dims = len(size)
        output = input.new_zeros((*input.shape[:-dims], math.prod(size)))
        output = output.scatter(-1, indices.to(input.device).flatten(-dims), input.flatten(-dims))
        return output.view(*input.shape[:-dims], *size)


class Unpooling(LuaClass):
    torch_type = MaxUnpooling
    #: fields of the Lua pooling with the size of its input
    sizes: tuple[str, ...]

    @classmethod
    def represents(cls, module: nn.Module) -> bool:
        return isinstance(module.pooling, nn.MaxPool3d) == (len(cls.sizes) == 3)

    @classmethod
    def build(cls, obj: LuaObject, ctx: TorchContext) -> nn.Module:
        module = MaxUnpooling(ctx.to_torch(obj["pooling"], "pooling"))
        indices = obj["pooling"].get("indices")
        if module.pooling.indices is None and isinstance(indices, LuaTensor) and indices.size:
            module.pooling._input_size = tuple(obj["pooling"][name] for name in cls.sizes)
            module.pooling.indices = cls.to_flat_indices(indices.torch().long(), module.pooling)
        return module

    @classmethod
    def handled(cls, module: nn.Module) -> set[str]:
        copies = {name.replace("i", "o", 1) for name in cls.sizes} | {f"{k}{d}" for k in ("d", "pad") for d in "THW"}
        return super().handled(module) | copies | {"pooling", "indices"}

    @classmethod
    def children(cls, module: nn.Module) -> list[nn.Module]:
        return []  # the pooling belongs to the encoder

    @classmethod
    def to_lua(cls, module: Any, ctx: LuaContext) -> dict[str, Any]:
        pooling = ctx.to_lua(module.pooling)
        if module.pooling.indices is not None:
            indices = cls.to_lua_indices(module.pooling.indices, module.pooling)
            pooling["indices"] = LuaTensor.from_numpy(indices.cpu().numpy(), "torch.LongTensor")
            for name, size in zip(cls.sizes, module.pooling._input_size, strict=True):
                pooling[name] = size
        return {"pooling": pooling}

    @classmethod
    def to_flat_indices(cls, indices: Tensor, pooling: Any) -> Tensor:
        """Convert Torch7's indices to 0-based positions in the flattened spatial dimensions of the pooling's input."""
        return indices - 1

    @classmethod
    def to_lua_indices(cls, indices: Tensor, pooling: Any) -> Tensor:
        """Undo :meth:`to_flat_indices`."""
        return indices + 1


@lua_class("nn.SpatialMaxUnpooling")
class SpatialMaxUnpooling(Unpooling):
    sizes = ("iheight", "iwidth")


@lua_class("nn.VolumetricMaxUnpooling")
class VolumetricMaxUnpooling(Unpooling):
    """The three low bytes of Torch7's indices are the offsets t, h and w in the window. Other bytes are undefined."""

    sizes = ("itime", "iheight", "iwidth")

    @classmethod
    def starts(cls, pooling: Any, indices: Tensor) -> list[Tensor]:
        """Return the starts of the windows in each dimension, as tensors that broadcast with ``indices``."""
        return [
            (torch.arange(n, device=indices.device) * stride - pad).view(-1, *[1] * trailing)
            for n, stride, pad, trailing in zip(
                indices.shape[-3:], pooling.stride, pooling.padding, (2, 1, 0), strict=True
            )
        ]

    @classmethod
    def to_flat_indices(cls, indices: Tensor, pooling: Any) -> Tensor:
        _, height, width = pooling._input_size
        starts = cls.starts(pooling, indices)
        t = (indices & 255) + starts[0]
        h = (indices >> 8 & 255) + starts[1]
        w = (indices >> 16 & 255) + starts[2]
        return (t * height + h) * width + w

    @classmethod
    def to_lua_indices(cls, indices: Tensor, pooling: Any) -> Tensor:
        _, height, width = pooling._input_size
        starts = cls.starts(pooling, indices)
        t = indices // (height * width) - starts[0]
        h = indices // width % height - starts[1]
        w = indices % width - starts[2]
        return t + (h << 8) + (w << 16)
