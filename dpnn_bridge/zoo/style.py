"""Layers of style-transfer packages: fast-neural-style, texture_nets, CycleGAN, CartoonGAN, AdaIN, MGANs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.noise import noise_of
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.run_buffers import RunBuffers
from dpnn_bridge.objects import LuaObject, LuaTensor
from dpnn_bridge.torch7.gradient import add_gradient, with_gradient_of, zero_gradient


@lua_class("nn.ShaveImage")
class ShaveImage(nn.Module):
    """Crops the border of an image.

    Args:
        size: width of the border in pixels.

    Shape:
        - Input: :math:`(N, C, H, W)`.
        - Output: :math:`(N, C, H - 2 size, W - 2 size)`.

    Lua:
        ``nn.ShaveImage(size)``, fast-neural-style ShaveImage.lua
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, input: Tensor) -> Tensor:
        return F.pad(input, (-self.size,) * 4)

    class Lua(LuaClass):
        scalars = ("size",)


@lua_class("nn.TotalVariation", "nn.TVLoss")
class TotalVariation(nn.Module):
    """Returns its input; the backward pass adds the gradient of the total variation of the image.

    The total variation is computed from the differences in the first H - 1 rows and W - 1 columns only.

    Args:
        strength: factor of the added gradient.

    Shape:
        - Input: :math:`(*, H, W)`.
        - Output: the input.

    Lua:
        ``nn.TotalVariation(strength)``, fast-neural-style TotalVariation.lua; ``nn.TVLoss(strength)``, texture_nets
        src/utils.lua and MGANs tv_loss.lua
    """

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.strength = strength

    def forward(self, input: Tensor) -> Tensor:
        with torch.no_grad():
            here = input[..., :-1, :-1]
            dx, dy = here - input[..., :-1, 1:], here - input[..., 1:, :-1]
            extra = F.pad(dx + dy, (0, 1, 0, 1)) - F.pad(dx, (1, 0, 0, 1)) - F.pad(dy, (0, 1, 1, 0))
        return add_gradient(input, extra * self.strength)

    class Lua(LuaClass):
        scalars = ("strength",)
        scratch = ("x_diff", "y_diff")
        constants = dict.fromkeys(scratch, LuaTensor.empty)

        @classmethod
        def matches(cls, obj: LuaObject) -> bool:
            return not {"z_diff", "tv_weight"} & set(obj)  # classes for volumes, and with other weights


@lua_class("nn.SpatialCircularPadding")
class SpatialCircularPadding(nn.Module):
    """Circular padding: the image is continued periodically beyond its borders.

    Args:
        pad_l, pad_r, pad_t, pad_b: rows and columns to add.

    Shape:
        - Input: :math:`(N, C, H, W)`.
        - Output: :math:`(N, C, H + pad_t + pad_b, W + pad_l + pad_r)`.

    Differs from PyTorch:
        As in Torch7, the gradient of the output in the four padded corners is ignored.

    Lua:
        ``nn.SpatialCircularPadding(pad_l, pad_r, pad_t, pad_b)``, texture_nets src/SpatialCircularPadding.lua
    """

    def __init__(self, pad_l: int, pad_r: int, pad_t: int, pad_b: int) -> None:
        super().__init__()
        self.pad_l, self.pad_r, self.pad_t, self.pad_b = pad_l, pad_r, pad_t, pad_b

    def forward(self, input: Tensor) -> Tensor:
        sides, ends = (self.pad_l, self.pad_r, 0, 0), (0, 0, self.pad_t, self.pad_b)
        across = F.pad(input, sides, mode="circular")
        down = F.pad(input, ends, mode="circular")
        bordered = F.pad(across, ends) + F.pad(down, sides) - F.pad(input, (*sides[:2], *ends[2:]))
        return with_gradient_of(F.pad(input, (*sides[:2], *ends[2:]), mode="circular"), bordered)

    class Lua(LuaClass):
        scalars = ("pad_l", "pad_r", "pad_t", "pad_b")


@lua_class("nn.GenNoise")
class GenNoise(nn.Module):
    """Returns normal noise with the height and width of its input. The gradient of the input is zero.

    Args:
        num_planes: number of channels of the noise.
        mult: standard deviation of the noise.

    Shape:
        - Input: :math:`(N, C, H, W)`.
        - Output: :math:`(N, num\\_planes, H, W)`.

    Lua:
        ``nn.GenNoise(num_planes)``, texture_nets src/utils.lua
    """

    def __init__(self, num_planes: int, mult: float = 1.0) -> None:
        super().__init__()
        self.num_planes, self.mult = num_planes, mult

    def forward(self, input: Tensor) -> Tensor:
        N, _, *size = input.shape
        noise = torch.randn(N, self.num_planes, *size, dtype=input.dtype, device=input.device)
        return zero_gradient(noise * self.mult, input)

    class Lua(LuaClass):
        scalars = ("num_planes", "mult")
        defaults = {"mult": 1.0}
        scratch = ("sz", "sz_")

        @classmethod
        def replay(cls, module: nn.Module, after: LuaObject) -> Callable[..., Any]:
            return lambda input: zero_gradient(noise_of(after, "output", input), input)


@lua_class("nn.GenNoise")
class NoiseOverInput(RunBuffers):
    """Replaces its input by uniform noise; the gradient passes unchanged.

    Args:
        action: ``"zero"`` for zeros, ``"fix"`` for the noise of the first call in every call, None for new noise.

    Shape:
        - Input: :math:`(N, C, H, W)`. If C is 6, as in the stylization models, only the last 3 channels are replaced.
        - Output: the same shape.

    Lua:
        ``nn.GenNoise()`` without fields, texture_nets supplementary/utils.lua, and for 6 channels
        supplementary/stylization.ipynb

    Differs from Torch7:
        Torch7 overwrites the input.
    """

    run_buffers = ("fix_value",)

    def __init__(self, action: str | None = None) -> None:
        super().__init__()
        self.action = action
        self.register_buffer("fix_value", None)

    def forward(self, input: Tensor) -> Tensor:
        if self.action == "zero":
            return with_gradient_of(torch.zeros_like(input), input)
        if self.action == "fix":
            if self.fix_value is None:
                self.fix_value = torch.rand_like(input)
            return with_gradient_of(self.fix_value, input)
        kept = input[:, :3] if input.shape[1] == 6 else input[:, :0]
        return with_gradient_of(torch.cat([kept, torch.rand_like(input[:, kept.shape[1] :])], 1), input)

    class Lua(LuaClass):
        scalars = ("action",)
        defaults = {"action": None}
        tensors = ("fix_value",)

        @classmethod
        def matches(cls, obj: LuaObject) -> bool:
            return "num_planes" not in obj

        @classmethod
        def replay(cls, module: nn.Module, after: LuaObject) -> Callable[..., Any]:
            def forward(input: Tensor) -> Tensor:
                noise = noise_of(after, "output", input)
                if module.action == "fix":
                    module.fix_value = noise
                return with_gradient_of(noise, input)

            return forward


@lua_class("nn.NoiseFill")
class NoiseFill(nn.Module):
    """Replaces the last channels by uniform noise; the gradient of all channels passes unchanged.

    Args:
        num_noise_channels: number of channels to replace.
        mult: upper bound of the noise; the lower bound is 0.

    Shape:
        - Input, output: :math:`(N, C, *)`.

    Raises:
        ValueError: the input has fewer than ``num_noise_channels`` channels.

    Lua:
        ``nn.NoiseFill(num_noise_channels)``, texture_nets src/utils.lua
    """

    def __init__(self, num_noise_channels: int, mult: float = 1.0) -> None:
        super().__init__()
        self.num_noise_channels, self.mult = num_noise_channels, mult

    def forward(self, input: Tensor) -> Tensor:
        if self.num_noise_channels > input.shape[1]:
            shape = tuple(input.shape)
            raise ValueError(f"NoiseFill replaces {self.num_noise_channels} channels, the input has the shape {shape}")
        fresh = torch.rand_like(input[:, : self.num_noise_channels]) * self.mult
        return self.filled(input, fresh)

    def filled(self, input: Tensor, fresh: Tensor) -> Tensor:
        """Return ``input`` with ``fresh`` in its last channels."""
        kept = input[:, : input.shape[1] - self.num_noise_channels]
        return with_gradient_of(torch.cat([kept, fresh], 1), input)

    class Lua(LuaClass):
        scalars = ("num_noise_channels", "mult")

        @classmethod
        def matches(cls, obj: LuaObject) -> bool:
            return "buffer" not in obj and "n_colors" not in obj  # classes that append channels

        @classmethod
        def replay(cls, module: NoiseFill, after: LuaObject) -> Callable[..., Any]:
            channels = module.num_noise_channels
            return lambda input: module.filled(input, noise_of(after, "output", input)[:, input.shape[1] - channels :])


@lua_class("nn.DummyGradOutput")
class DummyGradOutput(nn.Module):
    """Returns its input; the gradient of the input is zero.

    Shape:
        - Input: :math:`(*)`.
        - Output: the input.

    Lua:
        ``nn.DummyGradOutput()``, texture_nets src/utils.lua
    """

    def forward(self, input: Tensor) -> Tensor:
        return zero_gradient(input.detach(), input)
