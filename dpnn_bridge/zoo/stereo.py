"""Stereo matching layers of mc-cnn."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.faults import Fault
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.objects import LuaTensor


@lua_class("nn.Normalize2")
class Normalize2(nn.Module):
    """Scales the vector of channels at every pixel to length 1.

    Shape:
        - Input: :math:`(N, C, H, W)`.
        - Output: the same shape; the input divided by :math:`\\sqrt{\\sum_c x^2 + 10^{-5}}`.

    Lua:
        ``nn.Normalize2()``, mc-cnn Normalize2.lua
    """

    def forward(self, input: Tensor) -> Tensor:
        return input / (input.square().sum(1, keepdim=True) + 1e-5).sqrt()

    class Lua(LuaClass):
        scratch = ("norm",)
        constants = {"norm": LuaTensor.empty}
        checked_by = "formula"
        test = "test_computes_what_the_formula_gives"


@lua_class("nn.StereoJoin1")
class StereoJoin1(nn.Module):
    """Dot product, at each pixel, of the channels of two consecutive images in the batch.

    Shape:
        - Input: :math:`(2 N, C, H, W)`, left and right images alternating.
        - Output: :math:`(N, 1, H, W)`.

    Lua:
        ``nn.StereoJoin1()``, mc-cnn StereoJoin1.lua
    """

    def forward(self, input: Tensor) -> Tensor:
        return (input[::2] * input[1::2]).sum(1, keepdim=True)

    class Lua(LuaClass):
        scratch = ("tmp",)
        constants = {"tmp": LuaTensor.empty}


def _outside(output: Tensor) -> Tensor:
    """Return a mask of the disparities whose right pixel is outside the image."""
    disparities, columns = (torch.arange(output.shape[dim], device=output.device) for dim in (1, 3))
    return disparities.view(-1, 1, 1) > columns


@lua_class("nn.StereoJoin")
class StereoJoin(nn.Module):
    """Cost of every disparity d: the negative dot product of a left pixel and the right pixel d columns to its left.

    Args:
        disp_max: number of disparities, counted from 0.

    Shape:
        - Input: :math:`(2, C, H, W)`, the left and the right image.
        - Output: :math:`(1, disp\\_max, H, W)`; 0 if the right pixel is outside the image (Torch7 does not write these
          elements).

    Lua:
        ``nn.StereoJoin(disp_max)``, mc-cnn StereoJoin.lua
    """

    def __init__(self, disp_max: int) -> None:
        super().__init__()
        self.disp_max = disp_max

    def forward(self, input: Tensor) -> Tensor:
        left, right = input
        shifted = nn.functional.pad(right, (self.disp_max - 1, 0)).unfold(2, self.disp_max, 1)
        return -(left.unsqueeze(-1) * shifted).sum(0).flip(-1).permute(2, 0, 1).unsqueeze(0)

    class Lua(LuaClass):
        scalars = ("disp_max",)
        scratch = ("output_L",)
        constants = {"direction": -1, "output_L": LuaTensor.empty}
        faults = (
            Fault(
                ("output",),
                "Torch7 does not write the cost of a pixel outside the image: uninitialized memory",
                elements=lambda module, output: _outside(output),
            ),
        )
        checked_by = "formula"
        test = "test_computes_what_the_formula_gives"


@lua_class("nn.SpatialConvolution1_fw")
class SpatialConvolution1Forward(LuaClass):
    """A 1x1 convolution."""

    torch_type = nn.Conv2d
    tensors = ("weight", "bias")
    sizes = {"weight": ("out_channels", "in_channels")}
    constant_kwargs = {"kernel_size": 1}
    import_only = True  # torch.nn.Conv2d is exported as nn.SpatialConvolution
