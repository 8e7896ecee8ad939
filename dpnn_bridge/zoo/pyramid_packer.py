"""e-lab's packing of several scales of an image into one image, and its inverse."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.lua_values import short_list
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.objects import LuaObject, LuaTable

#: step and size of the network's receptive fields in pixels. Torch7's forward pass always sets these values, instead of
#: the values that its constructor derives from the network
STEP = 4
KERNEL = 46


def resized(source: int, target: int, like: Tensor) -> Tensor:
    """Return the matrix :math:`(target, source)` that resizes a row like Torch7's ``image.scale(…, 'bilinear')``.

    A row is enlarged by linear interpolation between its first and last pixel, and reduced by the mean of the pixels
    that a new pixel covers.
    """
    i, k = (torch.arange(size, device=like.device).to(like.dtype) for size in (target, source))
    if target > source:
        position = (i * (source - 1) / (target - 1)).unsqueeze(1)
        return (1 - (position - k).abs()).clamp(min=0)
    start, end = (i * source / target).unsqueeze(1), ((i + 1) * source / target).unsqueeze(1)
    covered = torch.minimum(k + 1, end) - torch.maximum(k, start)
    return covered.clamp(min=0) * target / source


@lua_class("nn.PyramidPacker")
class PyramidPacker(nn.Module):
    """Packs several scales of an image into one image: the second below the first, the third right of the second, etc.

    Args:
        scales: factors of the size. Each scaled image starts a multiple of :data:`STEP` pixels after the first.

    Shape:
        - Input: :math:`(C, H, W)`.
        - Output: ``[packed, coordinates]``, :math:`(C, H', W')` and :math:`(scales, 6)`: for each scale, the left,
          upper, right and lower pixel, counted from 1, the width and the height.

    Differs from Torch7:
        The input gets the gradient of the packed image; Torch7 defines no gradient.

    Lua:
        ``nn.PyramidPacker(network, scales)``, e-lab PyramidPacker.lua; it returns two values
    """

    def __init__(self, scales: list[float]) -> None:
        super().__init__()
        self.scales = scales

    def forward(self, input: Tensor) -> list[Tensor]:
        boxes = self._boxes(*input.shape[1:])
        packed = input.new_zeros(len(input), max(b[3] for b in boxes), max(b[2] for b in boxes))
        for left, upper, right, lower, width, height in boxes:
            scaled = resized(input.shape[1], height, input) @ input @ resized(input.shape[2], width, input).T
            packed[:, upper - 1 : lower, left - 1 : right] = scaled
        return [packed, input.new_tensor(boxes)]

    def _boxes(self, rows: int, columns: int) -> list[list[int]]:
        boxes: list[list[int]] = []
        for i, scale in enumerate(self.scales):
            width, height = math.floor(columns * scale), math.floor(rows * scale)
            left, upper = (boxes[-1][0], boxes[-1][1]) if boxes else (1, 1)
            if i % 2:
                upper = self._next_start(boxes[-1][3])
            elif boxes:
                left = self._next_start(boxes[-1][2])
            boxes.append([left, upper, left + width - 1, upper + height - 1, width, height])
        return boxes

    def _next_start(self, pixel: int) -> int:
        """Return the first pixel at which a scaled image may start after the given pixel."""
        return ((pixel - 1) // STEP + 1) * STEP + 1

    class Lua(LuaClass):
        """The file contains the scales twice: in the table and after the table."""

        checked_by = "formula"
        test = "test_scales_stand_below_and_beside_each_other"
        constants = {"dim_width": 1, "dim_height": 1, "dimz": 1, "step_width": STEP, "step_height": STEP}

        @classmethod
        def handled(cls, module: nn.Module) -> set[str]:
            return super().handled(module) | {"scales", *cls.constants, "coordinates", "max_width", "max_height"}

        @classmethod
        def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
            return {"scales": [float(scale) for scale in short_list(obj["scales"])]}

        @classmethod
        def to_lua(cls, module: PyramidPacker, ctx: LuaContext) -> dict[str, Any]:
            output = ctx.typed_constant(torch.zeros(1, 1, 1), module)
            return {**cls.constants, "scales": LuaTable.from_list(module.scales), "output": output}

        @classmethod
        def header(cls, obj: LuaObject) -> tuple[Any, ...]:
            return tuple(obj["scales"].as_list())


@lua_class("nn.PyramidUnPacker")
class PyramidUnPacker(nn.Module):
    """Extracts the feature maps of the scales from the feature map of a packed image.

    The network computes one position of the feature map from :data:`KERNEL` pixels, every :data:`STEP` pixels.

    Shape:
        - Input: ``[features, coordinates]``, :math:`(C, H, W)`, and :math:`(scales, 6)` of :class:`PyramidPacker`.
        - Output: list of :math:`(C, h_i, w_i)`.

    Lua:
        ``nn.PyramidUnPacker(network)``, e-lab PyramidUnPacker.lua; it takes two arguments
    """

    def forward(self, input: list[Tensor]) -> list[Tensor]:
        features, coordinates = input
        parts = []
        for left, upper, _, _, width, height in coordinates.long().tolist():
            y, x = (upper - 1) // STEP, (left - 1) // STEP
            rows, columns = ((size - KERNEL) // STEP + 1 for size in (height, width))
            parts.append(features.narrow(1, y, rows).narrow(2, x, columns))
        return parts

    class Lua(LuaClass):
        checked_by = "formula"
        test = "test_maps_of_the_scales_are_cut_out"
        scratch = ("out_tbl", "coordinates")
        constants = {"step_width": STEP, "step_height": STEP, "ker_width": KERNEL, "ker_height": KERNEL}
