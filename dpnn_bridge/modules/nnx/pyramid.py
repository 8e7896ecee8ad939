"""Layers of nnx that process an image at several scales."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.lua_values import is_true, short_list
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.modules.nnx.resampling import SpatialPadding, bilinear
from dpnn_bridge.objects import LuaObject, LuaTable


@lua_class("nn.SpatialPyramid")
class SpatialPyramid(nn.Module):
    """Processes an image, or windows around a point of the image, at several scales.

    Args:
        focused_pipeline: one branch per scale for windows; the first layer of each, a padding, crops the window.
        unfocused_pipeline: one branch per scale for the complete image.
        ratios: downsampling factors.
        focused: process windows instead of the complete image.
        x, y: center of the windows, counted from 1.
        window_widths, window_heights: size of the window at each scale.

    Shape:
        - Input: :math:`(C, H, W)`, or a list of scaled images.
        - Output: list of tensors :math:`(C', H', W')`, one per scale.

    Raises:
        ValueError: a downsampling factor does not divide the height and width of the image.

    Lua:
        ``nn.SpatialPyramid(ratios, processors, kW, kH, dW, dH, …)``, nnx SpatialPyramid.lua
    """

    fx_leaf = True

    def __init__(
        self,
        focused_pipeline: nn.Sequential,
        unfocused_pipeline: nn.Module,
        ratios: list[float],
        focused: bool = False,
        x: int = 0,
        y: int = 0,
        window_widths: list[float] | None = None,
        window_heights: list[float] | None = None,
    ) -> None:
        super().__init__()
        self.focused_pipeline, self.unfocused_pipeline = focused_pipeline, unfocused_pipeline
        self.ratios, self.focused, self.x, self.y = ratios, focused, x, y
        self.window_widths, self.window_heights = window_widths or [], window_heights or []

    def forward(self, input: Any) -> list[Tensor]:
        if isinstance(input, Tensor) and any(size % r for r in self.ratios for size in input.shape[1:3]):
            raise ValueError(
                f"SpatialPyramid: expected height and width divisible by the ratios {self.ratios}, "
                f"found {tuple(input.shape)}"
            )
        if not self.focused:
            return self.unfocused_pipeline(input)
        for branch, width, height in zip(self.focused_pipeline, self.window_widths, self.window_heights, strict=True):
            padder = branch[0]  # type: ignore[index]
            assert isinstance(padder, SpatialPadding)
            padder.pad_l = -self.x + math.ceil(width / 2)
            padder.pad_r = self.x + math.floor(width / 2) - input.shape[2]
            padder.pad_t = -self.y + math.ceil(height / 2)
            padder.pad_b = self.y + math.floor(height / 2) - input.shape[1]
        return self.focused_pipeline(input)

    class Lua(LuaClass):
        """Only the pipeline in use returns parameters; both contain the same processors."""

        members = ("focused_pipeline", "unfocused_pipeline")
        scalars = ("focused", "x", "y")
        defaults = {"focused": False, "x": 0, "y": 0}

        @classmethod
        def matches(cls, obj: LuaObject) -> bool:
            return "ratios" in obj

        @classmethod
        def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
            windows = {"window_widths": obj.get("winWidth"), "window_heights": obj.get("winHeight")}
            lists = {k: short_list(v) for k, v in windows.items() if isinstance(v, LuaTable)}
            return {**super().arguments(obj, ctx), "ratios": short_list(obj["ratios"]), **lists}

        @classmethod
        def children(cls, module: SpatialPyramid) -> list[nn.Module]:
            return [module.focused_pipeline if module.focused else module.unfocused_pipeline]


@lua_class("nn.SpatialFovea")
class SpatialFovea(nn.Module):
    """Processes an image at several scales, upsamples the outputs and concatenates them along the channels.

    Args:
        processors: one module per scale.
        pre_processors: one module per scale, applied before padding; or an empty list.
        ratios: downsampling factors.
        fov: field of view of the processors.
        sub: subsampling factor of the processors.
        padding: number of zero rows and columns that are added, half of them on each side.
        bilinear: resample bilinearly; False: by average pooling and nearest-neighbor upsampling.
        focus: point (x, y), counted from 1, at which windows of size ``fov`` are processed, without upsampling; None:
            the complete image.

    Shape:
        - Input: :math:`(C, H, W)`.
        - Output: :math:`(\\sum C_i, H', W')`.

    Lua:
        ``nn.SpatialFovea{nInputPlane=, ratios=, processors=, …}``, nnx SpatialFovea.lua
    """

    fx_leaf = True

    def __init__(
        self,
        processors: list[nn.Module],
        pre_processors: list[nn.Module],
        ratios: list[float],
        fov: int = 1,
        sub: int = 1,
        padding: int = 0,
        bilinear: bool = False,
        focus: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.processors, self.pre_processors = nn.ModuleList(processors), nn.ModuleList(pre_processors)
        self.ratios, self.fov, self.sub, self.padding = ratios, fov, sub, padding
        self.bilinear, self.focus = bilinear, focus

    def forward(self, input: Tensor) -> Tensor:
        outputs = []
        for i, (processor, ratio) in enumerate(zip(self.processors, self.ratios, strict=True)):
            scaled = self._downsampled(input, ratio)
            if i < len(self.pre_processors):
                scaled = self.pre_processors[i](scaled)
            if self.padding:
                scaled = F.pad(scaled, (self.padding // 2,) * 4)
            if self.focus is None:
                outputs.append(self._upsampled(processor(scaled), ratio))
            else:
                x, y = (int((p - 1) // ratio) // self.sub * self.sub for p in self.focus)
                outputs.append(processor(scaled[:, y : y + self.fov, x : x + self.fov]))
        return torch.cat(outputs)

    def _downsampled(self, x: Tensor, ratio: float) -> Tensor:
        return self._resampled(x, 1 / ratio) if self.bilinear else F.avg_pool2d(x, int(ratio))

    def _upsampled(self, x: Tensor, ratio: float) -> Tensor:
        if self.bilinear:
            return self._resampled(x, ratio)
        return x.repeat_interleave(int(ratio), 1).repeat_interleave(int(ratio), 2)

    def _resampled(self, x: Tensor, ratio: float) -> Tensor:
        height, width = (int(ratio * n) for n in x.shape[1:])
        return bilinear(x.unsqueeze(-1), height, width).squeeze(-1)

    class Lua(LuaClass):
        """Torch7 creates its resampling and padding layers anew in every call, so they are not converted."""

        scalars = ("fov", "sub", "padding", "bilinear")
        scratch = (
            *("pyramid", "preProcessed", "padded", "narrowed", "processed", "upsampled"),
            *("gradUpsampled", "gradProcessed", "gradNarrowed", "gradPadded", "gradPreProcessed", "gradPyramid"),
            *("downsamplers", "padders", "upsamplers"),
        )

        @classmethod
        def matches(cls, obj: LuaObject) -> bool:
            return "ratios" in obj

        @classmethod
        def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
            return {
                **super().arguments(obj, ctx),
                "processors": ctx.children(obj, "processors"),
                "pre_processors": ctx.children(obj, "preProcessors"),
                "ratios": short_list(obj["ratios"]),
                "focus": (obj["x"], obj["y"]) if is_true(obj.get("focused")) else None,
            }

        @classmethod
        def children(cls, module: SpatialFovea) -> list[nn.Module]:
            return list(module.processors)

        @classmethod
        def to_lua(cls, module: SpatialFovea, ctx: LuaContext) -> dict[str, Any]:
            fields, record = super().to_lua(module, ctx), record_of(module)
            if module.focus is not None:
                return {**fields, "focused": True, "x": module.focus[0], "y": module.focus[1]}
            return {**fields, "focused": False} if record and "focused" in record.fields else fields


@lua_class("nn.SpatialRecursiveFovea")
class SpatialRecursiveFovea(nn.Module):
    """Placeholder for a layer that does not run in Torch7 either; contains its processors.

    Args:
        processors: one module per scale.

    Raises:
        ConversionError: always, in ``forward``.

    Lua:
        ``nn.SpatialRecursiveFovea{…}``, nnx SpatialRecursiveFovea.lua
    """

    def __init__(self, processors: list[nn.Module]) -> None:
        super().__init__()
        self.processors = nn.ModuleList(processors)

    def forward(self, input: Any) -> Tensor:
        raise ConversionError(
            "this layer calls SpatialPadding and SpatialReSampling with their interface of 2011 and does not run in "
            "Torch7 either; use its processors",
            class_name="nn.SpatialRecursiveFovea",
        )

    class Lua(LuaClass):
        checked_by = "structure"
        test = "test_object_becomes_a_module_and_an_object_again"

        @classmethod
        def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
            return {"processors": ctx.children(obj, "processors")}

        @classmethod
        def children(cls, module: SpatialRecursiveFovea) -> list[nn.Module]:
            return list(module.processors)
