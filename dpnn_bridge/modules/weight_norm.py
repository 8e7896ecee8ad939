"""Weights that are a length times a direction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from dpnn_bridge.lua_context import LuaContext
from dpnn_bridge.modules.convolution import changed
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor
from dpnn_bridge.registry import Field, LuaClass, lua_class, spec_of
from dpnn_bridge.torch_context import TorchContext

#: what Torch7 adds to the squared norm
EPS = 1e-4


class Rows:
    """A weight as one row for each output, and back.

    Args:
        size: shape of the Lua weight.
        dim: which of its dimensions counts the outputs, from 0.
    """

    def __init__(self, size: tuple[int, ...], dim: int) -> None:
        self.dim = dim
        self.front = (size[dim], *size[:dim], *size[dim + 1 :])

    def __call__(self, weight: Tensor) -> Tensor:
        return weight.movedim(self.dim, 0).reshape(self.front[0], -1)

    def inverse(self, rows: Tensor) -> Tensor:
        return rows.view(self.front).movedim(0, self.dim)


def scaled(g: Tensor, v: Tensor) -> Tensor:
    """Rows of ``v`` with the lengths ``g``, nearly."""
    return v * (g.view(-1, 1) / (v.square().sum(1, keepdim=True) + EPS).sqrt())


class Scaled(nn.Module):
    """Parametrization of a weight by lengths and directions.

    Args:
        inner: the module whose weight it is.
        rows: how its Lua weight becomes rows.

    Shape:
        - g: :math:`(outputs, 1)`; v: :math:`(outputs, *)`.
        - Output: shape of the weight.

    Differs from torch:
        :func:`torch.nn.utils.parametrizations.weight_norm` adds nothing to the norm.
    """

    def __init__(self, inner: Any, rows: Rows) -> None:
        super().__init__()
        self.rows = rows
        self.layout = spec_of(inner).fields_of(inner)["weight"].layout
        self.inner = (inner,)  # in a tuple, since it is no child of its own parametrization
        self.size = inner.weight.shape

    def forward(self, g: Tensor, v: Tensor) -> Tensor:
        weight = self.rows.inverse(scaled(g, v))
        return self.layout.to_torch(weight, self.inner[0]) if self.layout else weight.reshape(self.size)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """``(g, v)`` that give the weight."""
        v = self.rows(self.layout.to_lua(weight, self.inner[0]) if self.layout else weight)
        return (v.square().sum(1, keepdim=True) + EPS).sqrt(), v


class WeightNorm(nn.Module):
    """Runs a module whose weight is a length times a direction.

    Args:
        module: the module; its weight has the parametrization :class:`Scaled`.

    Shape:
        As the module.

    Lua:
        ``nn.WeightNorm(module, outputDim)``, WeightNorm.lua
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, input: Any) -> Any:
        return self.module(input)


@lua_class("nn.WeightNorm")
class WeightNormClass(LuaClass):
    """Files have no weight; it follows from ``v`` and ``g``."""

    torch_type = WeightNorm
    tensors = {
        "v": "module.parametrizations.weight.original1",
        "g": "module.parametrizations.weight.original0",
        "bias": "module.bias",
    }

    @classmethod
    def build(cls, obj: LuaObject, ctx: TorchContext) -> nn.Module:
        inner, v, g = obj["modules"][1], obj["v"], obj["g"]
        size = inner["weight"].shape if "weight" in inner else tuple(int(n) for n in obj["weightSize"].numpy())
        rows = Rows(size, int(obj["outputDim"]) - 1)
        weight = rows.inverse(scaled(g.torch(), v.torch())).contiguous().numpy()
        inner = changed(inner, weight=LuaTensor.from_numpy(weight, v.class_name), gradWeight=None)
        module = ctx.to_torch(inner, "modules", 1)
        parametrize.register_parametrization(module, "weight", Scaled(module, rows), unsafe=True)
        return WeightNorm(module)

    @classmethod
    def handled(cls, module: nn.Module) -> set[str]:
        return super().handled(module) | {"modules", "weight", "gradWeight"}

    @classmethod
    def to_lua(cls, module: Any, ctx: LuaContext) -> dict[str, Any]:
        inner = ctx.to_lua(module.module)
        for name in ("weight", "gradWeight"):
            inner.fields.pop(name, None)
        fields = super().to_lua(module, ctx)
        lengths = torch.zeros_like(module.module.parametrizations.weight.original0).flatten()
        buffers = {name: ctx.constant(lengths, module) for name in ("_norm", "_scale")}  # Torch7 does not resize them
        return {**fields, **buffers, "modules": LuaTable.from_list([inner])}

    @classmethod
    def parameters(cls, module: nn.Module) -> Iterator[tuple[nn.Module, str, Field]]:
        return ((m, name, field) for m, name, field in super().parameters(module) if m is module)


#: the smallest norm of nn.LinearWeightNorm, unless the constructor names another: as good as none
LEAST_NORM = 1e-16


class ClampedWeightNorm(nn.Module):
    """Parametrization of a weight by lengths and directions whose norms are at least ``eps``.

    Args:
        eps: smallest norm that a direction is divided by.

    Shape:
        - g: :math:`(outputs, 1)`; v: :math:`(outputs, inputs)`.
        - Output: :math:`(outputs, inputs)`.

    Differs from torch:
        the gradient of a clamped norm is that of the norm, divided by ``eps``.
    """

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def norm(self, v: Tensor) -> Tensor:
        """Length of each row, at least ``eps``."""
        return v.norm(2, 1, keepdim=True).clamp_min(self.eps)

    def forward(self, g: Tensor, v: Tensor) -> Tensor:
        norm, square = self.norm(v.detach()), v.square().sum(1, keepdim=True)
        return v * (g / (norm + (square - square.detach()) / (2 * norm)))

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """``(g, v)`` that give the weight."""
        return self.norm(weight), weight

    def extra_repr(self) -> str:
        return f"eps={self.eps}"


@lua_class("nn.LinearWeightNorm")
class LinearWeightNorm(LuaClass):
    """A linear layer with torch's own weight normalization, or :class:`ClampedWeightNorm` where eps is given."""

    torch_type = nn.Linear
    tensors = {
        "v": "parametrizations.weight.original1",
        "g": "parametrizations.weight.original0",
        "bias": "bias",
    }
    defaults = {"eps": LEAST_NORM}
    scratch = ("weight", "norm", "scale", "addBuffer")

    @classmethod
    def represents(cls, module: nn.Module) -> bool:
        return parametrize.is_parametrized(module, "weight")

    @classmethod
    def build(cls, obj: LuaObject, ctx: TorchContext) -> nn.Module:
        outputs, inputs = obj["v"].shape
        linear = nn.Linear(inputs, outputs, bias=obj.get("bias") is not None)
        if (eps := cls.scalar(obj, "eps")) <= LEAST_NORM:
            return parametrizations.weight_norm(linear)
        parametrize.register_parametrization(linear, "weight", ClampedWeightNorm(eps))
        return linear

    @classmethod
    def handled(cls, module: nn.Module) -> set[str]:
        return super().handled(module) | {"inputSize", "outputSize", "eps"}

    @classmethod
    def children(cls, module: nn.Module) -> list[nn.Module]:
        return []

    @classmethod
    def to_lua(cls, module: Any, ctx: LuaContext) -> dict[str, Any]:
        weight = module.parametrizations.weight
        (parametrization,) = weight
        if not isinstance(parametrization, ClampedWeightNorm):
            parametrization = ClampedWeightNorm(LEAST_NORM)
        g, v = weight.original0.detach(), weight.original1.detach()
        norm = parametrization.norm(v)
        computed = {"weight": module.weight, "norm": norm, "scale": g / norm}  # Torch7 does so in training only
        return {
            **super().to_lua(module, ctx),
            **{name: ctx.constant(tensor, module) for name, tensor in computed.items()},
            "inputSize": module.in_features,
            "outputSize": module.out_features,
            "eps": parametrization.eps,
        }
