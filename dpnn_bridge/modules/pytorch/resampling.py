"""Export upsampling layers as compositions of Lua classes."""

from __future__ import annotations

from typing import Any

from torch import nn

from dpnn_bridge.conversion.contexts import LuaContext
from dpnn_bridge.conversion.lua_class import size_storage
from dpnn_bridge.conversion.registry import composition
from dpnn_bridge.modules.pytorch.input_dimensions import dimensions
from dpnn_bridge.modules.pytorch.parts import Parts, refuse
from dpnn_bridge.modules.pytorch.shapes import padded
from dpnn_bridge.objects import LuaObject

#: number of dimensions of the input in each mode
DIMENSIONS = {"linear": 3, "bilinear": 4, "trilinear": 5}
SUPPORTED = (
    "supported are mode='nearest' with an integer scale_factor; 'linear', 'bilinear' and 'trilinear' with an integer "
    "scale_factor, or with size and align_corners=True"
)


@composition(nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d)
def upsample(module: Any, ctx: LuaContext) -> LuaObject:
    parts, factor, size = Parts(module, ctx), _integer_factor(module), module.size
    if size is None and factor == 1:  # nn raises an error for this factor
        return parts.identity()
    dims = DIMENSIONS.get(module.mode) or dimensions(module, ctx)
    if module.mode == "nearest" and size is None and factor:
        return _as_images(parts, dims, _nearest(parts, factor, dims))
    if module.mode in DIMENSIONS and module.align_corners and (size is not None or factor):
        return _as_images(parts, dims, _aligned_corners(parts, dims, size, factor))
    if module.mode in DIMENSIONS and not module.align_corners and size is None and factor:
        return _as_images(parts, dims, *_unaligned_corners(parts, dims, factor))
    option = f"mode={module.mode!r}, size={size}, scale_factor={module.scale_factor}"
    return refuse(module, f"{option}, align_corners={module.align_corners}", SUPPORTED)


def _integer_factor(module: Any) -> int | None:
    """Return the scale factor if it is the same integer in all dimensions."""
    factors = {*module.scale_factor} if isinstance(module.scale_factor, tuple) else {module.scale_factor}
    factor = factors.pop() if len(factors) == 1 else None
    return int(factor) if factor is not None and factor == int(factor) else None


def _as_images(parts: Parts, dims: int | None, *layers: LuaObject) -> LuaObject:
    """Apply layers for images; an input :math:`(N, C, L)` becomes images with one row."""
    return parts.lifted(*layers, parts.narrow(3, 1, 1)) if dims == 3 else parts.chain(*layers)


def _nearest(parts: Parts, factor: int, dims: int | None) -> LuaObject:
    if dims in (3, 4):
        sizes = {name: size_storage([0] * 4) for name in ("inputSize", "outputSize")}
        return parts("SpatialUpSamplingNearest", scale_factor=factor, **sizes)
    sizes = {name: size_storage([0] * 5) for name in ("inputSize", "outputSize")}
    # Torch7 raises an error for inputs with three dimensions
    return parts("UpSampling", mode="nearest", scale_factor=factor, **sizes)


def _aligned_corners(parts: Parts, dims: int | None, size: Any, factor: int | None) -> LuaObject:
    sizes: list[int] = [] if size is None else list(size) if isinstance(size, tuple) else [size] * ((dims or 4) - 2)
    sizes = [1, *sizes] if dims == 3 and sizes else sizes
    fields: dict[str, Any] = dict(zip(("owidth", "oheight", "odepth"), reversed(sizes), strict=False))
    fields |= {name: size_storage([0] * (5 if dims == 5 else 4)) for name in ("inputSize", "outputSize")}
    if dims == 5:
        return parts("UpSampling", mode="linear", scale_factor=None if sizes else factor, **fields)
    return parts("SpatialUpSamplingBilinear", scale_factor=None if sizes else factor, **fields)


def _unaligned_corners(parts: Parts, dims: int | None, factor: int) -> list[LuaObject]:
    """Compose an interpolation with ``align_corners=False``.

    The layers repeat each pixel, replicate the border, and average over windows of the size of one input pixel.
    """
    fine, step = (factor, 1) if factor % 2 else (2 * factor, 2)
    border = (fine - step) // 2
    if dims == 5:
        fields = {f"k{c}": fine for c in "THW"} | {f"d{c}": step for c in "THW"}
        means = parts("VolumetricAveragePooling", **fields)
    else:
        fields = {f"k{c}": fine for c in "HW"} | {f"d{c}": step for c in "HW"} | {f"pad{c}": 0 for c in "HW"}
        means = parts("SpatialAveragePooling", **fields, ceil_mode=False, count_include_pad=True, divide=True)
    padding = padded(parts, "replicate", [border] * (6 if dims == 5 else 4)) if border else parts.identity()
    return [_nearest(parts, fine, dims), padding, means]
