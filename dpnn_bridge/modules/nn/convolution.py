"""Convolutions and transposed convolutions that become layers of torch.nn, and TemporalConvolution."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from dpnn_bridge.conversion.contexts import TorchContext
from dpnn_bridge.conversion.fields import Field, Layout
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.simplest_class import SimplestClass
from dpnn_bridge.objects import LuaObject, LuaTensor

#: buffers that cudnn.torch saves with a module after its first forward pass
CUDNN_SCRATCH = ("buffer", "extraBuffer")


class Convolution(LuaClass):
    """Base class of all convolution mappings: a weight and, unless ``noBias()`` was called, a bias."""

    tensors = ("weight", "bias")
    optional = {"bias": "bias"}
    scratch = ("finput", "fgradInput", "ones", *CUDNN_SCRATCH)


class StockConvolution(Convolution, SimplestClass):
    """Base class of the mappings to convolutions of torch.nn."""

    neutral = {"padding": 0, "output_padding": 0, "dilation": 1, "groups": 1, "padding_mode": "zeros"}

    @classmethod
    def represents(cls, module: Any) -> bool:
        return not isinstance(module.padding, str) and super().represents(module)


SPATIAL = {
    "nInputPlane": "in_channels",
    "nOutputPlane": "out_channels",
    ("kH", "kW"): "kernel_size",
    ("dH", "dW"): "stride",
    ("padH", "padW"): "padding",
}
SPATIAL_DEFAULTS = {"dH": 1, "dW": 1, "padH": 0, "padW": 0}
VOLUMETRIC = {
    "nInputPlane": "in_channels",
    "nOutputPlane": "out_channels",
    ("kT", "kH", "kW"): "kernel_size",
    ("dT", "dH", "dW"): "stride",
    ("padT", "padH", "padW"): "padding",
}
VOLUMETRIC_DEFAULTS = {"dT": 1, "dH": 1, "dW": 1, "padT": 0, "padH": 0, "padW": 0}


class Spatial(StockConvolution):
    torch_type = nn.Conv2d

    @classmethod
    def upgrade(cls, obj: LuaObject) -> LuaObject:
        padding = obj.get("padding")  # older versions have one number instead of padW and padH
        if padding is not None:
            obj = obj.changed(padW=padding, padH=padding, padding=None)
        return super().upgrade(obj)


@lua_class("nn.SpatialConvolution", "nn.SpatialConvolutionMM")
class SpatialConvolution(Spatial):
    """The weight has shape ``nOutputPlane x (nInputPlane*kH*kW)`` in old files and in all of SpatialConvolutionMM."""

    scalars = SPATIAL
    defaults = SPATIAL_DEFAULTS


@lua_class("cudnn.SpatialConvolution")
class GroupedSpatialConvolution(Spatial):
    extra_option = "groups"
    scalars = {**SPATIAL, "groups": "groups"}
    defaults = {**SPATIAL_DEFAULTS, "groups": 1}


@lua_class("nn.SpatialDilatedConvolution")
class SpatialDilatedConvolution(StockConvolution):
    torch_type = nn.Conv2d
    extra_option = "dilation"
    scalars = {**SPATIAL, ("dilationH", "dilationW"): "dilation"}
    defaults = {**SPATIAL_DEFAULTS, "dilationH": 1, "dilationW": 1}

    @classmethod
    def build(cls, obj: LuaObject, ctx: TorchContext) -> nn.Module:
        rows, columns = cls.arguments(obj, ctx)["dilation"]
        if rows != columns:
            ctx.note(
                f"this nn.SpatialDilatedConvolution has dilationH = {rows} and dilationW = {columns}. Torch7 before "
                "August 2016 used dilationH for the columns and dilationW for the rows. If the file is from before, "
                "set dilation = dilation[::-1] on the module"
            )
        return super().build(obj, ctx)


@lua_class("nn.VolumetricConvolution")
class VolumetricConvolution(StockConvolution):
    torch_type = nn.Conv3d
    scalars = VOLUMETRIC
    defaults = VOLUMETRIC_DEFAULTS


@lua_class("cudnn.VolumetricConvolution", "cudnn.normal3DConv")
class GroupedVolumetricConvolution(StockConvolution):
    torch_type = nn.Conv3d
    extra_option = "groups"
    scalars = {**VOLUMETRIC, "groups": "groups"}
    defaults = {**VOLUMETRIC_DEFAULTS, "groups": 1}


@lua_class("nn.VolumetricDilatedConvolution")
class VolumetricDilatedConvolution(StockConvolution):
    torch_type = nn.Conv3d
    extra_option = "dilation"
    scalars = {**VOLUMETRIC, ("dilationT", "dilationH", "dilationW"): "dilation"}
    defaults = {**VOLUMETRIC_DEFAULTS, "dilationT": 1, "dilationH": 1, "dilationW": 1}


# ---------------------------------------------------------------------- transposed convolutions
def size_from_second_input(
    module: nn.ConvTranspose2d | nn.ConvTranspose3d, args: tuple[Any, ...]
) -> tuple[Any, ...] | None:
    """Compute the output size from ``target`` for an input ``[x, target]`` (forward pre-hook).

    As in Torch7, the size that is added on one side is ``(size + 2*pad - kernel) % stride`` of the target.
    """
    if isinstance(args[0], Tensor):
        return None
    input, target = args[0]
    size = []
    for dim, (kernel, stride, pad) in enumerate(zip(module.kernel_size, module.stride, module.padding, strict=True)):
        at = dim - len(module.kernel_size)
        assert isinstance(pad, int)
        extra = (target.shape[at] + 2 * pad - kernel) % stride
        size.append((input.shape[at] - 1) * stride - 2 * pad + kernel + extra)
    return input, size


def accept_size_input(module: nn.Module) -> nn.Module:
    """Make a transposed convolution accept an input ``[x, target]``; see :func:`size_from_second_input`."""
    module.register_forward_pre_hook(size_from_second_input)
    return module


class FullConvolution(StockConvolution):
    """Base class of the mappings to transposed convolutions."""

    constants = dict.fromkeys(("ones", "finput", "fgradInput"), LuaTensor.empty)

    @classmethod
    def build(cls, obj: LuaObject, ctx: TorchContext) -> nn.Module:
        return accept_size_input(super().build(obj, ctx))


@lua_class("nn.SpatialFullConvolution", "cudnn.SpatialFullConvolution", "nn.SpatialDeconvolution")
class SpatialFullConvolution(FullConvolution):
    torch_type = nn.ConvTranspose2d
    scalars = {**SPATIAL, ("adjH", "adjW"): "output_padding"}
    defaults = {**SPATIAL_DEFAULTS, "adjH": 0, "adjW": 0}


@lua_class(
    "nn.VolumetricFullConvolution",
    "cudnn.VolumetricFullConvolution",
    "cudnn.normal3DdeConv",
    "nn.VolumetricDeconvolution",
)
class VolumetricFullConvolution(FullConvolution):
    torch_type = nn.ConvTranspose3d
    scalars = {**VOLUMETRIC, ("adjT", "adjH", "adjW"): "output_padding"}
    defaults = {**VOLUMETRIC_DEFAULTS, "adjT": 0, "adjH": 0, "adjW": 0}

    @classmethod
    def upgrade(cls, obj: LuaObject) -> LuaObject:
        """Upgrade files without ``adjW``: weight ``nOutputPlane x nInputPlane x …``, padding in pT, pH and pW."""
        weight = obj.get("weight")
        if "adjW" in obj or not isinstance(weight, LuaTensor):
            return super().upgrade(obj)
        pads = {f"pad{d}": obj.get(f"p{d}") or obj.get(f"pad{d}") or 0 for d in "THW"}
        removed = dict.fromkeys(("pT", "pH", "pW"))
        grad = obj.get("gradWeight")
        return obj.changed(
            **{**removed, **pads, "adjT": 0, "adjH": 0, "adjW": 0},
            weight=transposed(weight),
            gradWeight=transposed(grad) if isinstance(grad, LuaTensor) and grad.size else grad,
        )


def transposed(tensor: LuaTensor) -> LuaTensor:
    """Return a view with the first two dimensions swapped."""
    shape, stride = list(tensor.shape), list(tensor.stride)
    shape[:2], stride[:2] = shape[1::-1], stride[1::-1]
    return LuaTensor(tensor.class_name, tuple(shape), tuple(stride), tensor.offset, tensor.storage)


# ---------------------------------------------------------------------- temporal convolutions
class TemporalConvolution(nn.Conv1d):
    """Convolution over time.

    Args:
        in_channels: number of input channels.
        out_channels: number of output channels.
        kernel_size: kernel size in frames.
        stride: stride in frames.
        padding: number of zero frames added at both ends.
        bias: whether the layer has a bias.

    Shape:
        - Input: :math:`(N, T, C_{in})` or :math:`(T, C_{in})`.
        - Output: :math:`(N, T_{out}, C_{out})` or :math:`(T_{out}, C_{out})`.

    Differs from PyTorch:
        Time comes before the channels.

    Lua:
        ``nn.TemporalConvolution(inputFrameSize, outputFrameSize, kW, dW)``, TemporalConvolution.lua
    """

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.transpose(-1, -2)).transpose(-1, -2)


def channels_first(weight: Tensor, module: nn.Conv1d) -> Tensor:
    """Convert Lua's ``nOut x (kW*nIn)`` to PyTorch's ``nOut x nIn x kW``."""
    return weight.reshape(module.out_channels, module.kernel_size[0], module.in_channels).transpose(1, 2)


def frames_first(weight: Tensor, module: nn.Module) -> Tensor:
    """Convert PyTorch's ``nOut x nIn x kW`` to Lua's ``nOut x (kW*nIn)``."""
    return weight.transpose(1, 2).reshape(weight.shape[0], -1)


class Temporal(StockConvolution):
    torch_type = TemporalConvolution
    tensors = {"weight": Field("weight", Layout(channels_first, frames_first)), "bias": "bias"}

    @classmethod
    def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
        return {k: v[0] if isinstance(v, tuple) else v for k, v in super().arguments(obj, ctx).items()}


@lua_class("nn.TemporalConvolution")
class TemporalConvolutionClass(Temporal):
    scalars = {
        "inputFrameSize": "in_channels",
        "outputFrameSize": "out_channels",
        ("kW",): "kernel_size",
        ("dW",): "stride",
    }
    defaults = {"dW": 1}


@lua_class("cudnn.TemporalConvolution")
class CudnnTemporalConvolution(Temporal):
    """A spatial convolution over one channel: kH, dH and padH are for the time dimension, kW is the frame size."""

    extra_option = "padding"
    scalars = {
        "inputFrameSize": "in_channels",
        "outputFrameSize": "out_channels",
        ("kH",): "kernel_size",
        ("dH",): "stride",
        ("padH",): "padding",
    }
    defaults = {"dH": 1, "padH": 0}
