"""Element-wise functions, and arithmetic with a constant."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.fields import Field
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.activation import Inplace
from dpnn_bridge.objects import LuaObject, LuaTensor
from dpnn_bridge.torch7.gradient import with_gradient_of


@lua_class("nn.Abs")
class Abs(nn.Module):
    """Computes the absolute value, with gradient 1 at 0.

    Shape:
        - Input, output: :math:`(*)`.

    Lua:
        ``nn.Abs()``, Abs.lua

    Differs from PyTorch:
        :func:`torch.abs` has gradient 0 at 0.
    """

    def forward(self, input: Tensor) -> Tensor:
        return torch.where(input >= 0, input + 0, -input)  # -0.0 + 0 is 0.0, as in C


@lua_class("nn.Exp")
class Exp(nn.Module):
    """Computes the exponential function.

    Shape:
        - Input, output: :math:`(*)`.

    Lua:
        ``nn.Exp()``, Exp.lua
    """

    def forward(self, input: Tensor) -> Tensor:
        return input.exp()


@lua_class("nn.Log")
class Log(nn.Module):
    """Computes the natural logarithm.

    Shape:
        - Input, output: :math:`(*)`.

    Lua:
        ``nn.Log()``, Log.lua
    """

    def forward(self, input: Tensor) -> Tensor:
        return input.log()


@lua_class("nn.Square")
class Square(nn.Module):
    """Computes the square.

    Shape:
        - Input, output: :math:`(*)`.

    Lua:
        ``nn.Square()``, Square.lua
    """

    def forward(self, input: Tensor) -> Tensor:
        return input * input  # the backward pass is faster than that of square()


class _Sqrt(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(input: Tensor) -> Tensor:
        return input.sqrt()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (root,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward((grads[0] / root).mul_(0.5), root, 0)  # 0 where the root is 0


@lua_class("nn.Sqrt")
class Sqrt(nn.Module):
    """Computes the square root, with gradient 0 at 0. Torch7's field ``eps`` has had no effect since 2015.

    Shape:
        - Input, output: :math:`(*)`.

    Lua:
        ``nn.Sqrt(eps)``, Sqrt.lua

    Differs from PyTorch:
        :func:`torch.sqrt` has an infinite gradient at 0.
    """

    def forward(self, input: Tensor) -> Tensor:
        return _Sqrt.apply(input)

    class Lua(LuaClass):
        constants = {"eps": 0}

        @classmethod
        def build(cls, obj: LuaObject, ctx: TorchContext) -> nn.Module:
            if obj.get("eps"):
                ctx.note(
                    f"this nn.Sqrt has eps = {obj['eps']}. Torch7 added it to the input before "
                    "September 2015 and has ignored it since then; the converted module ignores it"
                )
            return super().build(obj, ctx)


@lua_class("nn.Power")
class Power(nn.Module):
    """Computes a power with a constant exponent.

    Args:
        pow: the exponent.

    Shape:
        - Input, output: :math:`(*)`.

    Differs from PyTorch:
        For exponent 0, the gradient at 0 is :math:`0 \\cdot 0^{-1}`, NaN.

    Lua:
        ``nn.Power(p)``, Power.lua
    """

    def __init__(self, pow: float) -> None:
        super().__init__()
        self.pow = pow

    def forward(self, input: Tensor) -> Tensor:
        if self.pow == 0:
            return with_gradient_of(input.pow(0), input * (0 / input.detach()))
        return input.pow(self.pow)

    class Lua(LuaClass):
        scalars = ("pow",)


@lua_class("nn.MulConstant")
class MulConstant(nn.Module):
    """Multiplies by a constant.

    Args:
        constant_scalar: the factor.
        inplace: overwrite the input.

    Shape:
        - Input, output: :math:`(*)`.

    Lua:
        ``nn.MulConstant(constant, inplace)``, MulConstant.lua
    """

    def __init__(self, constant_scalar: float, inplace: bool = False) -> None:
        super().__init__()
        self.constant_scalar, self.inplace = constant_scalar, inplace

    def forward(self, input: Tensor) -> Tensor:
        return input.mul_(self.constant_scalar) if self.inplace else input * self.constant_scalar

    class Lua(Inplace):
        scalars = ("constant_scalar",)


@lua_class("nn.AddConstant")
class AddConstant(nn.Module):
    """Adds a constant.

    Args:
        constant_scalar: the number, or a vector with one number for each feature.
        inplace: overwrite the input.

    Shape:
        - Input, output: :math:`(*)`; :math:`(D)` or :math:`(N, D)` with a vector.

    Lua:
        ``nn.AddConstant(constant, inplace)``, AddConstant.lua
    """

    constant_scalar: float | Tensor

    def __init__(self, constant_scalar: float | Tensor, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace
        if isinstance(constant_scalar, Tensor):
            self.register_buffer("constant_scalar", constant_scalar)
        else:
            self.constant_scalar = constant_scalar

    def forward(self, input: Tensor) -> Tensor:
        return input.add_(self.constant_scalar) if self.inplace else input + self.constant_scalar

    class Lua(Inplace):
        computed_fields = ("constant_scalar",)

        @classmethod
        def build(cls, obj: LuaObject, ctx: TorchContext) -> AddConstant:
            constant = obj["constant_scalar"]
            return AddConstant(
                constant.torch() if isinstance(constant, LuaTensor) else constant, **cls.arguments(obj, ctx)
            )

        @classmethod
        def fields_of(cls, module: nn.Module) -> dict[str, Field]:
            return {name: Field(name) for name in module._buffers}

        @classmethod
        def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
            return {"constant_scalar": module.constant_scalar, **super().to_lua(module, ctx)}
