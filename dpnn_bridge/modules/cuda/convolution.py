"""Convolutions that Torch7 implements only for the GPU: cuda-convnet's convolution in cunn, and those of fbcunn."""

from __future__ import annotations

from torch import Tensor, nn

from dpnn_bridge.conversion.fields import Field, Layout
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.convolution import (
    Convolution,
    StockConvolution,
    TemporalConvolution,
    TemporalConvolutionClass,
    channels_first,
)


def outputs_first(weight: Tensor, module: nn.Module) -> Tensor:
    """Convert Lua's ``nIn x kH x kW x nOut`` to PyTorch's ``nOut x nIn x kH x kW``."""
    return weight.permute(3, 0, 1, 2)


def outputs_last(weight: Tensor, module: nn.Module) -> Tensor:
    """Undo :func:`outputs_first`."""
    return weight.permute(1, 2, 3, 0)


@lua_class("nn.SpatialConvolutionCUDA")
class SpatialConvolutionCUDA(nn.Conv2d):
    """2-D convolution of inputs whose last dimension is the batch dimension.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, bias: as in :class:`torch.nn.Conv2d`.

    Shape:
        - Input: :math:`(C_{in}, H, W, N)`.
        - Output: :math:`(C_{out}, H_{out}, W_{out}, N)`.

    Differs from PyTorch:
        The order of the dimensions.

    Lua:
        ``nn.SpatialConvolutionCUDA(nInputPlane, nOutputPlane, kW, kH, dW, dH, padding, partialSum)``, cunn
        SpatialConvolutionCUDA.lua
    """

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(3, 0, 1, 2)).permute(1, 2, 3, 0)

    class Lua(Convolution):
        scalars = {
            "nInputPlane": "in_channels",
            "nOutputPlane": "out_channels",
            ("kH", "kW"): "kernel_size",
            ("dH", "dW"): "stride",
            ("padding", "padding"): "padding",
        }
        defaults = {"dH": 1, "dW": 1, "padding": 0}
        tensors = {"weight": Field("weight", Layout(outputs_first, outputs_last)), "bias": "bias"}
        scratch = ("gradWeightPartial",)
        checked_by = "structure"
        test = "test_cuda_convnets_layout"


FFT = {("kH", "kW"): "kernel_size", ("dH", "dW"): "stride", ("padUp", "padLeft"): "padding"}
FFT_DEFAULTS = {"dH": 1, "dW": 1, "padUp": 0, "padLeft": 0}


@lua_class(
    "nn.SpatialConvolutionFFT",
    "nn.SpatialConvolutionCuFFT",
    "nn.SpatialConvolutionFBFFT",
    "nn.SpatialConvolutionFBFFTGemm",
    "nn.SpatialConvolutionFFTTiled",
    "nn.SpatialConvolutionFFTTiledAsync",
    "nn.SpatialConvolutionFFTTiledIterated",
    "nn.SpatialConvolutionFFTTiledSync",
)
class SpatialConvolutionFFT(StockConvolution):
    import_only = True
    torch_type = nn.Conv2d
    scalars = {"nInputPlane": "in_channels", "nOutputPlane": "out_channels", **FFT}
    defaults = FFT_DEFAULTS
    checked_by = "structure"
    test = "test_fft_convolution_is_a_convolution"


@lua_class("fbnn.SpatialConvolution")
class FbnnSpatialConvolution(StockConvolution):
    """In Torch7, this class selects the fastest of several implementations; all have the same parameters."""

    import_only = True
    torch_type = nn.Conv2d
    scalars = {"inputPlanes": "in_channels", "outputPlanes": "out_channels", **FFT}
    defaults = FFT_DEFAULTS
    checked_by = "structure"
    test = "test_convolution_of_fbnn_names_its_padding"


def channels_last(weight: Tensor, module: nn.Module) -> Tensor:
    """Convert PyTorch's ``nOut x nIn x kW`` to Lua's ``nOut x kW x nIn``."""
    return weight.transpose(1, 2)


@lua_class("nn.TemporalConvolutionFB")
class TemporalConvolutionFB(TemporalConvolutionClass):
    import_only = True
    torch_type = TemporalConvolution
    tensors = {"weight": Field("weight", Layout(channels_first, channels_last)), "bias": "bias"}
    checked_by = "structure"
    test = "test_convolution_of_fbcunn_keeps_frames_apart"
