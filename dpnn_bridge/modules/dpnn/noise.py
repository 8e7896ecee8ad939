"""Noise, and dropout of the complete input or of a region: WhiteNoise, TotalDropout, SpatialRegionDropout."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.noise import noise_of
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.dropout import stored_noise
from dpnn_bridge.objects import LuaObject, LuaTensor
from dpnn_bridge.torch7.gradient import refuse_gradient

#: error of a backward pass in evaluation mode; Torch7's layers raise an error too
TRAINING_ONLY = "{}: as in Torch7, the backward pass requires training mode; call .train() or remove the layer"


@lua_class("nn.WhiteNoise")
class WhiteNoise(nn.Module):
    """Adds Gaussian noise in training mode, and the mean of the noise in evaluation mode.

    Args:
        mean: mean of the noise.
        std: standard deviation of the noise.

    Shape:
        - Input, output: :math:`(*)`.

    Raises:
        RuntimeError: a backward pass runs through the layer in evaluation mode.

    Lua:
        ``nn.WhiteNoise(mean, std)``, WhiteNoise.lua
    """

    def __init__(self, mean: float = 0, std: float = 0.1) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, input: Tensor) -> Tensor:
        if self.training:
            return input + torch.empty_like(input).normal_(self.mean, self.std)
        return refuse_gradient(input + self.mean if self.mean else input, TRAINING_ONLY.format("WhiteNoise"))

    class Lua(LuaClass):
        scalars = ("mean", "std")
        scratch = ("noise",)
        constants = {"noise": LuaTensor.empty}

        @classmethod
        def replay(cls, module: nn.Module, after: LuaObject) -> Callable[[Tensor], Tensor] | None:
            return (lambda x: x + noise_of(after, "noise", x)) if module.training and stored_noise(after) else None


@lua_class("nn.TotalDropout")
class TotalDropout(nn.Module):
    """Sets the complete input to zero at random in training mode, without scaling.

    Args:
        p: probability of zeros.

    Shape:
        - Input, output: :math:`(*)`.

    Raises:
        RuntimeError: a backward pass runs through the layer in evaluation mode.

    Lua:
        ``nn.TotalDropout(p)``, TotalDropout.lua
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = p

    def forward(self, input: Tensor) -> Tensor:
        if self.training:
            return input * input.new_empty(()).bernoulli_(1 - self.p)
        return refuse_gradient(input, TRAINING_ONLY.format("TotalDropout"))

    class Lua(LuaClass):
        scalars = ("p",)

        @classmethod
        def replay(cls, module: nn.Module, after: LuaObject) -> Callable[[Tensor], Tensor] | None:
            noise = after.get("noise")
            return (lambda x: x * noise) if module.training and noise is not None else None


@lua_class("nn.SpatialRegionDropout")
class SpatialRegionDropout(nn.Module):
    """Sets a random edge of all images to zero in training mode, and scales the other pixels by 1 / (1 - p).

    The edge is the top, bottom, left or right, the same for all images of a batch.

    Args:
        p: fraction of the rows or columns that is set to zero.

    Shape:
        - Input, output: :math:`(N, C, H, W)` or :math:`(C, H, W)`.

    Raises:
        ValueError: the fraction ``p`` is less than one row or one column.
        RuntimeError: a backward pass runs through the layer in evaluation mode.

    Lua:
        ``nn.SpatialRegionDropout(p)``, SpatialRegionDropout.lua
    """

    def __init__(self, p: float = 0.2) -> None:
        super().__init__()
        self.p = p

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return refuse_gradient(input, TRAINING_ONLY.format("SpatialRegionDropout"))
        if input.dim() not in (3, 4):
            raise ValueError(
                f"SpatialRegionDropout: expected shape (N, C, H, W) or (C, H, W), found {tuple(input.shape)}"
            )
        height, width = input.shape[-2:]
        rows, columns = math.floor(height * self.p), math.floor(width * self.p)
        if rows == 0 or columns == 0:
            raise ValueError(f"SpatialRegionDropout: {self.p} of {height} rows or {width} columns is less than one")
        y = torch.arange(height, device=input.device)[:, None].expand(height, width)
        x = torch.arange(width, device=input.device).expand(height, width)
        kept = torch.stack([y >= rows, y < height - rows, x >= columns, x < width - columns])
        region = torch.randint(4, (1,), device=input.device)
        return input * (kept.index_select(0, region)[0].to(input.dtype) / (1 - self.p))

    class Lua(LuaClass):
        computed_fields = ("regionType",)
        scalars = ("p",)
        scratch = ("noise",)
        constants = {"noise": LuaTensor.empty}

        @classmethod
        def replay(cls, module: nn.Module, after: LuaObject) -> Callable[[Tensor], Tensor] | None:
            return (lambda x: x * noise_of(after, "noise", x)) if module.training and stored_noise(after) else None
