"""Layers of Shift-Net: features of the known part of an image fill the missing part."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.torch7.gradient import refuse_gradient, scale_gradient, with_gradient_of


@lua_class("nn.MaxCoord")
class MaxCoord(nn.Module):
    """One at the channel with the largest value, zero at the others; its backward pass raises.

    Args:
        inplace: kept for Torch7.

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
    """Adds to decoder and encoder features those of the encoder moved into the missing part.

    Each position of the missing part takes the encoder's features from the known position that is most similar to its
    decoder's features: the largest dot product with the encoder's features, normalized to length 1. The moved features
    receive the gradient at their new position, times ``triple_weight``. The selection and the mask have no gradient.

    Args:
        name: name of the layer.
        threshold: a position is missing where the mask is larger.
        mask_threshold: positions whose mask, 0 or 1, is smaller are known.
        triple_weight: scale of the gradient of the moved features.
        shift_size, stride: 1; Torch7 has no other.
        fixed_mask: the mask never changes; Torch7 then keeps the first one.

    Shape:
        - Input: :math:`(N, 2 C + 1, H, W)`: decoder's and encoder's features, and the mask, of which the first sample
          counts.
        - Output: :math:`(N, 3 C, H, W)`.

    Differs from Torch7:
        Uses the mask of every call, also if ``fixed_mask`` is set.

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
            """Return also ``cal_fixedFlag``: if it were written, Torch7 would use a mask that the file lacks."""
            return super().handled(module) | {"cal_fixedFlag"}
