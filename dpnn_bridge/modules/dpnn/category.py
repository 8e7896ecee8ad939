"""Layers for category indices and probabilities: OneHot, ArgMax, CategoricalEntropy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.lua_values import fresh
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.dpnn.decorator import result_dtype, result_fields
from dpnn_bridge.modules.nn.indices import from_one, must_check_ranges
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor
from dpnn_bridge.torch7.gradient import add_gradient, zero_gradient


@lua_class("nn.OneHot")
class OneHot(nn.Module):
    r"""Converts category indices to one-hot vectors.

    Args:
        output_size: number of categories, :math:`K`.
        index_base: number of the first category.
        dtype: dtype of the output; ``.double()`` and ``.to()`` change it.

    Shape:
        - Input: :math:`(*)`, a tensor of any dtype, whose values are truncated to integers; or one number.
        - Output: :math:`(*, K)`, or :math:`(K)`.

    Examples:
        >>> OneHot(3)(torch.tensor([3, 1]))
        tensor([[0., 0., 1.],
                [1., 0., 0.]])

    Raises:
        IndexError: a value is not the index of a category. On CUDA, the kernel raises its own error.

    Lua:
        ``nn.OneHot(outputSize)``, OneHot.lua
    """

    like: Tensor

    def __init__(self, output_size: int, *, index_base: int = 1, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.output_size, self.index_base = output_size, index_base
        self.register_buffer("like", torch.empty(0, dtype=dtype), persistent=False)

    def forward(self, input: Tensor | float) -> Tensor:
        index = torch.as_tensor(input, device=self.like.device).long() - self.index_base
        if must_check_ranges(index):
            wrong = (index < 0) | (index >= self.output_size)
            if wrong.any():
                last = self.output_size + self.index_base - 1
                raise IndexError(
                    f"OneHot: expected indices from {self.index_base} to {last}, "
                    f"found {int(index[wrong][0]) + self.index_base}"
                )
        output = self.like.new_zeros(*index.shape, self.output_size).scatter_(-1, index.unsqueeze(-1), 1)
        return zero_gradient(output, input) if isinstance(input, Tensor) else output

    class Lua(LuaClass):
        indexed = True
        scalars = {"outputSize": "output_size"}

        @classmethod
        def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
            return {**super().arguments(obj, ctx), "dtype": result_dtype(obj)}

        @classmethod
        def to_lua(cls, module: OneHot, ctx: LuaContext) -> dict[str, Any]:
            return {**super().to_lua(module, ctx), **result_fields(module, ctx)}


@lua_class("nn.ArgMax")
class ArgMax(nn.Module):
    """Index of the largest value along one dimension; of equal values, the first.

    Args:
        dim: dimension of a sample, counted from 1.
        n_input_dim: number of dimensions of one sample; an input with more has a batch dimension first.
        as_long: return ``int64`` instead of the input's dtype.
        index_base: index of the first element.

    Shape:
        - Input: :math:`(*)`.
        - Output: the input's shape without ``dim``; :math:`(1)` for a vector.

    Lua:
        ``nn.ArgMax(dim, nInputDim, asLong)``, ArgMax.lua
    """

    def __init__(self, dim: int = 1, n_input_dim: int = 9999, as_long: bool = True, *, index_base: int = 1) -> None:
        super().__init__()
        self.dim, self.n_input_dim, self.as_long, self.index_base = dim, n_input_dim, as_long, index_base

    def forward(self, input: Tensor) -> Tensor:
        dim = from_one(self.dim) + (input.dim() > self.n_input_dim)
        index = input.argmax(dim, keepdim=input.dim() == 1) + self.index_base
        return index if self.as_long else zero_gradient(index.to(input.dtype), input)

    class Lua(LuaClass):
        indexed = True
        scalars = {"dim": "dim", "nInputDim": "n_input_dim", "asLong": "as_long"}

        @classmethod
        def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
            fields = super().to_lua(module, ctx)
            return {**fields, "output": LuaTensor.empty("torch.LongTensor")} if fields["asLong"] else fields


@lua_class("nn.CategoricalEntropy")
class CategoricalEntropy(nn.Module):
    r"""Returns its input; the backward pass adds a gradient that raises the entropy of the batch's mean distribution.

    Args:
        scale: factor of the added gradient.
        min_entropy: add no gradient for batches with at least this entropy, in nats; None: no limit.
        size_average: divide the added gradient by the batch size.

    Attributes:
        entropy: entropy of the last batch's mean distribution, in nats; None before the first batch.

    Shape:
        - Input, output: :math:`(N, C)`, probabilities.

    Lua:
        ``nn.CategoricalEntropy(scale, minEntropy)``, CategoricalEntropy.lua

    Differs from PyTorch:
        The sum over the batch, which normalizes the distribution, is a constant in the gradient.
    """

    def __init__(self, scale: float = 1, min_entropy: float | None = None, size_average: bool = True) -> None:
        super().__init__()
        self.scale, self.min_entropy, self.size_average = scale, min_entropy, size_average
        self.entropy: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() != 2:
            raise ValueError(f"CategoricalEntropy: expected shape (N, C), found {tuple(input.shape)}")
        values = input.detach()
        total = values.sum()
        p = values.sum(0) / total
        log_p = (p + 1e-6).log()
        self.entropy = entropy = -(p * log_p).sum()
        gradient = self.scale / total * (log_p + p / (p + 1e-6))
        if self.size_average:
            gradient = gradient / input.shape[0]
        if self.min_entropy is not None:
            gradient = torch.where(entropy < self.min_entropy, gradient, torch.zeros_like(gradient))
        return add_gradient(input, gradient)

    class Lua(LuaClass):
        computed_fields = ("entropy",)
        scalars = {"scale": "scale", "minEntropy": "min_entropy", "sizeAverage": "size_average"}
        defaults = {"minEntropy": None}

        @classmethod
        def to_lua(cls, module: CategoricalEntropy, ctx: LuaContext) -> dict[str, Any]:
            fields = super().to_lua(module, ctx)
            if record_of(module) is None:
                fields["minusOne"] = ctx.typed_constant(torch.tensor([-float(module.scale)]), module)
                fields["_mul"], fields["module"] = _entropy(ctx.type_of(module))
                fields["modules"] = LuaTable.from_list([fields["module"]])
            return fields


def _entropy(tensor_class: str) -> tuple[LuaObject, LuaObject]:
    """Return the ``nn.MulConstant`` that normalizes in Torch7's entropy network, and the network."""

    def layer(name: str, *modules: LuaObject, **fields: Any) -> LuaObject:
        return fresh(f"nn.{name}", tensor_class, *modules, **fields)

    normalize = layer("MulConstant", constant_scalar=1, inplace=False)
    logarithm = layer("Sequential", layer("AddConstant", constant_scalar=1e-6, inplace=False), layer("Log"))
    both = layer("ConcatTable", layer("Identity"), logarithm, output=LuaTable())
    product = layer("CMulTable", gradInput=LuaTable())
    sums = [layer("Sum", dimension=1, sizeAverage=False) for _ in range(2)]
    negative = layer("MulConstant", constant_scalar=-1, inplace=False)
    return normalize, layer("Sequential", sums[0], normalize, both, product, sums[1], negative)
