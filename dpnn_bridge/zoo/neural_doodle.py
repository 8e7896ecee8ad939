"""A layer of online-neural-doodle. The class of the same name in texture_nets is in :mod:`dpnn_bridge.zoo.style`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.contexts import LuaContext
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.noise import noise_of
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.objects import LuaObject


@lua_class("nn.NoiseFill")
class MaskNoiseFill(nn.Module):
    """Appends noise to the channels of a mask: first products of the mask and uniform noise, then uniform noise.

    Args:
        num_noise_channels: number of channels of uniform noise.
        num_mask_noise_times: number of products of the mask and noise.
        n_colors: number of channels of the mask.
        mult_noise_mask: factor of the products.
        mult_noise: factor of the uniform noise.

    Shape:
        - Input: :math:`(N, n\\_colors, H, W)`.
        - Output: :math:`(N, n\\_colors (1 + num\\_mask\\_noise\\_times) + num\\_noise\\_channels, H, W)`.

    Lua:
        ``nn.NoiseFill(num_noise_channels, num_mask_noise_times, n_colors)``, online-neural-doodle src/utils.lua

    Differs from Torch7:
        The gradient of the input is the gradient of the first ``n_colors`` channels of the output. Torch7 returns the
        gradient of all channels, which has more channels than the input.
    """

    def __init__(
        self,
        num_noise_channels: int,
        num_mask_noise_times: int,
        n_colors: int,
        mult_noise_mask: float = 1.0,
        mult_noise: float = 1.0,
    ) -> None:
        super().__init__()
        self.num_noise_channels, self.num_mask_noise_times = num_noise_channels, num_mask_noise_times
        self.n_colors, self.mult_noise_mask, self.mult_noise = n_colors, mult_noise_mask, mult_noise

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() != 4 or input.shape[1] != self.n_colors:
            raise ValueError(f"NoiseFill takes a mask (N, {self.n_colors}, H, W), found {tuple(input.shape)}")
        mask = input.detach()
        masked = [torch.rand_like(mask) * mask * self.mult_noise_mask for _ in range(self.num_mask_noise_times)]
        N, _, *size = input.shape
        noise = torch.rand(N, self.num_noise_channels, *size, dtype=input.dtype, device=input.device) * self.mult_noise
        return torch.cat([input, *masked, noise], 1)

    def extra_repr(self) -> str:
        factors = f"mult_noise_mask={self.mult_noise_mask}, mult_noise={self.mult_noise}"
        return f"{self.num_noise_channels}, {self.num_mask_noise_times}, {self.n_colors}, {factors}"

    class Lua(LuaClass):
        scalars = ("num_noise_channels", "num_mask_noise_times", "n_colors", "mult_noise_mask", "mult_noise")
        computed_fields = ("out_size",)
        checked_by = "formula"
        test = "test_a_doodle_keeps_its_mask_and_gets_noise"

        @classmethod
        def matches(cls, obj: LuaObject) -> bool:
            return "n_colors" in obj

        @classmethod
        def to_lua(cls, module: MaskNoiseFill, ctx: LuaContext) -> dict[str, Any]:
            size = module.n_colors * (1 + module.num_mask_noise_times) + module.num_noise_channels
            return {**super().to_lua(module, ctx), "out_size": size}

        @classmethod
        def replay(cls, module: MaskNoiseFill, after: LuaObject) -> Callable[..., Any]:
            return lambda input: torch.cat([input, noise_of(after, "output", input)[:, module.n_colors :]], 1)
