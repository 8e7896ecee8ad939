"""Criterions of waifu2x (``w2nn.*``)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.lua_class import LuaClass, WithoutParameters, empty_table
from dpnn_bridge.conversion.lua_values import short_list
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor
from dpnn_bridge.torch7.gradient import with_gradient_of


@lua_class("w2nn.ClippedMSECriterion")
class ClippedMSECriterion(nn.Module):
    """Mean squared error of the clamped input.

    Args:
        min, max: bounds of the input.

    Shape:
        - Input: :math:`(N, *)`; target: the same shape.
        - Output: scalar.

    Differs from PyTorch:
        As in Torch7, the gradient is :math:`(clamp(x) - t) / n`, without the factor 2 and also outside the bounds.

    Lua:
        ``w2nn.ClippedMSECriterion(min, max)``, waifu2x lib/ClippedMSECriterion.lua
    """

    def __init__(self, min: float = 0, max: float = 1) -> None:
        super().__init__()
        self.min, self.max = min, max

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        square = (with_gradient_of(input.clamp(self.min, self.max), input) - target).square().mean()
        return with_gradient_of(square, square / 2)

    class Lua(LuaClass):
        scalars = ("min", "max")
        scratch = ("diff", "diff_pow2", "instance_loss")
        constants = {"diff": LuaTensor.empty, "diff_pow2": LuaTensor.empty, "instance_loss": empty_table}


@lua_class("w2nn.ClippedWeightedHuberCriterion")
class ClippedWeightedHuberCriterion(nn.Module):
    """Huber loss of the clamped input, with one weight for each element of a sample.

    Args:
        weight: weights of the differences, a buffer of shape :math:`(*)`.
        gamma: weighted difference above which the loss is linear.
        clip: lower and upper bound of the input.

    Shape:
        - Input: :math:`(N, *)`; target: the same shape.
        - Output: scalar.

    Differs from PyTorch:
        As in Torch7, the gradient is not multiplied by the weight, and it passes outside the bounds too.

    Lua:
        ``w2nn.ClippedWeightedHuberCriterion(w, gamma, clip)``, waifu2x lib/ClippedWeightedHuberCriterion.lua
    """

    weight: Tensor

    def __init__(self, weight: Tensor, gamma: float, clip: tuple[float, float]) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.gamma, self.clip = gamma, clip

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        difference = with_gradient_of((input.clamp(*self.clip) - target) * self.weight, input)
        return F.huber_loss(difference, torch.zeros_like(difference), delta=self.gamma)

    class Lua(LuaClass):
        scalars = ("gamma",)
        tensors = ("weight",)
        tensor_args = ("weight",)
        scratch = ("diff", "diff_abs", "square_loss_buff", "linear_loss_buff")
        constants = dict.fromkeys(scratch, LuaTensor.empty)

        @classmethod
        def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
            return {**super().arguments(obj, ctx), "clip": tuple(short_list(obj["clip"]))}

        @classmethod
        def to_lua(cls, module: ClippedWeightedHuberCriterion, ctx: Any) -> dict[str, Any]:
            return {**super().to_lua(module, ctx), "clip": LuaTable.from_list(module.clip)}


@lua_class("w2nn.L1Criterion")
class L1Criterion(nn.Module):
    """Mean absolute difference.

    Shape:
        - Input: :math:`(*)`; target: the same shape. For input :math:`(N)`, the target is a number, which is subtracted
          from the first element only.
        - Output: scalar.

    Lua:
        ``w2nn.L1Criterion()``, waifu2x lib/L1Criterion.lua
    """

    def forward(self, input: Tensor, target: Any) -> Tensor:
        if input.dim() == 1:
            if isinstance(target, Tensor) and target.numel() != 1:
                raise ValueError(
                    f"L1Criterion: for an input of one dimension the target is one number, found {target.numel()}"
                )
            return torch.cat([input[:1] - target, input[1:]]).abs().mean()
        return F.l1_loss(input, target)

    class Lua(LuaClass):
        scratch = ("diff", "linear_loss_buff")
        constants = dict.fromkeys(scratch, LuaTensor.empty)


@lua_class("w2nn.LBPCriterion")
class LBPCriterion(nn.Module):
    """Huber loss between random binary patterns of two images.

    Args:
        filter1: fixed convolutions that compute the patterns of the input.
        filter2: fixed convolutions that compute the patterns of the target.
        ch: number of channels of the images.
        n: number of patterns.
        gamma: difference above which the loss is linear.

    Shape:
        - Input: :math:`(N, C, H, W)`, or square images as :math:`(N, C H W)`; target: the same shape.
        - Output: scalar.

    Differs from PyTorch:
        As in Torch7, the gradient is scaled by :math:`n / numel(input)` instead of :math:`1 / numel(patterns)`, and it
        also passes where the input was clamped to [0, 1].

    Lua:
        ``w2nn.LBPCriterion(ch, n, k, layers)``, waifu2x lib/LBPCriterion.lua
    """

    def __init__(self, filter1: nn.Module, filter2: nn.Module, ch: int, n: int, gamma: float = 0.1) -> None:
        super().__init__()
        self.filter1, self.filter2, self.ch, self.n, self.gamma = filter1, filter2, ch, n, gamma

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        image = self._as_images(input)
        patterns = self.filter1(with_gradient_of(image.clamp(0, 1), image))
        expected = self.filter2(self._as_images(target).clamp(0, 1))
        total = F.huber_loss(patterns, expected, delta=self.gamma, reduction="sum")
        return with_gradient_of(total / patterns.numel(), total * self.n / image.numel())

    def _as_images(self, x: Tensor) -> Tensor:
        if x.dim() != 2:
            return x
        side = round((x.shape[1] / self.ch) ** 0.5)
        return x.reshape(-1, self.ch, side, side)

    class Lua(WithoutParameters):
        members = ("filter1", "filter2")
        scalars = ("ch", "n", "gamma")
        scratch = ("diff", "diff_abs", "square_loss_buff", "linear_loss_buff", "input", "target")
        constants = {"k": 3, "layers": 1, **dict.fromkeys(scratch, LuaTensor.empty)}


@lua_class("w2nn.SSIMCriterion")
class SSIMCriterion(nn.Module):
    """Mean structural similarity of two images in [0, 1].

    Args:
        conv: convolution without bias whose weight is the Gaussian window.
        c1, c2: constants that avoid division by zero.
        ch: number of channels.

    Shape:
        - Input: :math:`(N, C, H, W)`; target: the same shape.
        - Output: scalar.

    Differs from Torch7:
        Torch7 raises an error in the backward pass; here the gradient is the derivative.

    Lua:
        ``w2nn.SSIMCriterion(ch, kernel_size, sigma)``, waifu2x lib/SSIMCriterion.lua
    """

    def __init__(self, conv: nn.Module, c1: float, c2: float, ch: int = 1) -> None:
        super().__init__()
        self.conv, self.c1, self.c2, self.ch = conv.requires_grad_(False), c1, c2, ch

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        mean1, mean2 = self.conv(input), self.conv(target)
        variance1 = self.conv(input * input) - mean1 * mean1
        variance2 = self.conv(target * target) - mean2 * mean2
        covariance = self.conv(input * target) - mean1 * mean2
        similarity = (2 * mean1 * mean2 + self.c1) * (2 * covariance + self.c2)
        norm = (mean1 * mean1 + mean2 * mean2 + self.c1) * (variance1 + variance2 + self.c2)
        return (similarity / norm).mean()

    class Lua(WithoutParameters):
        members = ("conv",)
        scalars = ("c1", "c2", "ch")
        scratch = ("mu1", "mu2", "mu1_sq", "mu2_sq", "mu1_mu2", "sigma1_sq", "sigma2_sq", "sigma12", "ssim_map")
        constants = dict.fromkeys(scratch, LuaTensor.empty)


@lua_class("w2nn.AuxiliaryLossCriterion")
class AuxiliaryLossCriterion(nn.Sequential):
    """Mean of the losses of several outputs and the same target.

    Args:
        *criterions: one criterion for each output.

    Shape:
        - Input: list of tensors, or one tensor in evaluation; target: one tensor.
        - Output: scalar.

    Raises:
        ConversionError: the file contains fewer criterions than there are outputs. Torch7 creates them in the first
            call from a class that the file does not contain.

    Lua:
        ``w2nn.AuxiliaryLossCriterion(base_criterion, args)``, waifu2x lib/AuxiliaryLossCriterion.lua
    """

    def forward(self, input: Any, target: Tensor) -> Tensor:  # type: ignore[override]
        outputs = list(input) if isinstance(input, (list, tuple)) else [input]
        if len(outputs) > len(self):
            raise ConversionError(
                f"{len(outputs)} outputs but {len(self)} criterions: the file was saved before the first call; "
                "append the criterions to this module",
                class_name="w2nn.AuxiliaryLossCriterion",
            )
        losses = [criterion(output, target) for criterion, output in zip(self, outputs, strict=False)]
        return torch.stack(losses).mean()

    class Lua(LuaClass):
        computed_fields = ("criterions",)
        checked_by = "structure"
        test = "test_object_becomes_a_module_and_an_object_again"
        scratch = ("instance_loss",)
        constants = {"sizeAverage": False, "gradInput": empty_table}

        @classmethod
        def build(cls, obj: LuaObject, ctx: TorchContext) -> nn.Module:
            return AuxiliaryLossCriterion(*ctx.children(obj, "criterions"))

        @classmethod
        def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
            criterions = LuaTable.from_list(ctx.to_lua(m) for m in cls.children(module))
            return {**super().to_lua(module, ctx), "criterions": criterions}
