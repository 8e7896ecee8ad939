"""Padding at the edges of images and volumes, and inside one dimension."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.lua_class import LuaClass, empty_sizes
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.indices import from_one
from dpnn_bridge.objects import LuaObject

EDGES: dict[str | tuple[str, ...], str] = {("pad_l", "pad_r", "pad_t", "pad_b"): "padding"}


@lua_class("nn.SpatialZeroPadding")
class SpatialZeroPadding(LuaClass):
    torch_type = nn.ZeroPad2d
    scalars = EDGES


@lua_class("nn.SpatialReflectionPadding")
class SpatialReflectionPadding(LuaClass):
    torch_type = nn.ReflectionPad2d
    scalars = EDGES


@lua_class("nn.SpatialReplicationPadding")
class SpatialReplicationPadding(LuaClass):
    torch_type = nn.ReplicationPad2d
    scalars = EDGES


@lua_class("nn.VolumetricReplicationPadding")
class VolumetricReplicationPadding(LuaClass):
    torch_type = nn.ReplicationPad3d
    scalars = {("pleft", "pright", "ptop", "pbottom", "pfront", "pback"): "padding"}


class Padding(nn.Module):
    """Inserts constant elements into one dimension.

    Args:
        dim: dimension of a sample, counted from 1.
        pad: number of elements to insert. If ``pad`` is negative, ``index`` counts from the start, else from the end.
        index: position of the inserted elements; 1 inserts them at the very start or end.
        value: the constant.
        n_input_dim: number of dimensions of a sample; an input with another number has a batch dimension first.

    Shape:
        - Input: :math:`(*, D, *)`.
        - Output: :math:`(*, D + |pad|, *)`.

    Lua:
        ``nn.Padding(dim, pad, nInputDim, value, index)``, Padding.lua
    """

    def __init__(self, dim: int, pad: int, index: int = 1, value: float = 0, n_input_dim: int | None = None) -> None:
        super().__init__()
        self.dim, self.pad, self.index, self.value, self.n_input_dim = dim, pad, index, value, n_input_dim

    def forward(self, input: Tensor) -> Tensor:
        dim = from_one(self.dim) + (self.n_input_dim not in (None, input.dim()))
        size = input.shape[dim]
        before = self.index - 1 if self.pad <= 0 else size - self.index + 1
        shape = list(input.shape)
        shape[dim] = int(abs(self.pad))  # a float, -0.0, in some files
        filling = input.new_full(shape, self.value)
        return torch.cat([input.narrow(dim, 0, before), filling, input.narrow(dim, before, size - before)], dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, pad={self.pad}, index={self.index}, value={self.value}"


class PaddingFields(LuaClass):
    """Base class of the mappings of both Lua classes named nn.Padding."""

    torch_type = Padding
    computed_fields = ("nInputDim",)
    scalars = ("dim", "pad", "value")
    defaults = {"value": 0}
    constants = {"outputSize": empty_sizes}
    scratch = ("outputSize",)

    @classmethod
    def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
        return {**super().arguments(obj, ctx), "n_input_dim": obj.get("nInputDim")}

    @classmethod
    def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
        fields = super().to_lua(module, ctx)
        return fields if module.n_input_dim is None else {**fields, "nInputDim": module.n_input_dim}


@lua_class("nn.Padding")
class PaddingClass(PaddingFields):
    scalars = {**PaddingFields.scalars, "index": "index"}


class _InputAsGradient(torch.autograd.Function):
    """Returns ``output``; the gradient of ``input`` is ``input``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(input: Tensor, output: Tensor) -> Tensor:
        return output.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return ctx.saved_tensors[0].clone(), None


@lua_class("nn.Padding")
class RnnPadding(Padding):
    """Padding at the start or end of a dimension, as in rnn and in the first version of nn.Padding.

    Args:
        dim, pad, value, n_input_dim: as in :class:`Padding`.

    Shape:
        As in :class:`Padding`.

    Differs from PyTorch:
        As in Torch7, the gradient of the input is the input itself.

    Lua:
        ``nn.Padding(dim, pad, nInputDim, value)``, rnn Padding.lua
    """

    def forward(self, input: Tensor) -> Tensor:
        return _InputAsGradient.apply(input, super().forward(input.detach()))

    class Lua(PaddingFields):
        """Files without ``index``."""

        @classmethod
        def matches(cls, obj: LuaObject) -> bool:
            return "index" not in obj

        @classmethod
        def build(cls, obj: LuaObject, ctx: TorchContext) -> nn.Module:
            ctx.note(
                "this nn.Padding has no index. Until August 2015 its gradient in Torch7 was its input, as in the "
                "converted module; versions of nn from then to February 2016 return the gradient. If the file is from "
                "one of those, or to train, replace the module by dpnn_bridge.modules.nn.Padding, same arguments"
            )
            return super().build(obj, ctx)
