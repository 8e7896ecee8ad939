"""Weight normalization: weights as the product of a norm and a direction."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.faults import Fault
from dpnn_bridge.conversion.fields import Field, Layout, record_of
from dpnn_bridge.conversion.lua_class import LuaClass, ParameterSite, size_storage
from dpnn_bridge.conversion.memory import decorated_memory
from dpnn_bridge.conversion.parametrized import make_picklable
from dpnn_bridge.conversion.registry import lua_class, mapping_of
from dpnn_bridge.modules.nn.reshape import sizes_of
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor

#: the constant that Torch7 adds to the squared norm
EPS = 1e-4


class Scaled(nn.Module):
    """Parametrization of a weight by norms g and directions v.

    Args:
        dims: dimensions of the weight over which the norm is computed.

    Shape:
        - g: the weight's shape with size 1 in ``dims``.
        - v, output: the weight's shape.

    Differs from PyTorch:
        :func:`torch.nn.utils.parametrizations.weight_norm` adds no constant to the squared norm.
    """

    #: in Lua, g and v are parameters of ``nn.WeightNorm``, not of the layer inside it
    listed_outside = True

    def __init__(self, dims: tuple[int, ...]) -> None:
        super().__init__()
        self.dims = dims

    def norm(self, v: Tensor) -> Tensor:
        """Return the norm of each direction, with :data:`EPS` added to the squared norm."""
        return (v.square().sum(self.dims, keepdim=True) + EPS).sqrt()

    def forward(self, g: Tensor, v: Tensor) -> Tensor:
        return v * (g / self.norm(v))

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(g, v)`` for a weight."""
        return self.norm(weight), weight

    def extra_repr(self) -> str:
        return f"dims={self.dims}"


def as_rows(weight: Tensor, module: Any) -> Tensor:
    """Convert a weight from PyTorch's memory layout to Torch7's ``v``, with one row for each direction."""
    inner = module.module
    layout, record = mapping_of(inner).fields_of(inner)["weight"].layout, record_of(inner)
    if layout is not None:
        weight = layout.to_lua(weight, inner)
    elif record is not None:
        weight = weight.reshape(record.shapes.get("weight", weight.shape))
    return weight.movedim(module.output_dim - 1, 0).flatten(1)


def _from_rows(rows: Tensor, module: Any) -> Tensor:
    """Convert rows to PyTorch's memory layout; the inverse of :func:`as_rows`."""
    shape = module.module.weight.shape
    order = as_rows(torch.arange(shape.numel()).reshape(shape), module).flatten()
    return rows.new_empty(shape.numel()).index_copy(0, order, rows.flatten()).reshape(shape)


def _norms_to_torch(g: Tensor, module: Any) -> Tensor:
    """Convert Torch7's ``g``, with one row for each direction, to the shape of :class:`Scaled`."""
    weight = _from_rows(g.reshape(-1, 1).expand(-1, module.module.weight.numel() // g.numel()), module)
    for dim in module.module.parametrizations.weight[0].dims:
        weight = weight.narrow(dim, 0, 1)
    return weight


def _norms_to_lua(g: Tensor, module: Any) -> Tensor:
    """Convert g from the shape of :class:`Scaled` to Torch7's; the inverse of :func:`_norms_to_torch`."""
    return as_rows(g.expand_as(module.module.weight), module)[:, :1]


REPEATED = Fault(
    ("gradV", "gradG"),
    "if the layer runs several times, Torch7's gradient is not the sum over the calls: clones do not share v and g",
    spreads=False,
    repeated=True,
)


@lua_class("nn.WeightNorm")
class WeightNorm(nn.Module):
    """Runs a layer with weight normalization.

    Args:
        module: the layer, whose weight has the parametrization :class:`Scaled`.
        output_dim: dimension of the Lua weight along which each slice is one direction, counted from 1.

    Shape:
        - Input, output: the layer's input and output.

    Differs from Torch7:
        Torch7 stores the gradient of ``v`` in ``gradWeight``, and the next backward pass adds to it, also the backward
        pass of a clone in an ``nn.MapTable`` or of a step in an ``nn.Sequencer``. The earlier gradient is then
        transformed by the normalization a second time, and the earlier gradient of ``g`` is overwritten.

    Lua:
        ``nn.WeightNorm(module, outputDim)``, WeightNorm.lua
    """

    def __init__(self, module: nn.Module, output_dim: int = 1) -> None:
        super().__init__()
        self.module, self.output_dim = module, output_dim

    def forward(self, input: Any) -> Any:
        return self.module(input)

    class Lua(LuaClass):
        """Files contain ``v``, ``g`` and the weight's size; files of the first version of nn also the weight."""

        output_memory = decorated_memory
        faults = (REPEATED,)
        computed_fields = ("modules", "weight", "gradWeight", "weightSize", "otherDims", "viewIn", "viewOut")
        scalars = {"outputDim": "output_dim"}
        tensors = {
            "v": Field("module.parametrizations.weight.original1", Layout(_from_rows, as_rows)),
            "g": Field("module.parametrizations.weight.original0", Layout(_norms_to_torch, _norms_to_lua)),
            "bias": "module.bias",
        }

        @classmethod
        def build(cls, obj: LuaObject, ctx: TorchContext) -> nn.Module:
            inner, v = obj["modules"][1], obj["v"]
            size = inner["weight"].shape if "weight" in inner else sizes_of(obj["weightSize"])
            weight = LuaTensor.from_numpy(v.torch().reshape(size).numpy(), v.class_name)
            inner = ctx.to_torch(inner.changed(weight=weight, gradWeight=None), "modules", 1)
            module: Any = WeightNorm(inner, int(obj["outputDim"]))
            direction = _from_rows(torch.arange(v.shape[0]).view(-1, 1).expand(v.shape), module)
            dims = tuple(d for d in range(direction.dim()) if bool((direction == direction.narrow(d, 0, 1)).all()))
            if math.prod(n for d, n in enumerate(direction.shape) if d not in dims) != v.shape[0]:
                raise ctx.error("the rows of v are not slices of the weight in PyTorch's layout", obj)
            parametrize.register_parametrization(inner, "weight", Scaled(dims))
            make_picklable(inner)
            return module

        @classmethod
        def to_lua(cls, module: Any, ctx: LuaContext) -> dict[str, Any]:
            inner = ctx.to_lua(module.module)
            weight = inner.fields.pop("weight")
            inner.fields.pop("gradWeight", None)
            others = [n for d, n in enumerate(weight.shape, 1) if d != module.output_dim]
            rows, columns = weight.shape[module.output_dim - 1], math.prod(others)
            sizes = {"weightSize": weight.shape, "viewIn": (rows, columns), "viewOut": (rows, *others)}
            fields = super().to_lua(module, ctx) | {name: size_storage(size) for name, size in sizes.items()}
            fields["otherDims"] = columns
            zeros = torch.zeros_like(module.module.parametrizations.weight.original0).flatten()
            # Torch7 needs these buffers in their final size, and computes the weight in gradV
            buffers = {name: ctx.constant(zeros, module) for name in ("_norm", "_scale")}
            fields.setdefault("gradV", ctx.constant(zeros.new_zeros(rows, columns), module))
            return {**fields, **buffers, "modules": LuaTable.from_list([inner])}

        @classmethod
        def parameters(
            cls, module: nn.Module, inner: Callable[[nn.Module], Iterator[ParameterSite]]
        ) -> Iterator[ParameterSite]:
            return ((m, name, field) for m, name, field in super().parameters(module, inner) if m is module)

        @classmethod
        def joined_gradient(cls, module: Any, name: str, gradients: dict[str, list[Tensor]]) -> Tensor | None:
            """Sum the gradients of clones; subtract what Torch7 adds by normalizing earlier gradients a second time."""
            if name == "bias":  # clones share the gradient, but some do not store it
                return next((gradient for gradient in gradients["bias"] if gradient.numel()), None)
            again = accumulated(module, sum(gradient.flatten(1) for gradient in gradients["v"][:-1]))[name == "g"]
            return sum(gradient.reshape(again.shape) for gradient in gradients[name]) - again

        @classmethod
        def hidden_parameters(cls, module: Any) -> Iterator[ParameterSite]:
            yield module.module, "weight", mapping_of(module.module).fields_of(module.module)["weight"]


def accumulated(module: WeightNorm, rows: Any) -> tuple[Tensor, Tensor]:
    """Compute ``(gradV, gradG)`` from ``gradWeight``, as Torch7's ``accGradParameters`` does.

    Torch7 also stores ``gradV`` in ``gradWeight``; another call before ``zeroGradParameters`` adds to it.

    Args:
        module: the layer with weight normalization.
        rows: content of ``gradWeight``, one row for each direction.
    """
    inner: Any = module.module
    weight = inner.parametrizations.weight
    v = as_rows(weight.original1.detach(), module)
    norm = (v.square().sum(1, keepdim=True) + EPS).sqrt()
    scale = as_rows(weight.original0.detach().expand_as(inner.weight), module)[:, :1] / norm
    grad_g = (rows * v / norm).sum(1, keepdim=True)
    return rows * scale - v * scale / norm * grad_g, grad_g


#: default lower bound of the norms of nn.LinearWeightNorm
MIN_NORM = 1e-16


class ClampedWeightNorm(nn.Module):
    """Parametrization of a weight by norms g and directions v, whose norms are clamped to at least ``eps``.

    Args:
        eps: lower bound of the norms by which the directions are divided.

    Shape:
        - g: :math:`(outputs, 1)`; v: :math:`(outputs, inputs)`.
        - Output: :math:`(outputs, inputs)`.

    Differs from PyTorch:
        The gradient of a clamped norm is not zero: it is the gradient of the squared norm divided by ``2 * eps``.
    """

    def __init__(self, eps: float = MIN_NORM) -> None:
        super().__init__()
        self.eps = eps

    def norm(self, v: Tensor) -> Tensor:
        """Return the norm of each row, at least ``eps``."""
        return v.norm(2, 1, keepdim=True).clamp_min(self.eps)

    def forward(self, g: Tensor, v: Tensor) -> Tensor:
        norm, square = self.norm(v.detach()), v.square().sum(1, keepdim=True)
        return v * (g / (norm + (square - square.detach()) / (2 * norm)))

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(g, v)`` for a weight."""
        return self.norm(weight), weight

    def extra_repr(self) -> str:
        return f"eps={self.eps}"


@lua_class("nn.LinearWeightNorm")
class LinearWeightNorm(LuaClass):
    """A linear layer with :class:`ClampedWeightNorm`.

    Differs from Torch7:
        As in ``nn.WeightNorm``, Torch7 transforms the gradients of earlier backward passes again. Torch7's clones in an
        ``nn.MapTable`` or for the steps of an ``nn.Sequencer`` share the weight, but neither v nor g. Torch7 also uses
        the weight as scratch memory of the backward pass, so layers that share it can get wrong gradients.
    """

    faults = (REPEATED,)
    torch_type = nn.Linear
    computed_fields = ("inputSize", "outputSize", "eps")
    tensors = {
        "v": "parametrizations.weight.original1",
        "g": "parametrizations.weight.original0",
        "bias": "bias",
    }
    sizes = {"v": ("out_features", "in_features")}
    defaults = {"eps": MIN_NORM}
    scratch = ("weight", "norm", "scale", "addBuffer")

    @classmethod
    def represents(cls, module: nn.Module) -> bool:
        if not parametrize.is_parametrized(module, "weight"):
            return False
        first, *others = module.parametrizations["weight"]  # type: ignore[index]
        return not others and isinstance(first, ClampedWeightNorm)

    @classmethod
    def build(cls, obj: LuaObject, ctx: TorchContext) -> nn.Module:
        linear = nn.Linear(**cls.arguments(obj, ctx), bias=obj.get("bias") is not None)
        parametrize.register_parametrization(linear, "weight", ClampedWeightNorm(cls.scalar(obj, "eps")))
        make_picklable(linear)
        return linear

    @classmethod
    def children(cls, module: nn.Module) -> list[nn.Module]:
        return []

    @classmethod
    def to_lua(cls, module: Any, ctx: LuaContext) -> dict[str, Any]:
        weight = module.parametrizations.weight
        (parametrization,) = weight
        g, v = weight.original0.detach(), weight.original1.detach()
        norm = parametrization.norm(v)
        computed = {"weight": module.weight, "norm": norm, "scale": g / norm}  # Torch7 updates these only in training
        return {
            **super().to_lua(module, ctx),
            **{name: ctx.constant(tensor, module) for name, tensor in computed.items()},
            "inputSize": module.in_features,
            "outputSize": module.out_features,
            "eps": parametrization.eps,
        }
