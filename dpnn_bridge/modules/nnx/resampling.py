"""Resampling and padding layers of nnx."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.contexts import LuaContext
from dpnn_bridge.conversion.lua_class import LuaClass, size_storage
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.objects import LuaTensor
from dpnn_bridge.torch7.gradient import with_gradient_of

_MODES = ("simple", "average", "bilinear")
_SIZES: dict[str, Any] = dict.fromkeys(("inputSize", "outputSize"), lambda tensor_class: size_storage([1] * 4))


def bilinear(input: Tensor, height: int, width: int) -> Tensor:
    """Resample H and W of :math:`(K_1, H, W, K_2)` bilinearly with aligned corners.

    As in nnx's C code, source positions and weights are computed in float32 for every dtype of the data.
    """
    y0, y1, fy = _neighbors(input.shape[1], height, input.device)
    x0, x1, fx = _neighbors(input.shape[2], width, input.device)
    fy, fx = fy[:, None], fx[None, :]
    gy, gx = 1 - fy, 1 - fx
    upper, lower = input[:, y0], input[:, y1]

    def weighted(rows: Tensor, columns: Tensor, weight: Tensor) -> Tensor:
        return rows[:, :, columns] * weight.to(input.dtype).unsqueeze(-1)

    top = weighted(upper, x0, gx * gy) + weighted(upper, x1, fx * gy)
    return top + weighted(lower, x0, gx * fy) + weighted(lower, x1, fx * fy)


def _neighbors(size: int, new_size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return the source elements before and after each new element, and its distance from the element before."""
    ratio = np.float32(size - 1) / np.float32(max(new_size - 1, 1))
    position = torch.arange(new_size, dtype=torch.float32, device=device) * float(ratio)
    before = position.floor()
    index = before.long()
    return index, (index + 1).clamp(max=size - 1), position - before


def rounded(ratio: float, size: int) -> int:
    """Round ``ratio * size``, with halves rounded up as in Lua."""
    return math.floor(ratio * size + 0.5)


@lua_class("nn.SpatialReSamplingEx")
class SpatialReSamplingEx(nn.Module):
    """Resamples two adjacent dimensions of a tensor.

    Args:
        mode: ``simple`` (nearest neighbor), ``average`` (means of blocks; ``simple`` for upsampling) or ``bilinear``.
        owidth, oheight: output size, or None.
        rwidth, rheight: ratio of output size to input size, if no output size is given.
        y_dim, x_dim: the dimensions, counted from 1; ``x_dim`` is ``y_dim + 1``.

    Shape:
        - Input: :math:`(*, H, W, *)`.
        - Output: :math:`(*, H', W', *)`.

    Differs from PyTorch:
        ``bilinear`` aligns the corners; its weights, and the divisor of ``average``, are float32 for every dtype.

    Raises:
        ValueError: ``mode`` is unknown; or one dimension would be upsampled and the other downsampled.

    Lua:
        ``nn.SpatialReSamplingEx{owidth=, oheight=, rwidth=, rheight=, mode=, yDim=, xDim=}``, nnx
        SpatialReSamplingEx.lua
    """

    def __init__(
        self,
        mode: str = "simple",
        owidth: int | None = None,
        oheight: int | None = None,
        rwidth: float | None = None,
        rheight: float | None = None,
        y_dim: int = 2,
        x_dim: int = 3,
    ) -> None:
        super().__init__()
        if mode not in _MODES:
            raise ValueError(f"SpatialReSamplingEx: expected mode {', '.join(map(repr, _MODES))}, found {mode!r}")
        self.mode, self.y_dim, self.x_dim = mode, y_dim, x_dim
        self.owidth, self.oheight, self.rwidth, self.rheight = owidth, oheight, rwidth, rheight

    def forward(self, input: Tensor) -> Tensor:
        y = self.y_dim - 1
        before, (H, W), after = input.shape[:y], input.shape[y : y + 2], input.shape[y + 2 :]
        height = self.oheight or rounded(self.rheight or 1, H)
        width = self.owidth or rounded(self.rwidth or 1, W)
        if (height >= H) != (width >= W):
            raise ValueError(
                "SpatialReSamplingEx: cannot upsample one dimension and downsample the other, from "
                f"{H} x {W} to {height} x {width}"
            )
        images = input.reshape(math.prod(before), H, W, math.prod(after))
        return self._resampled(images, height, width).reshape(*before, height, width, *after)

    def _resampled(self, x: Tensor, height: int, width: int) -> Tensor:
        H, W = x.shape[1:3]
        if self.mode == "bilinear":
            return bilinear(x, height, width)
        rows, columns = (torch.arange(n, device=x.device) for n in (height, width))
        if height >= H:
            return x[:, rows // -(-height // H)][:, :, columns // -(-width // W)]
        dH, dW = H // height, W // width
        if self.mode == "simple":
            return x[:, rows * dH][:, :, columns * dW]
        return block_mean(x[:, : height * dH, : width * dW], dH, dW)

    def extra_repr(self) -> str:
        size = f"size=({self.oheight}, {self.owidth})" if self.owidth else f"ratio=({self.rheight}, {self.rwidth})"
        return f"{self.mode}, {size}"

    class Lua(LuaClass):
        computed_fields = ("mode_c",)
        scalars = {
            "mode": "mode",
            "owidth": "owidth",
            "oheight": "oheight",
            "rwidth": "rwidth",
            "rheight": "rheight",
            "yDim": "y_dim",
            "xDim": "x_dim",
        }
        defaults = {"owidth": None, "oheight": None, "rwidth": None, "rheight": None, "yDim": 2, "xDim": 3}
        constants = _SIZES

        @classmethod
        def to_lua(cls, module: SpatialReSamplingEx, ctx: LuaContext) -> dict[str, Any]:
            return {**super().to_lua(module, ctx), "mode_c": _MODES.index(module.mode)}


def block_mean(x: Tensor, dH: int, dW: int) -> Tensor:
    """Compute means of dH x dW blocks of :math:`(K_1, H, W, K_2)`; the forward pass uses a float32 divisor."""
    K1, H, W, K2 = x.shape
    total = x.reshape(K1, H // dH, dH, W // dW, dW, K2).sum((2, 4))
    return with_gradient_of(total * float(np.float32(1) / np.float32(dH * dW)), total / (dH * dW))


@lua_class("nn.SpatialUpSampling")
class SpatialUpSampling(LuaClass):
    """Nearest-neighbor upsampling; equals ``nn.SpatialReSamplingEx`` with integer ratios."""

    torch_type = SpatialReSamplingEx
    import_only = True
    scalars = {"dW": "rwidth", "dH": "rheight", "yDim": "y_dim", "xDim": "x_dim"}
    defaults = {"yDim": 2, "xDim": 3}


@lua_class("nn.SpatialDownSampling")
class SpatialDownSampling(nn.Module):
    """Downsamples by means of blocks; remaining rows and columns are ignored.

    As in nnx's C code, the sum is multiplied by the float32 reciprocal of the block size, for every dtype.

    Args:
        ratio: height and width of the blocks, :math:`(r_H, r_W)`.

    Shape:
        - Input: :math:`(C, H, W)`.
        - Output: :math:`(C, \\lfloor H / r_H \\rfloor, \\lfloor W / r_W \\rfloor)`.

    Lua:
        ``nn.SpatialDownSampling(rW, rH)``, nnx SpatialDownSampling.lua
    """

    def __init__(self, ratio: tuple[int, int]) -> None:
        super().__init__()
        self.ratio = ratio

    def forward(self, input: Tensor) -> Tensor:
        rH, rW = self.ratio
        height, width = input.shape[1] // rH * rH, input.shape[2] // rW * rW
        blocks = input[:, :height, :width].unflatten(2, (-1, rW)).unflatten(1, (-1, rH))
        return blocks.sum((2, 4)) * float(np.float32(1) / np.float32(rH * rW))

    class Lua(LuaClass):
        scalars = {("rH", "rW"): "ratio"}


@lua_class("nn.SpatialMaxSampling")
class SpatialMaxSampling(nn.Module):
    """Resamples to a given size; each output pixel is the maximum of its input pixels.

    Args:
        size: height and width of the output.

    Shape:
        - Input: :math:`(C, H, W)`.
        - Output: :math:`(C, H', W')`.

    Lua:
        ``nn.SpatialMaxSampling{owidth=, oheight=}``, nnx SpatialMaxSampling.lua
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, input: Tensor) -> Tensor:
        C, H, W = input.shape
        (y0, y1), (x0, x1) = (_windows(old, new, input.device) for old, new in zip((H, W), self.size, strict=True))
        best = torch.full((C, *self.size), float("-inf"), dtype=input.dtype, device=input.device)
        index = torch.zeros_like(best, dtype=torch.long)
        for dy in range(-(-H // self.size[0]) + 1):
            for dx in range(-(-W // self.size[1]) + 1):
                y, x = (y0 + dy)[:, None], (x0 + dx)[None, :]
                inside = (y < y1[:, None]) & (x < x1[None, :])
                position = torch.where(inside, y * W + x, 0)
                value = input.detach().flatten(1)[:, position]
                better = inside & (value > best)
                best, index = torch.where(better, value, best), torch.where(better, position, index)
        return input.flatten(1).gather(1, index.flatten(1)).view_as(best)

    class Lua(LuaClass):
        scalars = {("oheight", "owidth"): "size"}
        scratch = ("indices",)
        constants = {"indices": LuaTensor.empty}


def _windows(old: int, new: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return start and end of the window of ``old`` pixels for each of ``new`` pixels."""
    step = np.float32(old) / np.float32(new)
    edges = (torch.arange(new + 1, dtype=torch.float32, device=device) * float(step)).long()
    return edges[:-1], torch.maximum(edges[:-1] + 1, edges[1:])


@lua_class("nn.SpatialPadding")
class SpatialPadding(nn.Module):
    """Adds rows and columns with a constant value; negative numbers remove rows and columns.

    Args:
        pad_l, pad_r, pad_t, pad_b: numbers of columns at the left and right, and of rows at the top and bottom.
        y_dim, x_dim: dimensions of the rows and of the columns, counted from 1.
        value: value of the padding.

    Shape:
        - Input: any shape with the two dimensions.
        - Output: the input's shape with the new numbers of rows and columns.

    Lua:
        ``nn.SpatialPadding(pad_l, pad_r, pad_t, pad_b, y_dim, x_dim, val)``, nnx SpatialPadding.lua
    """

    def __init__(
        self, pad_l: int, pad_r: int, pad_t: int, pad_b: int, y_dim: int = 2, x_dim: int = 3, value: float = 0
    ) -> None:
        super().__init__()
        self.pad_l, self.pad_r, self.pad_t, self.pad_b = pad_l, pad_r, pad_t, pad_b
        self.y_dim, self.x_dim, self.value = y_dim, x_dim, value

    def forward(self, input: Tensor) -> Tensor:
        pads = [(0, 0)] * input.dim()
        pads[self.y_dim - 1], pads[self.x_dim - 1] = (self.pad_t, self.pad_b), (self.pad_l, self.pad_r)
        return F.pad(input, [p for pair in reversed(pads) for p in pair], value=self.value)

    class Lua(LuaClass):
        scalars = {
            "pad_l": "pad_l",
            "pad_r": "pad_r",
            "pad_t": "pad_t",
            "pad_b": "pad_b",
            "y_dim": "y_dim",
            "x_dim": "x_dim",
            "val": "value",
        }
        defaults = {"y_dim": 2, "x_dim": 3, "val": 0}
