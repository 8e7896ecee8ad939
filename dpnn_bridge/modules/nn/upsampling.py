"""Upsampling of images and volumes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.lua_class import LuaClass, size_storage
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.objects import LuaObject, LuaStorage


def upsample_linear(input: Tensor, size: tuple[int, ...], positions: torch.dtype) -> Tensor:
    """Interpolate the last dimensions linearly with aligned corners.

    Args:
        input: the data.
        size: sizes of the last dimensions of the output.
        positions: dtype of the source positions for data in double precision; float32 in Torch7.
    """
    if input.dtype == torch.float64 and positions != torch.float64:
        for dim, new_size in enumerate(size, input.dim() - len(size)):
            input = _interpolate(input, dim, new_size)
        return input
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(size)]
    return F.interpolate(input, size=size, mode=mode, align_corners=True)


def _interpolate(input: Tensor, dim: int, size: int) -> Tensor:
    """Interpolate one dimension linearly to ``size``, with source positions in float32."""
    last = input.shape[dim] - 1
    step = torch.full((), last, dtype=torch.float32, device=input.device) / max(size - 1, 1)
    position = step * torch.arange(size, dtype=torch.float32, device=input.device)
    low = position.long()
    weight = (position - low).to(input.dtype).view(-1, *[1] * (input.dim() - dim - 1))
    below, above = input.index_select(dim, low), input.index_select(dim, (low + 1).clamp(max=last))
    return below * (1 - weight) + above * weight


def five_sizes(tensor_class: str) -> LuaStorage:
    """Create a storage of five sizes for ``constants``; Torch7 overwrites its elements without resizing it."""
    return size_storage([0] * 5)


SIZES = {"inputSize": five_sizes, "outputSize": five_sizes}


@lua_class("nn.SpatialUpSamplingNearest")
class UpsamplingNearest2d(nn.UpsamplingNearest2d):
    """Nearest-neighbor upsampling.

    Args:
        scale_factor: factor of height and width.

    Shape:
        - Input: :math:`(N, C, H, W)` or :math:`(C, H, W)`.
        - Output: the input's shape with height and width multiplied by ``scale_factor``.

    Differs from PyTorch:
        Accepts single samples.

    Lua:
        ``nn.SpatialUpSamplingNearest(scale)``, SpatialUpSamplingNearest.lua
    """

    def __init__(self, scale_factor: float) -> None:
        super().__init__(scale_factor=scale_factor)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.unsqueeze(0)).squeeze(0) if input.dim() == 3 else super().forward(input)

    class Lua(LuaClass):
        scalars = ("scale_factor",)
        constants = SIZES


@lua_class("nn.SpatialUpSamplingBilinear")
class UpsamplingBilinear2d(nn.UpsamplingBilinear2d):
    """Bilinear upsampling with aligned corners.

    Args:
        size: height and width of the output.
        scale_factor: factor of height and width, if no size is given.

    Shape:
        - Input: :math:`(N, C, H, W)` or :math:`(C, H, W)`.
        - Output: the input's shape with the new height and width.

    Differs from PyTorch:
        Accepts single samples. Source positions are computed in float32 for every dtype of the data.

    Lua:
        ``nn.SpatialUpSamplingBilinear(scale)`` or ``({oheight=h, owidth=w})``, SpatialUpSamplingBilinear.lua
    """

    #: dtype of source positions for data in double precision
    positions = torch.float32

    def forward(self, input: Tensor) -> Tensor:
        batch = input.unsqueeze(0) if input.dim() == 3 else input
        output = upsample_linear(batch, target_size(batch, self.size, self.scale_factor), self.positions)
        return output.squeeze(0) if input.dim() == 3 else output

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, align_corners=True"

    class Lua(LuaClass):
        computed_fields = ("scale_factor", "oheight", "owidth")
        constants = SIZES

        @classmethod
        def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
            if obj.get("scale_factor") is not None:
                return {"scale_factor": obj["scale_factor"]}
            return {"size": (obj["oheight"], obj["owidth"])}

        @classmethod
        def to_lua(cls, module: Any, ctx: LuaContext) -> dict[str, Any]:
            if module.size is None:
                return {"scale_factor": module.scale_factor}
            height, width = module.size
            return {"oheight": height, "owidth": width}


def target_size(input: Tensor, size: Any, scale_factor: Any) -> tuple[int, ...]:
    """Return the spatial sizes of the output, from a size or a factor."""
    if size is not None:
        return tuple(size)
    return tuple(scaled_size(n, scale_factor) for n in input.shape[2:])


def scaled_size(size: int, factor: float) -> int:
    """Multiply a size by a factor and truncate. With an integer factor, an exported size stays variable."""
    return size * int(factor) if factor == int(factor) else int(size * factor)


@lua_class("nn.UpSampling")
class UpSampling(nn.Module):
    """Nearest-neighbor or linear upsampling, linear with aligned corners, of images or volumes.

    Args:
        mode: ``"nearest"`` or ``"linear"``.
        scale_factor: factor of the spatial sizes.
        size: depth (None for images), height and width of the output, if no factor is given; only for ``"linear"``.

    Shape:
        - Input: :math:`(N, C, H, W)` or :math:`(N, C, T, H, W)`.
        - Output: the input's shape with the new sizes.

    Lua:
        ``nn.UpSampling(scale, mode)`` or ``nn.UpSampling({odepth=t, oheight=h, owidth=w}, mode)``, UpSampling.lua

    Raises:
        ValueError: an unknown mode; no factor, and no size with ``"linear"``; an input without 4 or 5 dimensions; or 5
            dimensions and a size without depth.
    """

    #: dtype of source positions for data in double precision
    positions = torch.float32

    def __init__(
        self, mode: str, scale_factor: int | None = None, size: tuple[int | None, int, int] | None = None
    ) -> None:
        super().__init__()
        if mode not in ("nearest", "linear"):
            raise ValueError(f"UpSampling: expected mode 'nearest' or 'linear', found {mode!r}")
        if scale_factor is None and (mode == "nearest" or size is None):
            raise ValueError(f"UpSampling: mode {mode!r} requires a scale_factor{' or a size' * (mode == 'linear')}")
        self.mode, self.scale_factor, self.size = mode, scale_factor, size

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() not in (4, 5):
            raise ValueError(f"expected 4 or 5 dimensions, found shape {tuple(input.shape)}")
        if self.mode == "nearest":
            return F.interpolate(input, scale_factor=self.scale_factor, mode="nearest")
        size = self.size and self.size[5 - input.dim() :]
        if size and size[0] is None:
            raise ValueError("expected 4 dimensions, because the size has no depth, found 5")
        return upsample_linear(input, target_size(input, size, self.scale_factor), self.positions)

    class Lua(LuaClass):
        computed_fields = ("scale_factor", "odepth", "oheight", "owidth")
        scalars = ("mode",)
        constants = SIZES

        @classmethod
        def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
            arguments = super().arguments(obj, ctx)
            if obj.get("scale_factor") is not None:
                return {**arguments, "scale_factor": obj["scale_factor"]}
            return {**arguments, "size": (obj.get("odepth"), obj["oheight"], obj["owidth"])}

        @classmethod
        def to_lua(cls, module: Any, ctx: LuaContext) -> dict[str, Any]:
            fields = {**super().to_lua(module, ctx), "scale_factor": module.scale_factor}
            fields.update(zip(("odepth", "oheight", "owidth"), module.size or (), strict=False))
            return {name: value for name, value in fields.items() if value is not None}


@lua_class("nn.PixelShuffle")
class PixelShuffle(LuaClass):
    torch_type = nn.PixelShuffle
    scalars = {"upscaleFactor": "upscale_factor"}

    @classmethod
    def to_lua(cls, module: Any, ctx: LuaContext) -> dict[str, Any]:
        return {**super().to_lua(module, ctx), "upscaleFactorSquared": module.upscale_factor**2}
