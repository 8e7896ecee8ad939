"""Subsampling with a trained factor and bias for each channel."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.contexts import TorchContext
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.initialization import init_uniform
from dpnn_bridge.objects import LuaObject, LuaTensor


@lua_class("nn.SpatialSubSampling")
class SpatialSubSampling(nn.Module):
    """Computes the sum over each window, multiplied by a weight per channel, plus a bias per channel.

    Args:
        in_channels: number of channels.
        kernel_size: height and width of a window.
        stride: vertical and horizontal distance between windows.
        weight_shape: shape of the weight; only its first C elements are used. Files of 2011 contain more elements.

    Shape:
        - Input: :math:`(N, C, H, W)` or :math:`(C, H, W)`.
        - Output: the input's shape with the pooled height and width.

    Attributes:
        weight: weight of shape :math:`(C)`, or of ``weight_shape``.
        bias: bias of shape :math:`(C)`.

    Lua:
        ``nn.SpatialSubSampling(nInputPlane, kW, kH, dW, dH)``, SpatialSubSampling.lua
    """

    def __init__(
        self,
        in_channels: int,
        kernel_size: tuple[int, int],
        stride: tuple[int, int] = (1, 1),
        weight_shape: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.in_channels, self.kernel_size, self.stride = in_channels, kernel_size, stride
        self.weight_shape = tuple(weight_shape) or (in_channels,)
        self.weight, self.bias = (nn.Parameter(torch.empty(size)) for size in (self.weight_shape, in_channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters from Torch7's uniform distribution."""
        init_uniform(math.prod(self.kernel_size), self.weight, self.bias)

    def forward(self, input: Tensor) -> Tensor:
        total = F.avg_pool2d(input, self.kernel_size, self.stride, divisor_override=1)
        weight = self.weight.flatten()[: self.in_channels]
        return total * weight.view(-1, 1, 1) + self.bias.view(-1, 1, 1)

    class Lua(LuaClass):
        scalars = {"nInputPlane": "in_channels", ("kH", "kW"): "kernel_size", ("dH", "dW"): "stride"}
        defaults = {"dH": 1, "dW": 1}
        tensors = ("weight", "bias")

        @classmethod
        def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
            """Accept old weights, with one element per element of a window, of which THNN reads the first C."""
            arguments, weight = super().arguments(obj, ctx), obj.get("weight")
            if isinstance(weight, LuaTensor) and weight.size:
                arguments |= {"in_channels": weight.shape[0], "weight_shape": weight.shape}
            return arguments


@lua_class("nn.TemporalSubSampling")
class TemporalSubSampling(nn.Module):
    """Computes the sum over each window of frames, multiplied by a weight per feature, plus a bias per feature.

    Args:
        frame_size: number of features, C.
        kernel_size: number of frames in a window, k.
        stride: distance between windows in frames, s.

    Shape:
        - Input: :math:`(N, T, C)` or :math:`(T, C)`.
        - Output: the input's shape with :math:`\\lfloor (T - k) / s \\rfloor + 1` frames.

    Attributes:
        weight, bias: parameters of shape :math:`(C)`.

    Lua:
        ``nn.TemporalSubSampling(inputFrameSize, kW, dW)``, TemporalSubSampling.lua
    """

    def __init__(self, frame_size: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__()
        self.frame_size, self.kernel_size, self.stride = frame_size, kernel_size, stride
        self.weight, self.bias = (nn.Parameter(torch.empty(frame_size)) for _ in range(2))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters from Torch7's uniform distribution."""
        init_uniform(self.kernel_size, self.weight, self.bias)

    def forward(self, input: Tensor) -> Tensor:
        return input.unfold(-2, self.kernel_size, self.stride).sum(-1) * self.weight + self.bias

    class Lua(LuaClass):
        scalars = {"inputFrameSize": "frame_size", "kW": "kernel_size", "dW": "stride"}
        defaults = {"dW": 1}
        tensors = ("weight", "bias")
