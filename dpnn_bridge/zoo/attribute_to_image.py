"""Layers of attr2img (attribute-conditioned images): linear maps of two inputs, Gaussian codes, upsampling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.lua_class import LuaClass, empty_table
from dpnn_bridge.conversion.noise import noise_of
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.facebook.fbnn import LinearClass
from dpnn_bridge.modules.nn.convolution import SPATIAL, SPATIAL_DEFAULTS, Convolution
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor
from dpnn_bridge.zoo.research import Sampler


@lua_class("nn.LinearWP")
class LinearWP(nn.Linear):
    """:class:`torch.nn.Linear` under its name in attr2img, which initializes its weights differently.

    Shape:
        - Input: :math:`(N, D)` or :math:`(D)`.
        - Output: :math:`(N, H)` or :math:`(H)`.

    Lua:
        ``nn.LinearWP(inputSize, outputSize)``, attr2img layers/LinearWP.lua
    """

    class Lua(LinearClass):
        scalars = {"inputSize": "in_features"}
        checked_by = "formula"
        test = "test_gaussian_code_is_two_linear_maps"


@lua_class("nn.LinearGaussian")
class LinearGaussian(nn.Module):
    """Mean and log variance of a code: two linear maps of the input.

    Args:
        mean_layer: computes the mean.
        sigma_layer: computes the log variance.
        in_features, out_features: sizes of the input and of each output.

    Shape:
        - Input: :math:`(N, D)` or :math:`(D)`.
        - Output: ``[mean, log variance]``, each :math:`(N, H)` or :math:`(H)`.

    Lua:
        ``nn.LinearGaussian(inputSize, outputSize)``, attr2img layers/LinearGaussian.lua
    """

    def __init__(self, mean_layer: nn.Module, sigma_layer: nn.Module, in_features: int, out_features: int) -> None:
        super().__init__()
        self.mean_layer, self.sigma_layer = mean_layer, sigma_layer
        self.in_features, self.out_features = in_features, out_features

    def forward(self, input: Tensor) -> list[Tensor]:
        return [self.mean_layer(input), self.sigma_layer(input)]

    class Lua(LuaClass):
        members = ("mean_layer", "sigma_layer")
        scalars = {"inputSize": "in_features", "outputSize": "out_features"}
        checked_by = "formula"
        test = "test_gaussian_code_is_two_linear_maps"

        @classmethod
        def matches(cls, obj: LuaObject) -> bool:
            return "mean_layer" in obj


@lua_class("nn.LinearMix")
class LinearMix(nn.Module):
    """A linear map of two concatenated inputs.

    Args:
        x_features, y_features: sizes of the inputs.
        out_features: size of the output.

    Shape:
        - Input: ``[x, y]``, :math:`(N, D_x)` and :math:`(N, D_y)`, or both without N.
        - Output: :math:`(N, H)` or :math:`(H)`.

    Lua:
        ``nn.LinearMix(inputSize_x, inputSize_y, outputSize)``, attr2img layers/LinearMix.lua
    """

    def __init__(self, x_features: int, y_features: int, out_features: int, *, device: Any = None) -> None:
        super().__init__()
        self.x_features, self.y_features, self.out_features = x_features, y_features, out_features
        self.weight = nn.Parameter(torch.empty(out_features, x_features + y_features, device=device))
        self.bias = nn.Parameter(torch.empty(out_features, device=device))
        nn.init.normal_(self.weight, std=self.weight.shape[1] ** -0.5)
        nn.init.normal_(self.bias, std=self.weight.shape[1] ** -0.5)

    def forward(self, input: list[Tensor]) -> Any:
        return F.linear(torch.cat(input, -1), self.weight, self.bias)

    class Lua(LuaClass):
        scalars = {"inputSize_x": "x_features", "inputSize_y": "y_features", "outputSize": "out_features"}
        tensors = ("weight", "bias")
        scratch = ("addBuffer",)
        checked_by = "formula"
        test = "test_linear_maps_of_two_inputs"

        @classmethod
        def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
            return {**super().to_lua(module, ctx), "gradInput": _two_empty_tensors(ctx, module)}


def _two_empty_tensors(ctx: LuaContext, module: nn.Module) -> LuaTable:
    """Return a table of two empty tensors, which Torch7 resizes in its first call."""
    return LuaTable.from_list([LuaTensor.empty(ctx.type_of(module)) for _ in range(2)])


@lua_class("nn.LinearMix2")
class LinearMix2(LinearMix):
    """Mean and log variance of a code: the mean is computed from both inputs, the log variance from the first input.

    Args:
        x_features, y_features: sizes of the inputs.
        out_features: size of each output.

    Shape:
        - Input: ``[x, y]``, :math:`(N, D_x)` and :math:`(N, D_y)`, or both without N.
        - Output: ``[mean, log variance]``, each :math:`(N, H)` or :math:`(H)`.

    Lua:
        ``nn.LinearMix2(inputSize_x, inputSize_y, outputSize)``, attr2img layers/LinearMix2.lua
    """

    def __init__(self, x_features: int, y_features: int, out_features: int, *, device: Any = None) -> None:
        super().__init__(x_features, y_features, out_features, device=device)
        self.weight_sigma = nn.Parameter(torch.zeros(out_features, x_features, device=device))
        self.bias_sigma = nn.Parameter(torch.zeros(out_features, device=device))

    def forward(self, input: list[Tensor]) -> list[Tensor]:
        return [super().forward(input), F.linear(input[0], self.weight_sigma, self.bias_sigma)]

    class Lua(LinearMix.Lua):
        tensors = {**LinearMix.Lua.tensors, "weight_sigma": "weight_sigma", "bias_sigma": "bias_sigma"}
        test = "test_linear_maps_of_two_inputs"

        @classmethod
        def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
            return {**super().to_lua(module, ctx), "output": _two_empty_tensors(ctx, module)}


@lua_class("nn.SpatialConvolutionUpsample", "cudnn.SpatialConvolutionUpsample")
class SpatialConvolutionUpsample(nn.Conv2d):
    """Convolution whose output is reshaped to fewer, larger channels.

    Args:
        factor: factor f of the height and the width; :math:`C_{out}` must be a multiple of :math:`f^2`.
        in_channels, out_channels, kernel_size, stride, padding, groups, bias: as for :class:`torch.nn.Conv2d`.

    Shape:
        - Input: :math:`(N, C, H, W)` or :math:`(C, H, W)`.
        - Output: :math:`(N, C_{out} / f^2, f H, f W)`, or without N.

    Differs from PyTorch:
        ``torch.nn.PixelShuffle`` interleaves the channels; this layer only reshapes them.

    Lua:
        ``nn.SpatialConvolutionUpsample(nInputPlane, nOutputPlane, kW, kH, factor)``, eyescream and attr2img
        layers/SpatialConvolutionUpsample.lua
    """

    def __init__(self, factor: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.factor = factor

    def forward(self, input: Tensor) -> Tensor:
        H, W = input.shape[-2:]
        return super().forward(input).reshape(*input.shape[:-3], -1, H * self.factor, W * self.factor)

    class Lua(Convolution):
        scalars = {**SPATIAL, "factor": "factor"}
        defaults = SPATIAL_DEFAULTS
        checked_by = "formula"
        test = "test_upsampling_convolution_reads_planes_in_a_row"

        @classmethod
        def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
            return {**super().arguments(obj, ctx), "groups": obj.get("groups") or 1}

        @classmethod
        def to_lua(cls, module: SpatialConvolutionUpsample, ctx: LuaContext) -> dict[str, Any]:
            return {
                **super().to_lua(module, ctx),
                "nInputPlaneU": module.in_channels,
                "nOutputPlaneU": module.out_channels // module.factor**2,
            }


@lua_class("nn.Reparametrize")
class Reparametrize(Sampler):
    """Draws from a normal distribution with given means and log variances.

    Args:
        dimension: size D of the code.

    Shape:
        - Input: ``[mean, log variance]``, both :math:`(N, D)`.
        - Output: :math:`(N, D)`.

    Lua:
        ``nn.Reparametrize(dimension)``, attr2img layers/Reparametrize.lua
    """

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.dimension = dimension

    class Lua(LuaClass):
        scalars = ("dimension",)
        scratch = ("eps",)
        constants = {"gradInput": empty_table}
        checked_by = "formula"
        test = "test_reparametrize_draws_around_the_mean"

        @classmethod
        def replay(cls, module: Reparametrize, after: LuaObject) -> Callable[..., Any]:
            return lambda input: module.sampled(input, noise_of(after, "eps", input[0]))
