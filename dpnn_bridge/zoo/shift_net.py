"""Layers of Shift-Net, which fills the missing part of an image with features of the known part."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.torch7.gradient import refuse_gradient, scale_gradient, with_gradient_of


@lua_class("nn.MaxCoord")
class MaxCoord(nn.Module):
    """Returns 1 at the channel with the largest value and 0 at other channels. The backward pass raises an error.

    Args:
        inplace: kept for the export; the input is never overwritten.

    Shape:
        - Input, output: :math:`(N, C, H, W)` or :math:`(C, H, W)`.

    Lua:
        ``nn.MaxCoord(inplace)``, Shift-Net lib/MaxCoord.lua, style-swap
    """

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        best = F.one_hot(input.argmax(-3), input.shape[-3]).movedim(-1, -3).to(input.dtype)
        return refuse_gradient(with_gradient_of(best, input), "MaxCoord has no backward pass")

    class Lua(LuaClass):
        scalars = ("inplace",)
        defaults = {"inplace": False}
        scratch = ("ind",)
        checked_by = "formula"
        test = "test_max_coord_marks_the_largest_channel"


@lua_class("nn.InnerTripleShift")
class InnerTripleShift(nn.Module):
    """Appends encoder features, moved from the known part of the image to the missing part.

    Each missing position gets the encoder features of the most similar known position: the position whose encoder
    features, normalized to length 1, have the largest dot product with the decoder features of the missing position.
    The gradient at the new position, times ``triple_weight``, is added at the original position. The selection and the
    mask have no gradient.

    Args:
        name: name of the layer.
        threshold: a position is missing if its mask is larger.
        mask_threshold: a position is known if its binary mask, 1 if missing and 0 otherwise, is smaller.
        triple_weight: factor of the gradient of the moved features.
        shift_size, stride: must be 1; Torch7 does not support other values.
        fixed_mask: Torch7 uses the mask of the first call in all calls; kept for the export.

    Shape:
        - Input: :math:`(N, 2 C + 1, H, W)`: features of the decoder and of the encoder, and the mask. Only the mask of
          the first sample is used.
        - Output: :math:`(N, 3 C, H, W)`: features of the decoder and of the encoder, and the moved features.

    Differs from Torch7:
        Every call uses its own mask, even if ``fixed_mask`` is set.

    Lua:
        ``nn.InnerTripleShift(cls, shift_size, threshold, stride, mask_thred, triple_weight, fixed_mask)``, Shift-Net
        lib/innerTripleShift.lua; runs on CUDA only
    """

    def __init__(
        self,
        name: str,
        threshold: float,
        mask_threshold: float,
        triple_weight: float = 1,
        *,
        shift_size: int = 1,
        stride: int = 1,
        fixed_mask: bool | None = None,
    ) -> None:
        super().__init__()
        if (shift_size, stride) != (1, 1):
            raise ValueError(
                f"InnerTripleShift moves single positions: shift_size and stride must be 1, found {shift_size, stride}"
            )
        self.name, self.threshold, self.mask_threshold = name, threshold, mask_threshold
        self.triple_weight, self.fixed_mask = triple_weight, fixed_mask
        self.shift_size, self.stride = shift_size, stride

    def forward(self, input: Tensor) -> Tensor:
        channels = (input.shape[1] - 1) // 2
        decoder, encoder = input[:, :channels], input[:, channels : 2 * channels]
        missing = (input[0, -1] > self.threshold).flatten()
        known = missing.to(input.dtype) < self.mask_threshold
        queries, keys = decoder.detach().flatten(2), encoder.detach().flatten(2)
        keys = keys / (torch.linalg.vector_norm(keys, dim=1, keepdim=True) + 1e-8)
        similarity = (queries.transpose(1, 2) @ keys).masked_fill(~known, -torch.inf)
        source = similarity.argmax(2, keepdim=True).transpose(1, 2).expand(-1, channels, -1)
        moved = scale_gradient(encoder.flatten(2), self.triple_weight).gather(2, source)
        moved = with_gradient_of(moved.where(missing, 0), moved.where(~known, 0))
        return torch.cat([decoder, encoder, moved.view_as(encoder)], 1)

    class Lua(LuaClass):
        scalars = {
            "cls": "name",
            "threshold": "threshold",
            "mask_thred": "mask_threshold",
            "triple_w": "triple_weight",
            "shift_size": "shift_size",
            "stride": "stride",
            "fixed_mask": "fixed_mask",
        }
        defaults = {"triple_w": 1, "shift_size": 1, "stride": 1, "fixed_mask": None}
        constants = {"interplote": False}
        scratch = (
            "ex_mask",
            "inv_ex_mask",
            "latent_in_mask",
            "ind_lst",
            "flag",
            "nonmask_point_idx",
            "flatten_offsets",
        )
        checked_by = "formula"
        test = "test_shift_fills_the_missing_part"

        @classmethod
        def handled(cls, module: nn.Module) -> set[str]:
            """Exclude ``cal_fixedFlag`` from the export: it makes Torch7 use a mask that the file does not contain."""
            return super().handled(module) | {"cal_fixedFlag"}
