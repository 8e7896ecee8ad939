"""DeepMask and SharpMask."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.contexts import TorchContext
from dpnn_bridge.conversion.faults import Fault
from dpnn_bridge.conversion.lua_class import LuaClass, WithoutParameters
from dpnn_bridge.conversion.lua_values import short_list
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.objects import LuaObject
from dpnn_bridge.torch7.gradient import with_gradient_of


@lua_class("nn.SpatialSymmetricPadding")
class SpatialSymmetricPadding(nn.Module):
    """Pads an image by reflection that repeats the border pixels; a negative padding crops.

    Args:
        pad_l, pad_r: columns to add on the left and on the right; columns to remove if negative.
        pad_t, pad_b: rows to add at the top and at the bottom; rows to remove if negative.

    Shape:
        - Input: :math:`(N, C, H, W)`.
        - Output: :math:`(N, C, H + pad_t + pad_b, W + pad_l + pad_r)`.

    Differs from PyTorch:
        No gradient flows through the added border, as in Torch7.

    Lua:
        ``nn.SpatialSymmetricPadding(pad_l, pad_r, pad_t, pad_b)``, deepmask SpatialSymmetricPadding.lua
    """

    def __init__(self, pad_l: int, pad_r: int, pad_t: int, pad_b: int) -> None:
        super().__init__()
        self.pad_l, self.pad_r, self.pad_t, self.pad_b = pad_l, pad_r, pad_t, pad_b

    def forward(self, input: Tensor) -> Tensor:
        rows = _reflected_indices(input.shape[2], self.pad_t, self.pad_b, input.device)
        columns = _reflected_indices(input.shape[3], self.pad_l, self.pad_r, input.device)
        value = input.detach()[:, :, rows][:, :, :, columns]
        return with_gradient_of(value, F.pad(input, (self.pad_l, self.pad_r, self.pad_t, self.pad_b)))

    class Lua(LuaClass):
        scalars = ("pad_l", "pad_r", "pad_t", "pad_b")


def _reflected_indices(size: int, before: int, after: int, device: torch.device) -> Tensor:
    """Return the source index of each padded position. Negative paddings crop before the axis is reflected."""
    start, end = max(0, -before), size - max(0, -after)
    kept = end - start
    if max(before, after) > kept:
        raise ValueError(f"SpatialSymmetricPadding: {kept} pixels are too few for a padding of {max(before, after)}")
    i = torch.arange(-max(0, before), kept + max(0, after), device=device)
    i = torch.where(i < 0, -1 - i, i)
    return torch.where(i >= kept, 2 * kept - 1 - i, i) + start


@lua_class("nn.DeepMask")
class DeepMask(nn.Module):
    """Predicts a mask and a score from the features of a common trunk.

    Args:
        trunk: maps the image to features.
        mask_branch: maps the features to the mask, one row for each image.
        score_branch: maps the features to the score.

    Shape:
        - Input: :math:`(N, 3, H, W)`.
        - Output: ``[mask, score]``, :math:`(N, h w)` and :math:`(N, 1)`.

    Lua:
        ``nn.DeepMask(config)``, deepmask DeepMask.lua. Torch7's class has no forward pass; its scripts call the trunk
        and the branches.
    """

    def __init__(self, trunk: nn.Module, mask_branch: nn.Module, score_branch: nn.Module) -> None:
        super().__init__()
        self.trunk, self.mask_branch, self.score_branch = trunk, mask_branch, score_branch

    def forward(self, input: Tensor) -> list[Tensor]:
        features = self.trunk(input)
        return [self.mask_branch(features), self.score_branch(features)]

    class Lua(LuaClass):
        members = {"trunk": "trunk", "maskBranch": "mask_branch", "scoreBranch": "score_branch"}
        checked_by = "structure"
        test = "test_mask_and_score_of_deepmask"


@lua_class("nn.SharpMask")
class SharpMask(nn.Module):
    """Refines DeepMask's coarse mask with the features of earlier layers of the trunk.

    Args:
        trunk: sequence of layers that maps the image to features.
        score_branch: maps the features to the score; not used in the forward pass.
        mask_branch: maps the features to DeepMask's coarse mask; not used in the forward pass.
        refinements: the first maps the features to a mask, each other ``[features of an earlier layer, mask]``.
        skips: positions of the earlier layers in the trunk, counted from 1.

    Shape:
        - Input: :math:`(N, 3, H, W)`.
        - Output: the refined mask, :math:`(N, h w)`.

    Differs from PyTorch:
        Only the refinements are trained; no gradient reaches the trunk.

    Lua:
        ``nn.SharpMask(config)``, deepmask SharpMask.lua
    """

    def __init__(
        self,
        trunk: nn.Sequential,
        score_branch: nn.Module,
        mask_branch: nn.Module,
        refinements: list[nn.Module],
        skips: list[int],
    ) -> None:
        super().__init__()
        self.trunk, self.score_branch, self.mask_branch = trunk, score_branch, mask_branch
        self.refinements, self.skips = nn.ModuleList(refinements), skips

    def forward(self, input: Tensor) -> Tensor:
        features = []
        for layer in self.trunk:
            input = layer(input)
            features.append(input.detach())
        first, *refinements = self.refinements
        mask = first(features[-1])
        for skip, refinement in zip(self.skips, refinements, strict=True):
            mask = refinement([features[skip - 1], mask])
        return mask

    class Lua(WithoutParameters):
        """``netvs`` and ``neths`` are kept unchanged: their modules are also modules of the refinements."""

        faults = (
            Fault(
                ("gradInput",), "Torch7 returns the gradient of the trunk's output, as only the refinements are trained"
            ),
        )
        members = {"trunk": "trunk", "scoreBranch": "score_branch", "maskBranchDM": "mask_branch"}
        scratch = ("inps",)

        @classmethod
        def matches(cls, obj: LuaObject) -> bool:
            return "refs" in obj

        @classmethod
        def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
            refs = obj["refs"]
            refinements = [ctx.to_torch(refs[i], "refs", i) for i in range(len(refs))]
            return {**super().arguments(obj, ctx), "refinements": refinements, "skips": short_list(obj["skpos"])}
