"""Convolution with binary weights: SpatialBinaryConvolution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.contexts import TorchContext
from dpnn_bridge.conversion.faults import Fault, OtherVersion
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.convolution import SPATIAL
from dpnn_bridge.objects import LuaObject, LuaTensor
from dpnn_bridge.torch7.gradient import scale_gradient, with_gradient_of

_LOST = "it was saved between a forward and a backward pass, and Torch7 goes on with the signs of the weights"


def _forward_with_signs(module: SpatialBinaryConvolution, input: Tensor) -> Tensor:
    """Compute Torch7's next forward pass after the weights are lost: all scales are 1."""
    if not module._loses_weights:
        return type(module).forward(module, input)
    signs = with_gradient_of(_signs(module.weight), module.weight)
    return F.conv2d(input, signs, None, module.stride, module.padding)


def _signs(weight: Tensor) -> Tensor:
    return torch.where(weight.detach() >= 0, 1.0, -1.0).to(weight.dtype)


@lua_class("nn.SpatialBinaryConvolution")
class SpatialBinaryConvolution(nn.Conv2d):
    r"""Convolution with the signs of the weights; scales each output channel by its mean absolute weight.

    The gradients are Torch7's. The input gradient uses the signs (in evaluation mode the weights) and is scaled for
    each input channel by :math:`\sum |w| / (C_{out} k_H k_W)`. The weight gradient is that of an ordinary convolution,
    without scaling.

    Args:
        in_channels, out_channels, kernel_size, stride, padding: as in :class:`torch.nn.Conv2d`. There is no bias.

    Shape:
        - Input: :math:`(N, C_{in}, H, W)` or :math:`(C_{in}, H, W)`.
        - Output: :math:`(N, C_{out}, H', W')` or :math:`(C_{out}, H', W')`.

    Lua:
        ``nn.SpatialBinaryConvolution(nInputPlane, nOutputPlane, kW, kH, dW, dH, padW, padH)``,
        SpatialBinaryConvolution.lua. Torch7 overwrites ``weight`` with the signs between the forward and the backward
        pass. A file written at that time has the weights in ``tempWeight``, from which they are read. The next
        forward pass loses the weights in Torch7, also if it is in evaluation mode, but not here.

    References:
        Rastegari et al., XNOR-Net, https://arxiv.org/abs/1603.05279
    """

    #: whether Torch7's next forward pass loses the weights: the file was saved between forward and backward
    _loses_weights = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        *,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, bias=False, device=device, dtype=dtype
        )

    def forward(self, input: Tensor) -> Tensor:
        magnitude = self.weight.detach().abs()
        kernel = self.kernel_size[0] * self.kernel_size[1]
        output_scale = magnitude.sum((1, 2, 3)) / (self.in_channels * kernel)
        input_scale = magnitude.sum((0, 2, 3)) / (self.out_channels * kernel)
        scaled = scale_gradient(input, input_scale[:, None, None])
        unscaled = F.conv2d(scaled, with_gradient_of(_signs(self.weight), self.weight), None, self.stride, self.padding)
        value = unscaled * output_scale[:, None, None]
        if not self.training and torch.is_grad_enabled():
            unscaled = F.conv2d(scaled, self.weight, None, self.stride, self.padding)
        return with_gradient_of(value, unscaled)

    class Lua(LuaClass):
        computed_fields = ("iwh", "owh")
        scalars = SPATIAL
        defaults = {"padH": 0, "padW": 0}
        tensors = ("weight",)
        scratch = ("finput", "fgradInput", "tempWeight", "alphas", "gradInputAlphas", "wmask")
        faults = (Fault(("params",), _LOST, when=lambda module: module._loses_weights, spreads=False),)  # type: ignore[arg-type, return-value]
        other_version = OtherVersion(_LOST, _forward_with_signs)

        @classmethod
        def upgrade(cls, obj: LuaObject) -> LuaObject:
            weight, real = obj["weight"], obj.get("tempWeight")
            if not isinstance(real, LuaTensor) or real.size != weight.size:
                return obj
            saved, restored = weight.torch(), real.torch().reshape(weight.shape)
            if torch.equal(saved, restored) or not torch.equal(saved, _signs(restored)):
                return obj
            return obj.changed(weight=real)

        @classmethod
        def fill(cls, module: SpatialBinaryConvolution, obj: LuaObject, ctx: TorchContext) -> None:
            super().fill(module, obj, ctx)
            if obj["weight"] is obj.get("tempWeight"):
                module._loses_weights = True
                ctx.note(f"{obj.class_name} contains the weights in tempWeight: {_LOST}")

        @classmethod
        def to_lua(cls, module: SpatialBinaryConvolution, ctx: Any) -> dict[str, Any]:
            kernel = module.kernel_size[0] * module.kernel_size[1]
            sizes = {"iwh": module.in_channels * kernel, "owh": module.out_channels * kernel}
            return {**super().to_lua(module, ctx), **sizes}
