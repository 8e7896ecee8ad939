"""Spatial transformers for images (batch, height, width, depth) of stnbhwd.

Points are (y, x); -1 and 1 are the centres of the outermost pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.contexts import LuaContext
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.registry import lua_class


@lua_class("nn.AffineGridGeneratorBHWD")
class AffineGridGeneratorBHWD(nn.Module):
    """Sampling grid of an affine map.

    Args:
        height: rows of the grid.
        width: columns of the grid.

    Shape:
        - Input: :math:`(B, 2, 3)` or :math:`(2, 3)`: matrices that map ``(y, x, 1)`` to ``(y, x)``.
        - Output: :math:`(B, H, W, 2)` or :math:`(H, W, 2)`.

    Differs from PyTorch:
        ``affine_grid(align_corners=True)`` with y before x.

    Lua:
        ``nn.AffineGridGeneratorBHWD(height, width)``, stn AffineGridGeneratorBHWD.lua
    """

    base_grid: Tensor

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width
        y = torch.linspace(-1, 1, height)[:, None].expand(height, width)
        x = torch.linspace(-1, 1, width)[None, :].expand(height, width)
        self.register_buffer("base_grid", torch.stack([y, x, torch.ones(height, width)], 2))

    def forward(self, input: Tensor) -> Tensor:
        points = self.base_grid.flatten(0, 1) @ input.transpose(-1, -2)
        return points.unflatten(-2, (self.height, self.width))

    class Lua(LuaClass):
        scalars = ("height", "width")
        tensors = {"baseGrid": "base_grid"}
        scratch = ("batchGrid",)

        @classmethod
        def to_lua(cls, module: AffineGridGeneratorBHWD, ctx: LuaContext) -> dict[str, Any]:
            batch = ctx.constant(module.base_grid.unsqueeze(0), module)
            return {**super().to_lua(module, ctx), "batchGrid": batch}


@lua_class("nn.BilinearSamplerBHWD")
class BilinearSamplerBHWD(nn.Module):
    """Samples images at the points of a grid by bilinear interpolation, with zeros outside the images.

    Shape:
        - Input: ``[images, grid]``, :math:`(B, H, W, D)` and :math:`(B, H', W', 2)`, or both without B.
        - Output: :math:`(B, H', W', D)`, or without B.

    Differs from PyTorch:
        ``grid_sample(align_corners=True)`` with channels last and y before x.

    Lua:
        ``nn.BilinearSamplerBHWD()``, stn BilinearSamplerBHWD.lua
    """

    def forward(self, input: list[Tensor]) -> Tensor:
        images, grid = input
        single = images.dim() == 3
        if single:
            images, grid = images.unsqueeze(0), grid.unsqueeze(0)
        output = F.grid_sample(images.permute(0, 3, 1, 2), grid.flip(-1), align_corners=True).permute(0, 2, 3, 1)
        return output.squeeze(0) if single else output


@lua_class("nn.AffineTransformMatrixGenerator")
class AffineTransformMatrixGenerator(nn.Module):
    """Computes an affine matrix from a rotation angle, a scale and a translation, or returns six numbers as a matrix.

    The translation is applied in the rotated and scaled frame.

    Args:
        use_rotation: the input contains an angle in radians.
        use_scale: the input contains a factor.
        use_translation: the input contains two shifts. If all three are False, the input is the complete matrix.

    Shape:
        - Input: :math:`(B, P)` or :math:`(P)` with the parameters in the order above.
        - Output: :math:`(B, 2, 3)` or :math:`(2, 3)`.

    Lua:
        ``nn.AffineTransformMatrixGenerator(useRotation, useScale, useTranslation)``, stn
        AffineTransformMatrixGenerator.lua
    """

    def __init__(self, use_rotation: bool = False, use_scale: bool = False, use_translation: bool = False) -> None:
        super().__init__()
        self.use_rotation, self.use_scale, self.use_translation = use_rotation, use_scale, use_translation

    @property
    def full_mode(self) -> bool:
        """Whether the input is the complete matrix."""
        return not (self.use_rotation or self.use_scale or self.use_translation)

    def forward(self, input: Tensor) -> Tensor:
        if self.full_mode:
            return input.unflatten(-1, (2, 3))
        parameters = list(input.unbind(-1))
        zero, one = torch.zeros_like(parameters[0]), torch.ones_like(parameters[0])
        angle = parameters.pop(0) if self.use_rotation else zero
        scale = parameters.pop(0) if self.use_scale else one
        shift = torch.stack(parameters if self.use_translation else [zero, zero], -1)
        cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
        linear = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
        return torch.cat([linear, linear @ shift.unsqueeze(-1)], -1)

    class Lua(LuaClass):
        scalars = {"useRotation": "use_rotation", "useScale": "use_scale", "useTranslation": "use_translation"}
        defaults = {"useRotation": False, "useScale": False, "useTranslation": False}
        scratch = ("rotationOutput", "scaleOutput")

        @classmethod
        def to_lua(cls, module: AffineTransformMatrixGenerator, ctx: LuaContext) -> dict[str, Any]:
            if module.full_mode:
                return {"fullMode": True}
            return {**super().to_lua(module, ctx), "fullMode": False}
