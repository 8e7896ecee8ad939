"""Convolution with binary weights: SpatialBinaryConvolution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.convolution import SPATIAL
from dpnn_bridge.objects import LuaObject, LuaTensor
from dpnn_bridge.torch7.gradient import scale_gradient, with_gradient_of


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
        pass. A file written at that time has the weights in ``tempWeight``, from which they are read. A second
        forward pass in training mode without a backward pass loses the weights in Torch7, but not here.

    References:
        Rastegari et al., XNOR-Net, https://arxiv.org/abs/1603.05279
    """

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
        signs = torch.where(self.weight.detach() >= 0, 1.0, -1.0).to(self.weight.dtype)
        scaled = scale_gradient(input, input_scale[:, None, None])
        unscaled = F.conv2d(scaled, with_gradient_of(signs, self.weight), None, self.stride, self.padding)
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

        @classmethod
        def upgrade(cls, obj: LuaObject) -> LuaObject:
            weight, real = obj["weight"], obj.get("tempWeight")
            if not isinstance(real, LuaTensor) or real.size != weight.size:
                return obj
            signs = torch.where(real.torch() >= 0, 1.0, -1.0).to(weight.torch().dtype)
            if not torch.equal(weight.torch(), signs.reshape(weight.shape)):
                return obj
            return obj.changed(weight=real)

        @classmethod
        def to_lua(cls, module: SpatialBinaryConvolution, ctx: Any) -> dict[str, Any]:
            kernel = module.kernel_size[0] * module.kernel_size[1]
            sizes = {"iwh": module.in_channels * kernel, "owh": module.out_channels * kernel}
            return {**super().to_lua(module, ctx), **sizes}
