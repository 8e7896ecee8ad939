"""Layers that reduce one dimension."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.contexts import TorchContext
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.reshape import batched_dim
from dpnn_bridge.objects import LuaObject


class Reduction(nn.Module):
    """Base class of the layers in this file: determines the dimension to reduce."""

    def __init__(self, dimension: int = 1, n_input_dims: int | None = None) -> None:
        super().__init__()
        self.dimension, self.n_input_dims = dimension, n_input_dims

    def reduced_dim(self, input: Tensor) -> int:
        """Return the 0-based dimension that is reduced."""
        return batched_dim(input, self.dimension, self.n_input_dims)

    class Lua(LuaClass):
        scalars = {"dimension": "dimension", "nInputDims": "n_input_dims"}
        defaults = {"dimension": 1, "nInputDims": None}


@lua_class("nn.Sum", "nn.Mean")
class Sum(Reduction):
    """Computes the sum or mean over one dimension.

    Args:
        dimension: dimension, counted from 1, or from the end if negative.
        n_input_dims: number of dimensions of one sample; an input with one more is a batch, which shifts ``dimension``.
        size_average: divide by the size of the dimension.
        squeeze: remove the dimension; False: the dimension has size 1.

    Shape:
        - Input: :math:`(*)`.
        - Output: the input's shape without the dimension; at least :math:`(1)`.

    Lua:
        ``nn.Sum(dimension, nInputDims, sizeAverage, squeeze)``, Sum.lua
    """

    def __init__(
        self,
        dimension: int = 1,
        n_input_dims: int | None = None,
        size_average: bool = False,
        squeeze: bool = True,
    ) -> None:
        super().__init__(dimension, n_input_dims)
        self.size_average, self.squeeze = size_average, squeeze

    def forward(self, input: Tensor) -> Tensor:
        reduce = torch.mean if self.size_average else torch.sum
        return reduce(input, self.reduced_dim(input), keepdim=not self.squeeze or input.dim() == 1)

    class Lua(Reduction.Lua):
        scalars = {**Reduction.Lua.scalars, "sizeAverage": "size_average", "squeeze": "squeeze"}
        defaults = {**Reduction.Lua.defaults, "sizeAverage": False, "squeeze": True}

        @classmethod
        def build(cls, obj: LuaObject, ctx: TorchContext) -> nn.Module:
            module = super().build(obj, ctx)
            if obj.class_name == "nn.Mean" and not obj["sizeAverage"]:
                ctx.note(
                    "this nn.Mean has no sizeAverage = true. Torch7 before 2016 computed the mean, later versions "
                    "compute the sum; the module computes the sum. If the file is from before 2016, set "
                    "size_average = True on the module"
                )
            return module


@lua_class("nn.Max")
class Max(Reduction):
    """Computes the maximum over one dimension; of equal values, the first gets the gradient.

    Args:
        dimension: dimension, counted from 1, or from the end if negative.
        n_input_dims: number of dimensions of one sample; an input with one more is a batch, which shifts ``dimension``.

    Shape:
        - Input: :math:`(*)`.
        - Output: the input's shape without the dimension; at least :math:`(1)`.

    Lua:
        ``nn.Max(dimension, nInputDims)``, Max.lua
    """

    def forward(self, input: Tensor) -> Tensor:
        return input.max(self.reduced_dim(input), keepdim=input.dim() == 1).values


@lua_class("nn.Min")
class Min(Reduction):
    """Computes the minimum over one dimension; of equal values, the first gets the gradient.

    Args:
        dimension: dimension, counted from 1, or from the end if negative.
        n_input_dims: number of dimensions of one sample; an input with one more is a batch, which shifts ``dimension``.

    Shape:
        - Input: :math:`(*)`.
        - Output: the input's shape without the dimension; at least :math:`(1)`.

    Lua:
        ``nn.Min(dimension, nInputDims)``, Min.lua
    """

    def forward(self, input: Tensor) -> Tensor:
        return input.min(self.reduced_dim(input), keepdim=input.dim() == 1).values
