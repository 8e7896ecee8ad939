"""Pooling over windows of one size that stock torch.nn computes."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.simplest_class import SimplestClass
from dpnn_bridge.modules.nn.strides import guard_volumes
from dpnn_bridge.objects import LuaObject

SPATIAL = {("kH", "kW"): "kernel_size", ("dH", "dW"): "stride", ("padH", "padW"): "padding", "ceil_mode": "ceil_mode"}
VOLUMETRIC = {
    ("kT", "kH", "kW"): "kernel_size",
    ("dT", "dH", "dW"): "stride",
    ("padT", "padH", "padW"): "padding",
    "ceil_mode": "ceil_mode",
}
SPATIAL_DEFAULTS = {"padH": 0, "padW": 0, "ceil_mode": False}
VOLUMETRIC_DEFAULTS = {"padT": 0, "padH": 0, "padW": 0, "ceil_mode": False}


class Pooling(SimplestClass):
    """Windows of one size. Where a file has no stride it is the window's size."""

    scratch = ("indices",)
    #: values of ``divisor_override`` that the class can mean
    divisors: tuple[int | None, ...] = (None,)
    neutral = {"padding": 0, "ceil_mode": False, "dilation": 1, "count_include_pad": True}

    @classmethod
    def upgrade(cls, obj: LuaObject) -> LuaObject:
        strides = {d: obj[k] for d, k in (("dT", "kT"), ("dH", "kH"), ("dW", "kW")) if k in obj and d not in obj}
        return super().upgrade(obj.changed(**strides) if strides else obj)

    @classmethod
    def represents(cls, module: nn.Module) -> bool:
        return getattr(module, "divisor_override", None) in cls.divisors and super().represents(module)

    @classmethod
    def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for names, attribute in cls.scalars.items():
            value = getattr(module, attribute)
            if not isinstance(names, tuple):
                fields[names] = value
            else:  # torch's poolings keep a single number as it was given
                fields.update(zip(names, value if isinstance(value, tuple) else (value,) * len(names), strict=True))
        return fields


# ---------------------------------------------------------------------- maximum
class _LowestPadding(nn.modules.pooling._MaxPoolNd):
    """Pads with the lowest finite number. In Torch7 this is the result of a window without elements."""

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    def forward(self, input: Tensor) -> Tensor:
        pad: list[int] = []
        sizes = input.shape[-len(self.kernel_size) :]
        settings = zip(sizes, self.kernel_size, self.stride, self.padding, self.dilation, strict=True)
        for size, kernel, stride, padding, dilation in reversed([*settings]):
            extent = dilation * (kernel - 1) + 1
            windows = (size + 2 * padding - extent + (stride - 1 if self.ceil_mode else 0)) // stride + 1
            if (windows - 1) * stride >= size + padding:
                windows -= 1
            pad += [padding, max((windows - 1) * stride + extent - size - padding, 0)]
        padded = F.pad(input, pad, value=torch.finfo(input.dtype).min)
        pool = F.max_pool2d if len(sizes) == 2 else F.max_pool3d
        return pool(padded, self.kernel_size, self.stride, 0, self.dilation)


class DilatedMaxPool2d(_LowestPadding, nn.MaxPool2d):
    """Maximum over windows with gaps, which can contain nothing but padding.

    Args:
        kernel_size, stride, padding, dilation, ceil_mode: as in :class:`torch.nn.MaxPool2d`, pairs.

    Shape:
        - Input: :math:`(N, C, H, W)` or :math:`(C, H, W)`.
        - Output: the same with the pooled height and width.

    Differs from PyTorch:
        A window without elements gives the lowest finite number and no gradient, not -inf and a gradient somewhere.

    Lua:
        ``nn.SpatialDilatedMaxPooling(...)`` with padding or in ceil mode, SpatialDilatedMaxPooling.lua
    """


class DilatedMaxPool3d(_LowestPadding, nn.MaxPool3d):
    """Maximum over windows with gaps, which can contain nothing but padding.

    Args:
        kernel_size, stride, padding, dilation, ceil_mode: as in :class:`torch.nn.MaxPool3d`, triples.

    Shape:
        - Input: :math:`(N, C, T, H, W)` or :math:`(C, T, H, W)`.
        - Output: the same with the pooled duration, height and width.

    Differs from PyTorch:
        See :class:`DilatedMaxPool2d`.

    Lua:
        ``nn.VolumetricDilatedMaxPooling(...)`` with padding or in ceil mode, VolumetricDilatedMaxPooling.lua
    """


def may_be_empty(arguments: dict[str, Any]) -> bool:
    """Return whether windows with these settings can lie in the padding alone."""
    gaps = any(d > 1 for d in arguments["dilation"])
    return gaps and (any(arguments["padding"]) or bool(arguments["ceil_mode"]))


@lua_class("nn.SpatialMaxPooling", "cudnn.SpatialMaxPooling")
class SpatialMaxPooling(Pooling):
    torch_type = nn.MaxPool2d
    scalars = SPATIAL
    defaults = SPATIAL_DEFAULTS


@lua_class("nn.SpatialDilatedMaxPooling")
class SpatialDilatedMaxPooling(Pooling):
    torch_type = (nn.MaxPool2d, DilatedMaxPool2d)
    extra_option = "dilation"
    scalars = {**SPATIAL, ("dilationH", "dilationW"): "dilation"}
    defaults = {**SPATIAL_DEFAULTS, "dilationH": 1, "dilationW": 1}

    @classmethod
    def build(cls, obj: LuaObject, ctx: TorchContext) -> nn.Module:
        arguments = cls.arguments(obj, ctx)
        return (DilatedMaxPool2d if may_be_empty(arguments) else nn.MaxPool2d)(**arguments)


@lua_class("inn.SpatialMaxPooling")
class InnSpatialMaxPooling(SpatialMaxPooling):
    """Always uses ceil mode, also if the file disables it."""

    import_only = True

    @classmethod
    def upgrade(cls, obj: LuaObject) -> LuaObject:
        return super().upgrade(obj).changed(ceil_mode=True)


class VolumetricMaximum(Pooling):
    torch_type = (nn.MaxPool3d, DilatedMaxPool3d)
    scalars = VOLUMETRIC
    defaults = VOLUMETRIC_DEFAULTS

    @classmethod
    def build(cls, obj: LuaObject, ctx: TorchContext) -> nn.Module:
        arguments = cls.arguments(obj, ctx)
        gaps = "dilation" in arguments and may_be_empty(arguments)
        return guard_volumes((DilatedMaxPool3d if gaps else nn.MaxPool3d)(**arguments))


@lua_class("nn.VolumetricMaxPooling")
class VolumetricMaxPooling(VolumetricMaximum):
    version = 2

    @classmethod
    def upgrade(cls, obj: LuaObject) -> LuaObject:
        obj = super().upgrade(obj)
        return obj if obj.version >= 2 else obj.changed(ceil_mode=False)


@lua_class("nn.VolumetricDilatedMaxPooling")
class VolumetricDilatedMaxPooling(VolumetricMaxPooling):
    """Torch7 writes version 1 and so loses the ceil mode whenever it loads a file."""

    version = 1
    extra_option = "dilation"
    scalars = {**VOLUMETRIC, ("dilationT", "dilationH", "dilationW"): "dilation"}
    defaults = {**VOLUMETRIC_DEFAULTS, "dilationT": 1, "dilationH": 1, "dilationW": 1}


@lua_class("cudnn.VolumetricMaxPooling")
class CudnnVolumetricMaxPooling(VolumetricMaximum):
    import_only = True


# ---------------------------------------------------------------------- average
class UndividedAvgPool2d(nn.AvgPool2d):
    """Average times the size of a whole window, which is not the sum where a window is cut.

    Args:
        kernel_size, stride, padding, ceil_mode, count_include_pad: as in :class:`torch.nn.AvgPool2d`.

    Shape:
        - Input: :math:`(N, C, H, W)` or :math:`(C, H, W)`.
        - Output: the same with the pooled height and width.

    Differs from PyTorch:
        The average is multiplied by ``kH * kW``.

    Lua:
        ``nn.SpatialAveragePooling(...)`` with ``divide = false``, SpatialAveragePooling.lua
    """

    kernel_size: tuple[int, int]

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * (self.kernel_size[0] * self.kernel_size[1])


class SpatialAverage(Pooling):
    torch_type = (nn.AvgPool2d, UndividedAvgPool2d)
    scalars = {**SPATIAL, "count_include_pad": "count_include_pad"}
    defaults = {**SPATIAL_DEFAULTS, "count_include_pad": True}
    divisors = (None, 1)
    #: value of ``divide`` for a file without this field
    divides: ClassVar[bool] = True

    @classmethod
    def build(cls, obj: LuaObject, ctx: TorchContext) -> nn.Module:
        arguments = cls.arguments(obj, ctx)
        divide = obj.get("divide")
        if divide if divide is not None else cls.divides:
            return nn.AvgPool2d(**arguments)
        if arguments["ceil_mode"] or (any(arguments["padding"]) and not arguments["count_include_pad"]):
            return UndividedAvgPool2d(**arguments)
        return nn.AvgPool2d(**arguments, divisor_override=1)

    @classmethod
    def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
        fields = super().to_lua(module, ctx)
        divides = not isinstance(module, UndividedAvgPool2d) and getattr(module, "divisor_override", None) != 1
        return fields if divides == cls.divides else {**fields, "divide": divides}


@lua_class("nn.SpatialAveragePooling")
class SpatialAveragePooling(SpatialAverage):
    """The first version had no ``divide`` and computed sums; the stride was 1 unless given."""

    divides: ClassVar[bool] = False

    @classmethod
    def upgrade(cls, obj: LuaObject) -> LuaObject:
        obj = obj.changed(**{d: 1 for d in ("dH", "dW") if d not in obj})
        if obj.get("ceil_mode") is None:  # Torch7 then ignores the other fields too
            obj = obj.changed(ceil_mode=False, count_include_pad=True, padH=0, padW=0)
        return super().upgrade(obj)


@lua_class("cudnn.SpatialAveragePooling")
class CudnnSpatialAveragePooling(SpatialAverage):
    """Padding is always counted."""

    import_only = True

    @classmethod
    def upgrade(cls, obj: LuaObject) -> LuaObject:
        old = {"padH": 0, "padW": 0} if obj.get("ceil_mode") is None else {}
        return super().upgrade(obj.changed(**old, count_include_pad=True))


@lua_class("inn.SpatialAveragePooling")
class InnSpatialAveragePooling(SpatialAverage):
    """Always uses ceil mode. Versions without the field ``divide`` compute averages."""

    import_only = True

    @classmethod
    def upgrade(cls, obj: LuaObject) -> LuaObject:
        return super().upgrade(obj).changed(ceil_mode=True)


@lua_class("nn.VolumetricAveragePooling")
class VolumetricAveragePooling(Pooling):
    torch_type = nn.AvgPool3d
    scalars = {("kT", "kH", "kW"): "kernel_size", ("dT", "dH", "dW"): "stride"}


@lua_class("cudnn.VolumetricAveragePooling")
class CudnnVolumetricAveragePooling(Pooling):
    import_only = True
    torch_type = nn.AvgPool3d
    scalars = VOLUMETRIC
    defaults = VOLUMETRIC_DEFAULTS
