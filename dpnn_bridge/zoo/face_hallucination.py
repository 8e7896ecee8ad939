"""Layers of attention-aware face hallucination."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.contexts import LuaContext
from dpnn_bridge.conversion.lua_class import LuaClass, plain_object
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.dpnn.reward import ClassReward
from dpnn_bridge.objects import LuaTable, LuaTensor
from dpnn_bridge.torch7.gradient import with_gradient_of, zero_gradient


@lua_class("nn.SpatialGlimpse_inverse")
class SpatialGlimpseInverse(nn.Module):
    """Pastes a patch into an image at the position of a glimpse; parts outside the image are cut off.

    The gradient of the image is the complete output gradient, including the pixels under the patch; with ``residual``
    it is zero. The gradient of the position is zero.

    Args:
        height, width: size of the patch.
        residual: paste the patch into zeros instead of the image.

    Shape:
        - Input: ``[image, patch, position]``: :math:`(N, C, H, W)`, :math:`(N, C, h, w)` and :math:`(N, 2)` with y
          and x from -1 to 1.
        - Output: :math:`(N, C, H, W)`.

    Lua:
        ``nn.SpatialGlimpse_inverse(size, residual)``, SpatialGlimpse_inverse.lua
    """

    def __init__(self, height: int, width: int, residual: bool = False) -> None:
        super().__init__()
        self.height, self.width, self.residual = height, width, residual

    def forward(self, input: list[Tensor]) -> Tensor:
        image, patch, position = input
        rows, row_inside = self._rows_of_patch(position[:, 0], image.shape[2], self.height)
        columns, column_inside = self._rows_of_patch(position[:, 1], image.shape[3], self.width)
        samples = torch.arange(len(image), device=image.device)[:, None, None]
        spread = patch.movedim(1, -1)[samples, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)
        inside = (row_inside[:, :, None] & column_inside[:, None, :]).unsqueeze(1)
        pasted = spread.where(inside, 0)
        if not self.residual:
            pasted = with_gradient_of(spread.where(inside, image), pasted + image)
        return zero_gradient(pasted, position, image)

    def _rows_of_patch(self, position: Tensor, size: int, length: int) -> tuple[Tensor, Tensor]:
        """Return, for each row of the image, the row of the patch, and whether the patch covers the row."""
        border = (length - 1) // 2
        largest = size + 2 * border - length
        start = ((position.detach().double() + 1) / 2 * largest).clamp(0, largest).long()
        source = torch.arange(size, device=position.device) + border - start[:, None]
        return source.clamp(0, length - 1), (source >= 0) & (source < length)

    class Lua(LuaClass):
        scalars = ("height", "width", "residual")
        defaults = {"residual": False}
        checked_by = "formula"
        test = "test_a_patch_goes_back_where_the_glimpse_was"

        @classmethod
        def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
            gradients = LuaTable.from_list([LuaTensor.empty(ctx.type_of(module)) for _ in range(3)])
            return {**super().to_lua(module, ctx), "gradInput": gradients}


@lua_class("nn.VRMSEReward")
class VRMSEReward(ClassReward):
    """Rewards REINFORCE modules for a small error of an image and for a large attended area.

    The loss is the mean squared error; for its backward pass see
    :class:`~dpnn_bridge.modules.dpnn.reward.ClassReward`. The reward of a sample is 4, minus the squared error
    summed over channels and averaged over pixels, plus ``area_scale`` times the attended fraction of the image.

    Args:
        module: the network with the REINFORCE modules.
        scale: kept for the export; the reward does not depend on it.
        criterion: compares the baseline with the reward; default: mean squared error.
        size_average: divide the reward by the batch size.
        area_scale: weight of the attended fraction.
        image_size: height and width of the image, whose product divides the attended area. The file does not contain
            them: in Torch7 they are the option ``highResSize`` of the training script.

    Shape:
        - Input: ``[image, attended, baseline]``: :math:`(N, C, H, W)`, :math:`(N, 1, H, W)` with 1 at attended
          pixels, and :math:`(N, 1)`.
        - Target: :math:`(N, C, H, W)`.
        - Output: the loss, a number.

    Lua:
        ``nn.VRMSEReward(module, scale, areaScale, criterion)``, Attention-FH VRMSEReward.lua
    """

    def __init__(
        self,
        module: nn.Module,
        scale: float = 1,
        criterion: nn.Module | None = None,
        *,
        size_average: bool = True,
        area_scale: float = 4,
        image_size: tuple[int, int] = (128, 128),
    ) -> None:
        super().__init__(module, scale, criterion, size_average=size_average)
        self.area_scale, self.image_size = area_scale, image_size

    def forward(self, input: list[Tensor], target: Tensor) -> Tensor:
        image, attended, baseline = input
        error = (image.detach() - target).square()
        height, width = self.image_size
        area = attended.detach().flatten(1).sum(1) / (height * width)
        reward = 4 - error.sum((1, 2, 3)) / image.shape[2:].numel() + self.area_scale * area
        return self.rewarded(error.mean(), reward, image, baseline)

    class Lua(ClassReward.Lua):
        scalars = {**ClassReward.Lua.scalars, "areaScale": "area_scale"}
        constants = {"errorC": plain_object("nn.MSECriterion", sizeAverage=True)}
        checked_by = "formula"
        test = "test_a_small_error_and_a_large_area_are_rewarded"
