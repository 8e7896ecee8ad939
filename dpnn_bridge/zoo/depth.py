"""Layers of depth prediction from sparse samples (fangchangma/sparse-to-dense)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.contexts import LuaContext
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.lua_class import LuaClass, plain_object
from dpnn_bridge.conversion.noise import noise_of
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.objects import LuaObject


@lua_class("nn.Unpool")
class Unpool(nn.Module):
    """Enlarges an image: each pixel becomes the top left pixel of a block of zeros.

    Args:
        in_channels: number of channels.
        kernel_size: size k of the blocks.
        size: height and width of the output; kept for the export.

    Shape:
        - Input: :math:`(N, C, H, W)`.
        - Output: :math:`(N, C, kH, kW)`.

    Lua:
        ``nn.Unpool(nInputPlane, nOutputPlane, iheight, iwidth, k)``, sparse-to-dense modules/Unpool.lua
    """

    def __init__(self, in_channels: int, kernel_size: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.in_channels, self.kernel_size, self.size = in_channels, kernel_size, size

    def forward(self, input: Tensor) -> Tensor:
        zeros = self.kernel_size - 1
        blocks = F.pad(input[:, :, :, None, :, None], (0, zeros, 0, 0, 0, zeros))
        return blocks.flatten(4, 5).flatten(2, 3)

    class Lua(LuaClass):
        scalars = {"nInputPlane": "in_channels", "k": "kernel_size", ("oheight", "owidth"): "size"}
        scratch = ("mask",)

        @classmethod
        def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
            fields = super().to_lua(module, ctx)
            if record_of(module) is None:
                upsample = plain_object("nn.SpatialUpSamplingNearest", scale_factor=fields["k"])
                fields["upsample"] = upsample(ctx.type_of(module))
            return fields


@lua_class("nn.ChannelDropout")
class ChannelDropout(nn.Module):
    """Drops complete input channels, the same channels in every sample, and never all channels.

    The other channels are not scaled.

    Args:
        channels: number of channels.
        p: probability that a channel is dropped.
        stochastic_inference: drop channels in evaluation too.

    Shape:
        - Input, output: :math:`(N, C, H, W)`.

    Raises:
        ValueError: p is 1 or there are no channels, so that no channel can be kept.

    Lua:
        ``nn.ChannelDropout(n, p, stochasticInference)``, sparse-to-dense modules/ChannelDropout.lua
    """

    def __init__(self, channels: int, p: float = 0.5, stochastic_inference: bool = False) -> None:
        super().__init__()
        self.channels, self.p, self.stochastic_inference = channels, p, stochastic_inference

    def forward(self, input: Tensor) -> Tensor:
        if not self.training and not self.stochastic_inference:
            return input
        if self.p >= 1 or not self.channels:
            found = f"p {self.p:g} and {self.channels} channels"
            raise ValueError(f"ChannelDropout keeps at least one channel: p must be below 1, found {found}")
        noise = torch.zeros(self.channels)
        while not noise.any():
            noise = torch.bernoulli(torch.full((self.channels,), 1 - self.p))
        return self.dropped(input, noise.to(input.device, input.dtype))

    def dropped(self, input: Tensor, noise: Tensor) -> Tensor:
        """Return ``input`` without the channels whose noise is 0."""
        dropped = torch.zeros(input.shape[1], dtype=torch.bool, device=input.device)
        dropped[: self.channels] = noise == 0
        return input.masked_fill(dropped.view(-1, 1, 1), 0)

    class Lua(LuaClass):
        scalars = {"nChannels": "channels", "p": "p", "stochastic_inference": "stochastic_inference"}
        scratch = ("noise",)

        @classmethod
        def replay(cls, module: ChannelDropout, after: LuaObject) -> Callable[..., Any] | None:
            if not module.training and not module.stochastic_inference:
                return None
            return lambda input: module.dropped(input, noise_of(after, "noise", input))
