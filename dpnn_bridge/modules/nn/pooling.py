"""Pooling over windows of a fixed size that layers of torch.nn compute, and small variants of these layers."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.lua_values import is_true
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.kernel_flags import KernelFlags
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


class Pooling(KernelFlags, SimplestClass):
    """Base class of the mappings; a missing stride is the size of the window."""

    kernel_flags = ("ceil_mode", "count_include_pad")
    scratch = ("indices",)
    #: values of ``divisor_override`` that the Lua class can represent
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
            else:  # PyTorch's pooling layers store a single number as an int, not as a tuple
                fields.update(zip(names, value if isinstance(value, tuple) else (value,) * len(names), strict=True))
        return fields


# ---------------------------------------------------------------------- maximum
class _LowestPadding(nn.modules.pooling._MaxPoolNd):
    """Max pooling that pads with the lowest finite number, Torch7's result for a window without elements."""

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
    """Max pooling over dilated windows, which can contain only padding.

    Args:
        kernel_size, stride, padding, dilation, ceil_mode: as in :class:`torch.nn.MaxPool2d`; sizes are pairs.

    Shape:
        - Input: :math:`(N, C, H, W)` or :math:`(C, H, W)`.
        - Output: the input's shape with the pooled height and width.

    Differs from PyTorch:
        For a window with only padding, the output is the lowest finite number, without gradient. PyTorch returns -inf
        and adds the gradient to an arbitrary element.

    Lua:
        ``nn.SpatialDilatedMaxPooling(...)`` with a dilation above 1 and padding or ceil mode,
        SpatialDilatedMaxPooling.lua
    """


class DilatedMaxPool3d(_LowestPadding, nn.MaxPool3d):
    """Max pooling of volumes over dilated windows, which can contain only padding.

    Args:
        kernel_size, stride, padding, dilation, ceil_mode: as in :class:`torch.nn.MaxPool3d`; sizes are triples.

    Shape:
        - Input: :math:`(N, C, T, H, W)` or :math:`(C, T, H, W)`.
        - Output: the input's shape with the pooled T, H and W.

    Differs from PyTorch:
        See :class:`DilatedMaxPool2d`.

    Lua:
        ``nn.VolumetricDilatedMaxPooling(...)`` with a dilation above 1 and padding or ceil mode,
        VolumetricDilatedMaxPooling.lua
    """


def may_be_empty(arguments: dict[str, Any]) -> bool:
    """Return whether windows with these settings can contain only padding."""
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
    """Always uses ceil mode, even if the file disables it."""

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
    """Torch7 writes version 1, and therefore disables ceil mode when it loads a file."""

    version = 1
    extra_option = "dilation"
    scalars = {**VOLUMETRIC, ("dilationT", "dilationH", "dilationW"): "dilation"}
    defaults = {**VOLUMETRIC_DEFAULTS, "dilationT": 1, "dilationH": 1, "dilationW": 1}


@lua_class("cudnn.VolumetricMaxPooling")
class CudnnVolumetricMaxPooling(VolumetricMaximum):
    import_only = True


# ---------------------------------------------------------------------- average
class UndividedAvgPool2d(nn.AvgPool2d):
    """Average pooling whose output is multiplied by the kernel size; a window at the edge does not give its sum.

    Args:
        kernel_size, stride, padding, ceil_mode, count_include_pad: as in :class:`torch.nn.AvgPool2d`.

    Shape:
        - Input: :math:`(N, C, H, W)` or :math:`(C, H, W)`.
        - Output: the input's shape with the pooled height and width.

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
    #: default of ``divide`` if the field is missing
    divides: ClassVar[bool] = True

    @classmethod
    def build(cls, obj: LuaObject, ctx: TorchContext) -> nn.Module:
        arguments = cls.arguments(obj, ctx)
        divide = obj.get("divide")
        if is_true(divide) if divide is not None else cls.divides:  # Lua tests it, not the kernel
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
    """The first version had no field ``divide`` and computed sums; a missing stride is 1."""

    divides: ClassVar[bool] = False

    @classmethod
    def upgrade(cls, obj: LuaObject) -> LuaObject:
        obj = obj.changed(**{d: 1 for d in ("dH", "dW") if d not in obj})
        if obj.get("ceil_mode") is None:  # then Torch7 also ignores count_include_pad and padding
            obj = obj.changed(ceil_mode=False, count_include_pad=True, padH=0, padW=0)
        return super().upgrade(obj)


@lua_class("cudnn.SpatialAveragePooling")
class CudnnSpatialAveragePooling(SpatialAverage):
    """The divisor always includes padding."""

    import_only = True

    @classmethod
    def upgrade(cls, obj: LuaObject) -> LuaObject:
        old = {"padH": 0, "padW": 0} if obj.get("ceil_mode") is None else {}
        return super().upgrade(obj.changed(**old, count_include_pad=True))


@lua_class("inn.SpatialAveragePooling")
class InnSpatialAveragePooling(SpatialAverage):
    """Always uses ceil mode; a missing ``divide`` is true."""

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
