"""Element-wise functions and affine maps with constants."""

from __future__ import annotations

from torch import Tensor, nn

from dpnn_bridge.registry import LuaClass, lua_class


class MulConstant(nn.Module):
    """Multiplies by a constant.

    Args:
        constant_scalar: the factor.

    Shape:
        - Input: :math:`(*)`.
        - Output: the same shape.

    Lua:
        ``nn.MulConstant(constant, inplace)``, MulConstant.lua
    """

    def __init__(self, constant_scalar: float) -> None:
        super().__init__()
        self.constant_scalar = constant_scalar

    def forward(self, input: Tensor) -> Tensor:
        return input * self.constant_scalar

    def extra_repr(self) -> str:
        return f"{self.constant_scalar}"


@lua_class("nn.MulConstant")
class MulConstantClass(LuaClass):
    torch_type = MulConstant
    scalars = {"constant_scalar": "constant_scalar"}
    constants = {"inplace": False}
