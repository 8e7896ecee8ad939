"""Convolutions without a layer in torch.nn: depthwise, per position, and with a connection table."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.faults import Fault
from dpnn_bridge.conversion.fields import Field, Layout, record_of
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.conversion.sharing import private_copy
from dpnn_bridge.modules.nn.convolution import SPATIAL, SPATIAL_DEFAULTS, Convolution
from dpnn_bridge.modules.nn.initialization import init_uniform
from dpnn_bridge.modules.nn.kernel_flags import KernelFlags
from dpnn_bridge.objects import LuaObject, LuaStorage, LuaTensor


def by_input_channel(weight: Tensor, module: SpatialDepthWiseConvolution) -> Tensor:
    """Convert Lua's ``multiplier x (nIn*kH*kW)`` to PyTorch's ``nIn*multiplier x 1 x kH x kW``."""
    channels = weight.reshape(module.multiplier, module.in_channels, -1).transpose(0, 1)
    return channels.reshape(module.out_channels, 1, *module.kernel_size)


def bias_by_input_channel(bias: Tensor, module: SpatialDepthWiseConvolution) -> Tensor:
    """Convert Lua's ``multiplier x nIn`` to PyTorch's ``nIn*multiplier``."""
    return bias.reshape(module.multiplier, module.in_channels).t().reshape(-1)


def by_multiplier(tensor: Tensor, module: SpatialDepthWiseConvolution) -> Tensor:
    """Convert PyTorch's ``nIn*multiplier x …`` to Lua's ``multiplier x (nIn*…)``, which has two dimensions."""
    return tensor.reshape(module.in_channels, module.multiplier, -1).transpose(0, 1).reshape(module.multiplier, -1)


# ---------------------------------------------------------------------- depthwise
@lua_class("nn.SpatialDepthWiseConvolution")
class SpatialDepthWiseConvolution(nn.Conv2d):
    """Depthwise convolution with ``multiplier`` kernels for each input channel.

    Args:
        in_channels: number of input channels.
        multiplier: number of output channels for each input channel.
        kernel_size, stride, padding, bias, device: as in :class:`torch.nn.Conv2d`.

    Shape:
        - Input: :math:`(N, C, H, W)` or :math:`(C, H, W)`.
        - Output: :math:`(N, C \\cdot multiplier, H', W')`, or without :math:`N`, grouped by input channel.

    Differs from PyTorch:
        For images that are not square, Torch7 swaps height and width in the forward pass, but not in the input
        gradient. This module does so too.

    Lua:
        ``nn.SpatialDepthWiseConvolution(nInputPlane, nOutputPlane, kW, kH, dW, dH, padW, padH)``,
        SpatialDepthWiseConvolution.lua
    """

    def __init__(
        self,
        in_channels: int,
        multiplier: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        bias: bool = True,
        device: Any = None,
    ) -> None:
        out_channels = in_channels * multiplier
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, 1, in_channels, bias, device=device)
        self.multiplier = multiplier

    def forward(self, input: Tensor) -> Tensor:
        height, width = input.shape[-2:]
        swapped = input.flatten(-2).unflatten(-1, (width, height))
        # an exported program, whose input needs no gradient, could not keep the condition on the size
        if not input.requires_grad or height == width:
            return super().forward(swapped)
        output = super().forward(swapped.detach())
        unswapped = self._unswapped(input, output.shape[-2:])
        return output + (unswapped - unswapped.detach())

    def _unswapped(self, input: Tensor, size: torch.Size) -> Tensor:
        """Convolve the image without the swap, to an output of ``size``; used for the input gradient."""
        pad = []
        for dim in (1, 0):
            before = int(self.padding[dim])
            extent = (size[dim] - 1) * self.stride[dim] + self.kernel_size[dim]
            pad += [before, extent - before - input.shape[dim - 2]]
        return F.conv2d(F.pad(input, pad), self.weight.detach(), None, self.stride, groups=self.groups)

    class Lua(Convolution):
        faults = (
            Fault(
                ("gradParams",),
                "after the first backward pass, Torch7 permutes the gradients wrongly if multiplier and input channels "
                "are equal in number",
                when=lambda module: bool(module.in_channels == module.multiplier),
                spreads=False,
            ),
        )
        scalars = {**SPATIAL, "nOutputPlane": "multiplier"}
        defaults = SPATIAL_DEFAULTS
        tensors = {
            "weight": Field("weight", Layout(by_input_channel, by_multiplier)),
            "bias": Field("bias", Layout(bias_by_input_channel, by_multiplier)),
        }


@lua_class("nn.TemporalRowConvolution")
class TemporalRowConvolution(nn.Conv1d):
    """Depthwise convolution over time: each feature has its own kernel.

    Args:
        frame_size: number of features.
        kernel_size: kernel size in frames.
        stride: stride in frames.
        feat_first: whether the feature dimension precedes the time dimension.
        bias, device: as in :class:`torch.nn.Conv1d`.

    Shape:
        - Input: :math:`(N, T, C)` or :math:`(T, C)`; with ``feat_first`` :math:`(N, C, T)` or :math:`(C, T)`.
        - Output: the input's shape with :math:`T_{out}` frames.

    Lua:
        ``nn.TemporalRowConvolution(inputFrameSize, kW, dW, featFirst)``, TemporalRowConvolution.lua
    """

    def __init__(
        self,
        frame_size: int,
        kernel_size: int,
        stride: int = 1,
        feat_first: bool = False,
        bias: bool = True,
        device: Any = None,
    ) -> None:
        super().__init__(frame_size, frame_size, kernel_size, stride, groups=frame_size, bias=bias, device=device)
        self.frame_size, self.feat_first = frame_size, feat_first

    def forward(self, input: Tensor) -> Tensor:
        if self.feat_first:
            return super().forward(input)
        return super().forward(input.transpose(-1, -2)).transpose(-1, -2)

    class Lua(KernelFlags, Convolution):
        kernel_flags = ("featFirst",)
        scalars = {
            "inputFrameSize": "in_channels",
            ("kW",): "kernel_size",
            ("dW",): "stride",
            "featFirst": "feat_first",
        }
        defaults = {"dW": 1, "featFirst": False}

        @classmethod
        def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
            arguments = super().arguments(obj, ctx)
            (kernel_size,), (stride,) = arguments["kernel_size"], arguments["stride"]
            frame_size = arguments.pop("in_channels")
            return {**arguments, "frame_size": frame_size, "kernel_size": kernel_size, "stride": stride}


# ---------------------------------------------------------------------- per position
@lua_class("nn.SpatialConvolutionLocal")
class SpatialConvolutionLocal(nn.Module):
    """A convolution with another kernel at each position.

    Args:
        in_channels: number of input channels.
        out_channels: number of output channels.
        output_size: height and width of the output.
        kernel_size, stride, padding: as in :class:`torch.nn.Conv2d`, all pairs.
        bias: whether the layer has a bias.

    Shape:
        - Input: :math:`(N, C_{in}, H, W)` or :math:`(C_{in}, H, W)`.
        - Output: :math:`(N, C_{out}, H_{out}, W_{out})` or :math:`(C_{out}, H_{out}, W_{out})`.

    Attributes:
        weight: :math:`(H_{out}, W_{out}, C_{out}, C_{in}, k_H, k_W)`.
        bias: :math:`(C_{out}, H_{out}, W_{out})`.

    Lua:
        ``nn.SpatialConvolutionLocal(nInputPlane, nOutputPlane, iW, iH, kW, kH, dW, dH, padW, padH)``,
        SpatialConvolutionLocal.lua
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        output_size: tuple[int, int],
        kernel_size: tuple[int, int],
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.output_size = in_channels, out_channels, output_size
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.weight = nn.Parameter(torch.empty(*output_size, out_channels, in_channels, *kernel_size))
        self.bias = nn.Parameter(torch.empty(out_channels, *output_size)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters from Torch7's uniform distribution."""
        init_uniform(self.in_channels * math.prod(self.kernel_size), self.weight, self.bias)

    def forward(self, input: Tensor) -> Tensor:
        batch = input.unsqueeze(0) if input.dim() == 3 else input
        windows = F.unfold(batch, self.kernel_size, padding=self.padding, stride=self.stride)
        weight = self.weight.flatten(0, 1).flatten(2)
        output = torch.einsum("nkl,lok->nol", windows, weight).unflatten(-1, self.output_size)
        if self.bias is not None:
            output = output + self.bias
        return output.squeeze(0) if input.dim() == 3 else output

    class Lua(Convolution):
        """Torch7 accepts only one input size; a module created in PyTorch gets the smallest suitable size."""

        scalars = {**SPATIAL, ("oH", "oW"): "output_size"}
        defaults = SPATIAL_DEFAULTS

        @classmethod
        def to_lua(cls, module: Any, ctx: LuaContext) -> dict[str, Any]:
            fields = super().to_lua(module, ctx)
            if record_of(module) is None:
                sizes = zip(module.output_size, module.kernel_size, module.stride, module.padding, strict=True)
                fields["iH"], fields["iW"] = ((n - 1) * step + k - 2 * pad for n, k, step, pad in sizes)
            return fields


# ---------------------------------------------------------------------- with a connection table
@lua_class("nn.SpatialConvolutionMap", "nn.SpatialConvolutionSparse")
class SpatialConvolutionMap(nn.Module):
    """A convolution that connects only the pairs of input and output channels in a table.

    Args:
        in_channels: number of input channels.
        out_channels: number of output channels.
        connections: number of pairs.
        kernel_size, stride: as in :class:`torch.nn.Conv2d`, both pairs.

    Shape:
        - Input: :math:`(N, C_{in}, H, W)` or :math:`(C_{in}, H, W)`.
        - Output: :math:`(N, C_{out}, H_{out}, W_{out})` or :math:`(C_{out}, H_{out}, W_{out})`.

    Attributes:
        weight: :math:`(connections, k_H, k_W)`; zeros until a file or the user sets it, like ``bias``.
        bias: :math:`(C_{out})`.
        connection_table: input and output channel of each pair, counted from 1; shape :math:`(connections, 2)`.

    Lua:
        ``nn.SpatialConvolutionMap(connTable, kW, kH, dW, dH)``, SpatialConvolutionMap.lua
    """

    connection_table: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        connections: int,
        kernel_size: tuple[int, int],
        stride: tuple[int, int] = (1, 1),
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride = kernel_size, stride
        self.weight = nn.Parameter(torch.zeros(connections, *kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.register_buffer("connection_table", torch.ones(connections, 2))

    def dense_weight(self) -> Tensor:
        """Return the kernels as :math:`(C_{out}, C_{in}, k_H, k_W)`, zero for channels that are not connected."""
        source, target = self.connection_table.long().unbind(1)
        dense = self.weight.new_zeros(self.out_channels * self.in_channels, *self.kernel_size)
        dense = dense.index_add(0, (target - 1) * self.in_channels + source - 1, self.weight)
        return dense.unflatten(0, (self.out_channels, self.in_channels))

    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(self.connected(input), self.dense_weight(), self.bias, self.stride)

    def connected(self, input: Tensor) -> Tensor:
        """Return ``in_channels`` channels; as in Torch7, the input may have more.

        Torch7 reads the images of such a batch one after the other, without a distance for the other channels.
        """
        *batch, channels, height, width = input.shape
        if channels == self.in_channels or not batch:
            return input.narrow(-3, 0, self.in_channels)
        sizes = (*batch, self.in_channels, height, width)
        return input.flatten()[: math.prod(sizes)].view(sizes)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, connections={len(self.weight)}, "
            f"kernel_size={self.kernel_size}, stride={self.stride}"
        )

    class Lua(LuaClass):
        scalars = {
            "nInputPlane": "in_channels",
            "nOutputPlane": "out_channels",
            ("kH", "kW"): "kernel_size",
            ("dH", "dW"): "stride",
        }
        defaults = {"dH": 1, "dW": 1}
        tensors = {"weight": "weight", "bias": "bias", "connTable": "connection_table"}
        sizes = {"connTable": ("connections", None)}

        @classmethod
        def upgrade(cls, obj: LuaObject) -> LuaObject:
            """Convert the table to the tensor type of the weights, which Torch7 requires; it differs in some files."""
            obj = super().upgrade(obj)
            table, weight = obj.get("connTable"), obj.get("weight")
            if not isinstance(table, LuaTensor) or not isinstance(weight, LuaTensor) or table.dtype == weight.dtype:
                return obj
            copy: Any = private_copy(table)  # repeats the elements that the table repeats
            if copy.storage is not None:
                elements = copy.storage.numpy().astype(weight.dtype)
                copy.storage = LuaStorage(weight.class_name.replace("Tensor", "Storage"), elements.size, elements)
            copy.class_name = weight.class_name
            return obj.changed(connTable=copy)


@lua_class("nn.SpatialFullConvolutionMap")
class SpatialFullConvolutionMap(SpatialConvolutionMap):
    """A transposed convolution that connects only the pairs of input and output channels in a table.

    Args:
        in_channels, out_channels, connections, kernel_size, stride: as in :class:`SpatialConvolutionMap`.

    Shape:
        - Input: :math:`(N, C_{in}, H, W)` or :math:`(C_{in}, H, W)`.
        - Output: :math:`(N, C_{out}, (H-1) s_H + k_H, (W-1) s_W + k_W)`, without :math:`N` for a single image.

    Lua:
        ``nn.SpatialFullConvolutionMap(connTable, kW, kH, dW, dH)``, SpatialFullConvolutionMap.lua
    """

    def connected(self, input: Tensor) -> Tensor:
        return input.narrow(-3, 0, self.in_channels)  # Torch7 has no batches here

    def forward(self, input: Tensor) -> Tensor:
        return F.conv_transpose2d(self.connected(input), self.dense_weight().transpose(0, 1), self.bias, self.stride)
