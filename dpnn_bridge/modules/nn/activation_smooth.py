"""Activations whose gradient Torch7 computes from the output; for some settings it is not the derivative."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.contexts import TorchContext
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.activation import Inplace
from dpnn_bridge.objects import LuaObject
from dpnn_bridge.torch7.gradient import with_gradient_of


class NegativeELU(nn.Module):
    r"""Exponential linear unit with a negative :math:`\alpha`.

    Args:
        alpha: :math:`\alpha < 0`.

    Shape:
        - Input, output: :math:`(*)`.

    Differs from PyTorch:
        The gradient is 1 where the *output* is positive: for a negative :math:`\alpha` everywhere except at 0.

    Lua:
        ``nn.ELU(alpha, inplace)``, ELU.lua
    """

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, input: Tensor) -> Tensor:
        output = torch.where(input <= 0, input.expm1() * self.alpha, input)
        return with_gradient_of(output, input * torch.where(output <= 0, output + self.alpha, 1).detach())

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"


@lua_class("nn.ELU")
class ELU(Inplace):
    torch_type = (nn.ELU, NegativeELU)
    scalars = ("alpha",)

    @classmethod
    def build(cls, obj: LuaObject, ctx: TorchContext) -> nn.Module:
        arguments = cls.arguments(obj, ctx)
        return nn.ELU(**arguments) if arguments["alpha"] >= 0 else NegativeELU(arguments["alpha"])


class EarlySoftplus(nn.Softplus):
    r"""Softplus with a low threshold, whose gradient compares the *output* with the threshold.

    Args:
        beta: steepness :math:`\beta`.
        threshold: above this value of :math:`\beta x`, the output is x; below 20.

    Shape:
        - Input, output: :math:`(*)`.

    Differs from PyTorch:
        The gradient is 1 where :math:`\beta y` is above the threshold, and :math:`1 - e^{-\beta y}` elsewhere. PyTorch
        compares :math:`\beta x` instead.

    Lua:
        ``nn.SoftPlus(beta, threshold)``, SoftPlus.lua
    """

    def forward(self, input: Tensor) -> Tensor:
        output = super().forward(input).detach()
        slope = torch.where(output * self.beta > self.threshold, 1, -torch.expm1(-output * self.beta))
        return with_gradient_of(output, input * slope)


@lua_class("nn.SoftPlus")
class SoftPlus(LuaClass):
    torch_type = (nn.Softplus, EarlySoftplus)
    scalars = ("beta", "threshold")
    defaults = {"beta": 1, "threshold": 20}

    @classmethod
    def build(cls, obj: LuaObject, ctx: TorchContext) -> nn.Softplus:
        arguments = cls.arguments(obj, ctx)
        return (EarlySoftplus if arguments["threshold"] < 20 else nn.Softplus)(**arguments)
