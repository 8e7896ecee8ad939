"""Layers of DeepMind's DQN."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.objects import LuaObject


@lua_class("nn.Rectifier")
class Rectifier(nn.ReLU):
    """:class:`torch.nn.ReLU` under its name in DQN.

    Shape:
        - Input, output: :math:`(*)`.

    Lua:
        ``nn.Rectifier()``, dqn Rectifier.lua
    """


@lua_class("nn.Scale")
class Scale(nn.Module):
    """Converts an RGB image to greyscale and resizes it.

    Args:
        height, width: new size.

    Shape:
        - Input: :math:`(3, H, W)`, or a batch, of which only the first image is used.
        - Output: :math:`(1, H', W')`.

    Differs from PyTorch:
        A dimension is enlarged by bilinear interpolation with aligned corners, and reduced by the mean of the covered
        area. Positions, weights and sums of areas are computed in single precision.

    Lua:
        ``nn.Scale(height, width)``, dqn Scale.lua
    """

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width

    def forward(self, input: Tensor) -> Tensor:
        red, green, blue = input[0] if input.dim() > 3 else input
        grey = 0.299 * red + 0.587 * green + 0.114 * blue
        return _resize_rows(_resize_rows(grey, self.width).t(), self.height).t().unsqueeze(0)

    class Lua(LuaClass):
        scalars = ("height", "width")

        @classmethod
        def matches(cls, obj: LuaObject) -> bool:
            return "height" in obj and "width" in obj and "useRGB" not in obj


def _resize_rows(x: Tensor, size: int) -> Tensor:
    """Resize the last dimension of a matrix with the rounding of ``image.scale`` of Torch7's package image."""
    old = x.shape[-1]
    if size == old:
        return x
    if size > old:
        pixel = torch.arange(size, dtype=torch.float32, device=x.device)
        position = (pixel * float(np.float32(old - 1) / np.float32(size - 1))).where(pixel < size - 1, old - 1)
        first = position.long()
        weight = position - first
        left, right = x[:, first], x[:, (first + 1).clamp(max=old - 1)]
        return (1 - weight).to(x.dtype) * left + weight.to(x.dtype) * right
    end = np.arange(1, size + 1, dtype=np.float32) * (np.float32(old) / np.float32(size))
    start = np.concatenate([np.zeros(1, np.float32), end[:-1]])
    first, last = start.astype(np.int64), end.astype(np.int64)
    total, count = torch.zeros_like(x[:, :size], dtype=torch.float32), np.zeros(size, np.float32)
    for step in range(int((last - first).max()) + 1):  # sum the covered source pixels in Torch7's order
        pixel = first + step
        weight = np.where(pixel < last, np.float32(1), (end - last).astype(np.float32))
        weight = np.where(step == 0, np.float32(1) - (start - first).astype(np.float32), weight)
        weight = np.where((pixel <= last) & (pixel < old), weight, np.float32(0)).astype(np.float32)
        index, factor = torch.from_numpy(np.minimum(pixel, old - 1)).to(x.device), torch.from_numpy(weight).to(x.device)
        total = (total.to(x.dtype) + factor.to(x.dtype) * x[:, index]).float()
        count = count + weight
    return (total / torch.from_numpy(count).to(x.device)).to(x.dtype)
