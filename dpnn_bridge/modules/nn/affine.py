"""Element-wise multiplication and addition of parameters: one per element, or one for all elements."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.lua_class import LuaClass, size_storage
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.initialization import init_uniform
from dpnn_bridge.objects import LuaObject


def spread(weight: Tensor, input: Tensor) -> tuple[Tensor, Tensor]:
    """Reshape ``input`` and ``weight`` to equal shapes, with the rules of ``nn.CMul`` and ``nn.CAdd``.

    A weight with as many elements as the input is reshaped. Otherwise a weight with as many dimensions is expanded, and
    any other weight has one element for each element of a sample.
    """
    if weight.numel() == input.numel():
        return input, weight.reshape(input.shape)
    if weight.dim() == input.dim():
        return input, weight.expand(input.shape)
    rows = input.unsqueeze(1).flatten(1)  # unlike reshape(len(input), -1), accepts an empty batch
    return rows, weight.reshape(1, -1).expand(rows.shape)


@lua_class("nn.CMul")
class CMul(nn.Module):
    """Multiplies each element by its own weight.

    Args:
        *size: shape of the weight: the shape of a sample, or the shape of the input with 1 in broadcast dimensions.

    Shape:
        - Input, output: ``size`` or :math:`(N, *)`.

    Attributes:
        weight: the weights, of shape ``size``.

    Lua:
        ``nn.CMul(sizes...)``, CMul.lua
    """

    def __init__(self, *size: int, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.size = size
        self.weight = nn.Parameter(torch.empty(size, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights from Torch7's uniform distribution."""
        init_uniform(self.weight.numel(), self.weight)

    def forward(self, input: Tensor) -> Tensor:
        rows, weight = spread(self.weight, input)
        return (rows * weight).reshape(input.shape)

    class Lua(LuaClass):
        tensors = ("weight",)
        scratch = ("size",)

        @classmethod
        def build(cls, obj: LuaObject, ctx: TorchContext) -> nn.Module:
            return cls.torch_type(*obj[next(iter(cls.tensors))].shape)

        @classmethod
        def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
            size = getattr(module, next(iter(cls.tensors))).shape
            return {**super().to_lua(module, ctx), "size": size_storage(size)}


@lua_class("nn.CAdd")
class CAdd(nn.Module):
    """Adds its own bias to each element.

    Args:
        *size: shape of the bias: the shape of a sample, or the shape of the input with 1 in broadcast dimensions.

    Shape:
        - Input, output: ``size`` or :math:`(N, *)`.

    Attributes:
        bias: the biases, of shape ``size``.

    Lua:
        ``nn.CAdd(sizes...)``, CAdd.lua
    """

    def __init__(self, *size: int, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.size = size
        self.bias = nn.Parameter(torch.empty(size, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the biases from Torch7's uniform distribution."""
        init_uniform(self.bias.numel(), self.bias)

    def forward(self, input: Tensor) -> Tensor:
        rows, bias = spread(self.bias, input)
        return (rows + bias).reshape(input.shape)

    class Lua(CMul.Lua):
        tensors = ("bias",)


@lua_class("nn.Mul")
class Mul(nn.Module):
    """Multiplies by one weight.

    Shape:
        - Input, output: :math:`(*)`.

    Attributes:
        weight: the factor, of shape :math:`(1)`.

    Lua:
        ``nn.Mul()``, Mul.lua
    """

    def __init__(self, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weight from Torch7's uniform distribution."""
        nn.init.uniform_(self.weight, -1, 1)

    def forward(self, input: Tensor) -> Tensor:
        return input * self.weight

    class Lua(LuaClass):
        tensors = ("weight",)


@lua_class("nn.Add")
class Add(nn.Module):
    """Adds a bias to each element of a sample, or one bias to all elements.

    Args:
        *size: number of elements of a sample.
        scalar: one bias for all elements.

    Shape:
        - Input, output: :math:`(D)` or :math:`(N, *)` with :math:`D` elements in a sample; :math:`(*)` with ``scalar``.

    Attributes:
        bias: the biases, of shape :math:`(D)` or :math:`(1)`.

    Lua:
        ``nn.Add(inputSize, scalar)``, Add.lua
    """

    def __init__(self, *size: int, scalar: bool = False, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.scalar = scalar
        self.size = (1,) if scalar else size
        self.bias = nn.Parameter(torch.empty(self.size, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the biases from Torch7's uniform distribution."""
        init_uniform(self.bias.shape[0], self.bias)

    def forward(self, input: Tensor) -> Tensor:
        # torch.export would record a comparison of the batch size with the size of one bias per element
        same_dims = input.dim() == self.bias.dim()
        if self.scalar or (same_dims and input.shape[::-1] == self.bias.shape[::-1]):
            return input + self.bias
        rows = input.unsqueeze(1).flatten(1)
        return (rows + self.bias.reshape(1, -1).expand(rows.shape)).reshape(input.shape)

    class Lua(LuaClass):
        tensors = ("bias",)

        @classmethod
        def build(cls, obj: LuaObject, ctx: TorchContext) -> Add:
            return Add(*obj["bias"].shape, scalar=obj.get("scalar") not in (None, False))

        @classmethod
        def to_lua(cls, module: Add, ctx: LuaContext) -> dict[str, Any]:
            fields = super().to_lua(module, ctx)
            if module.scalar:
                fields["scalar"] = True
            return {**fields, "_ones": ctx.constant(torch.ones(1, dtype=module.bias.dtype), module)}
