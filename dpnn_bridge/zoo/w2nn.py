"""Layers of waifu2x (``w2nn.*``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.contexts import TorchContext
from dpnn_bridge.conversion.faults import Fault
from dpnn_bridge.conversion.lua_class import LuaClass, empty_table
from dpnn_bridge.conversion.noise import noise_of
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.convolution import SPATIAL
from dpnn_bridge.objects import LuaObject, LuaTensor
from dpnn_bridge.torch7.gradient import scale_gradient, with_gradient_of


@lua_class("w2nn.InplaceClip01")
class InplaceClip01(nn.Module):
    """Clamps to [0, 1]; the gradient passes everywhere.

    Shape:
        - Input: :math:`(*)`. Torch7 overwrites the input.
        - Output: the same shape.

    Lua:
        ``w2nn.InplaceClip01()``, waifu2x lib/InplaceClip01.lua
    """

    def forward(self, input: Tensor) -> Tensor:
        return with_gradient_of(input.clamp(0, 1), input)


@lua_class("w2nn.LeakyReLU")
class LeakyReLU(nn.LeakyReLU):
    """:class:`torch.nn.LeakyReLU` whose slope at 0 is 1.

    Args:
        negative_slope: slope for negative values.

    Shape:
        - Input, output: :math:`(*)`.

    Differs from Torch7:
        For a slope of 0 or less, the gradient is the derivative. Torch7 takes the sign from the scaled input, and
        returns a wrong gradient for negative values.

    Lua:
        ``w2nn.LeakyReLU(negative_scale)``, waifu2x lib/LeakyReLU.lua
    """

    def forward(self, input: Tensor) -> Tensor:
        return torch.where(input >= 0, input, input * self.negative_slope)

    class Lua(LuaClass):
        faults = (
            Fault(
                ("gradInput", "gradParams"),
                "for a slope of 0 or less, Torch7's gradient of negative values is wrong",
                when=lambda module: module.negative_slope <= 0,  # type: ignore[operator]
            ),
        )
        scalars = {"negative_scale": "negative_slope"}
        scratch = ("negative",)
        constants = {"negative": LuaTensor.empty}


@lua_class("w2nn.ScaleTable")
class ScaleTable(nn.Module):
    """Multiplies each channel by its own factor.

    Shape:
        - Input: ``[features, factors]``, :math:`(N, C, H, W)` and :math:`(N, C, 1, 1)`.
        - Output: :math:`(N, C, H, W)`.

    Lua:
        ``w2nn.ScaleTable()``, waifu2x lib/ScaleTable.lua
    """

    def forward(self, input: list[Tensor]) -> Tensor:
        features, factors = input
        return features * factors.expand_as(features)

    class Lua(LuaClass):
        scratch = ("grad_tmp", "scale")
        constants = {"gradInput": empty_table, "grad_tmp": LuaTensor.empty, "scale": LuaTensor.empty}


@lua_class("w2nn.AuxiliaryLossTable")
class AuxiliaryLossTable(nn.Module):
    """Returns all inputs in training and the i-th input in evaluation.

    Args:
        i: index of the input, counted from 1.

    Shape:
        - Input: list of tensors.
        - Output: the list in training, its i-th tensor in evaluation.

    Lua:
        ``w2nn.AuxiliaryLossTable(i)``, waifu2x lib/AuxiliaryLossTable.lua
    """

    def __init__(self, i: int = 1) -> None:
        super().__init__()
        self.i = i

    def forward(self, input: list[Tensor]) -> Tensor | list[Tensor]:
        return list(input) if self.training else input[self.i - 1]

    class Lua(LuaClass):
        scalars = ("i",)
        scratch = ("output_table", "output_tensor")
        constants = {"gradInput": empty_table, "output_table": empty_table, "output_tensor": LuaTensor.empty}
        default_training = False


@lua_class("w2nn.ShakeShakeTable")
class ShakeShakeTable(nn.Module):
    """Adds two branches with random weights in training; their gradients have other random weights.

    Shape:
        - Input: ``[x1, x2]``, both :math:`(N, *)`.
        - Output: :math:`2 ((1 - a) x1 + a x2)` in training, with one random a for each sample; :math:`x1 + x2` in
          evaluation.

    Differs from Torch7:
        The backward pass returns the gradients :math:`b g` and :math:`(1 - b) g` with another random b. Torch7 computes
        them and does not return them, because it stores them in another field than ``gradInput``.

    Lua:
        ``w2nn.ShakeShakeTable()``, waifu2x lib/ShakeShakeTable.lua
    """

    def forward(self, input: list[Tensor]) -> Tensor:
        x1, x2 = input
        if not self.training:
            return x1 + x2
        weights = torch.rand(2, x1.shape[0], dtype=x1.dtype, device=x1.device)
        return self.mixed(x1, x2, weights[0], weights[1])

    def mixed(self, x1: Tensor, x2: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
        """Return the sum with weights ``alpha``; ``beta`` are the weights of the gradients. Both are (N)."""
        shape = (-1,) + (1,) * (x1.dim() - 1)
        alpha, beta = alpha.view(shape), beta.view(shape)
        return with_gradient_of(2 * ((1 - alpha) * x1 + alpha * x2), beta * x1 + (1 - beta) * x2)

    class Lua(LuaClass):
        scratch = ("alpha", "beta", "first", "second", "gradOutput")
        constants = dict.fromkeys(("alpha", "beta", "first", "second"), LuaTensor.empty)

        @classmethod
        def replay(cls, module: ShakeShakeTable, after: LuaObject) -> Callable[..., Any] | None:
            if not module.training:
                return None
            return lambda x: module.mixed(x[0], x[1], noise_of(after, "alpha", x[0]), noise_of(after, "beta", x[0]))


@lua_class("w2nn.GradWeight")
class GradWeight(nn.Module):
    """Returns its input and scales the gradient.

    Args:
        factor: factor of the gradient.

    Shape:
        - Input: :math:`(*)`.
        - Output: the input.

    Lua:
        ``w2nn.GradWeight(constant_scalar)``, waifu2x lib/GradWeight.lua
    """

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, input: Tensor) -> Tensor:
        return scale_gradient(input, self.factor)

    class Lua(LuaClass):
        scalars = {"constant_scalar": "factor"}


@lua_class("w2nn.Print", "w2nn.PrintTable")
class Print(LuaClass):
    """Prints in Torch7; returns its input here."""

    torch_type = nn.Identity
    import_only = True
    is_identity = True


@lua_class("w2nn.EdgeFilter", "w2nn.RandomBinaryConvolution")
class FixedConv2d(nn.Conv2d):
    """A convolution whose weight is not trained, although Torch7 lists it as a parameter.

    Args:
        in_channels, out_channels, kernel_size, stride, padding: as for :class:`torch.nn.Conv2d`.

    Shape:
        - Input: :math:`(N, C_{in}, H, W)`.
        - Output: :math:`(N, C_{out}, H', W')`.

    Lua:
        ``w2nn.EdgeFilter(nInputPlane)``, ``w2nn.RandomBinaryConvolution(…)``, waifu2x lib/
    """

    class Lua(LuaClass):
        scalars = SPATIAL
        defaults = {"padH": 0, "padW": 0}
        tensors = ("weight",)
        constant_kwargs = {"bias": False}
        scratch = ("finput", "fgradInput")

        @classmethod
        def fill(cls, module: nn.Module, obj: LuaObject, ctx: TorchContext) -> None:
            super().fill(module, obj, ctx)
            module.weight.requires_grad_(False)
