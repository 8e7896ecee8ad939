"""Layers with two input tensors: products, distances, selections."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.contexts import LuaContext
from dpnn_bridge.conversion.lua_class import LuaClass, empty_table
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.arithmetic import check_dimensions, shaped_like
from dpnn_bridge.modules.nn.indices import from_one
from dpnn_bridge.objects import LuaTensor


class PairClass(LuaClass):
    """Base class of the mappings of layers whose ``gradInput`` must be a table of two tensors."""

    @classmethod
    def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
        return {**super().to_lua(module, ctx), "gradInput": ctx.empty_tensors(module, 2)}


def rows_of(input: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Convert a pair of vectors or matrices to two matrices of equal shape, one sample per row.

    Raises:
        ValueError: the first tensor is not a vector or matrix, the numbers of elements differ, or a tensor is empty.
    """
    first, second = input[0], input[1]
    if first.dim() not in (1, 2):
        raise ValueError(f"expected two vectors or two matrices, found shape {tuple(first.shape)}")
    check_dimensions(first, second)
    second = shaped_like(first, second)
    return (first, second) if first.dim() == 2 else (first.unsqueeze(0), second.unsqueeze(0))


@lua_class("nn.DotProduct")
class DotProduct(nn.Module):
    """Computes the dot products of the rows of two matrices.

    Shape:
        - Input: list of two tensors :math:`(N, D)` or :math:`(D)`.
        - Output: :math:`(N)` or :math:`(1)`.

    Lua:
        ``nn.DotProduct()``, DotProduct.lua
    """

    def forward(self, input: list[Tensor]) -> Tensor:
        first, second = rows_of(input)
        return (first * second).sum(1)

    class Lua(PairClass):
        scratch = ("buffer",)


@lua_class("nn.CosineDistance")
class CosineDistance(nn.Module):
    """Computes the cosine similarities (not distances) between the rows of two matrices.

    Shape:
        - Input: list of two tensors :math:`(N, D)` or :math:`(D)`.
        - Output: :math:`(N)` or :math:`(1)`.

    Lua:
        ``nn.CosineDistance()``, CosineDistance.lua

    Differs from PyTorch:
        ``1e-12`` is added to each squared norm; :class:`torch.nn.CosineSimilarity` clamps the norms instead.
    """

    def forward(self, input: list[Tensor]) -> Tensor:
        first, second = rows_of(input)
        squares = [1 / (x.square().sum(1) + 1e-12) for x in (first, second)]
        return (first * second).sum(1) * (squares[0] * squares[1]).sqrt()

    class Lua(PairClass):
        scratch = ("buffer", "w1", "w22", "w", "w32", "ones")


class _Distance(torch.autograd.Function):
    """Computes the p-norm of each row, with the gradient that Torch7 computes."""

    generate_vmap_rule = True

    @staticmethod
    def forward(difference: Tensor, p: float) -> Tensor:
        return difference.abs().pow(p).sum(1).pow(1 / p)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        ctx.p = inputs[1]
        ctx.save_for_backward(inputs[0], output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        difference, distance = ctx.saved_tensors
        grad, p = grads[0].unsqueeze(1), ctx.p
        if p == 1:
            return difference.sign() * grad, None
        slope = difference if p <= 2 else difference.sign() * difference.abs().pow(p - 1)
        return slope * (grad * (distance + 1e-6).pow(1 - p).unsqueeze(1)), None


@lua_class("nn.PairwiseDistance")
class PairwiseDistance(nn.Module):
    r"""Computes the p-norms of the differences between the rows of two matrices.

    Args:
        norm: order p of the norm.

    Shape:
        - Input: list of two tensors :math:`(N, D)` or :math:`(D)`.
        - Output: :math:`(N)` or :math:`(1)`.

    Lua:
        ``nn.PairwiseDistance(p)``, PairwiseDistance.lua

    Differs from PyTorch:
        :class:`torch.nn.PairwiseDistance` adds ``1e-6`` to the difference. Here, as in Torch7, ``1e-6`` is added to the
        norm, only in the gradient, and the gradient lacks the factor :math:`|d|^{p - 2}` for :math:`1 < p < 2`.

    Differs from Torch7:
        For ``norm=1``, the gradient of a difference of 0 is 0; in Torch7 it is randomly 1 or -1.
    """

    def __init__(self, norm: float = 2) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, input: list[Tensor]) -> Tensor:
        first, second = rows_of(input)
        return _Distance.apply(first - second, self.norm)

    class Lua(LuaClass):
        scalars = ("norm",)
        defaults = {"norm": 2}
        constants = {"gradInput": empty_table, "diff": LuaTensor.empty}
        scratch = ("diff", "outExpand", "grad", "ones")


@lua_class("nn.MM")
class MM(nn.Module):
    """Computes the product of two matrices, or of two batches of matrices.

    Args:
        transpose_a: transpose the first matrix.
        transpose_b: transpose the second matrix.

    Shape:
        - Input: list of two tensors :math:`(M, K)` and :math:`(K, P)`, both optionally with a batch dimension.
        - Output: :math:`(M, P)`, or :math:`(N, M, P)`.

    Lua:
        ``nn.MM(transA, transB)``, MM.lua
    """

    def __init__(self, transpose_a: bool = False, transpose_b: bool = False) -> None:
        super().__init__()
        self.transpose_a, self.transpose_b = transpose_a, transpose_b

    def forward(self, input: list[Tensor]) -> Tensor:
        a, b = input
        if a.dim() not in (2, 3) or a.dim() != b.dim():
            raise ValueError(
                f"expected two matrices or two batches of matrices, found {tuple(a.shape)} and {tuple(b.shape)}"
            )
        a, b = a.mT if self.transpose_a else a, b.mT if self.transpose_b else b
        return a.mm(b) if a.dim() == 2 else a.bmm(b)

    class Lua(PairClass):
        scalars = {"transA": "transpose_a", "transB": "transpose_b"}
        defaults = {"transA": False, "transB": False}


@lua_class("nn.MV")
class MV(nn.Module):
    """Computes the product of a matrix and a vector, or of a batch of matrices and a batch of vectors.

    Args:
        transpose: transpose the matrix.

    Shape:
        - Input: list of two tensors :math:`(M, K)` and :math:`(K)`, both optionally with a batch dimension.
        - Output: :math:`(M)`, or :math:`(N, M)`.

    Lua:
        ``nn.MV(trans)``, MV.lua
    """

    def __init__(self, transpose: bool = False) -> None:
        super().__init__()
        self.transpose = transpose

    def forward(self, input: list[Tensor]) -> Tensor:
        matrix, vector = input
        if matrix.dim() not in (2, 3) or vector.dim() != matrix.dim() - 1:
            raise ValueError(
                f"expected a matrix and a vector, or a batch of each, found {tuple(matrix.shape)} and "
                f"{tuple(vector.shape)}"
            )
        matrix = matrix.mT if self.transpose else matrix
        return matrix.matmul(vector.unsqueeze(-1)).squeeze(-1)

    class Lua(PairClass):
        scalars = {"trans": "transpose"}
        defaults = {"trans": False}


@lua_class("nn.Index")
class Index(nn.Module):
    """Selects elements along one dimension by index.

    Args:
        dimension: dimension, counted from 1.
        index_base: index of the first element.

    Shape:
        - Input: list of a tensor :math:`(*)` and a vector of indices :math:`(K)`.
        - Output: the tensor's shape with :math:`K` in ``dimension``.

    Lua:
        ``nn.Index(dimension)``, Index.lua
    """

    def __init__(self, dimension: int, index_base: int = 1) -> None:
        super().__init__()
        self.dimension, self.index_base = dimension, index_base

    def forward(self, input: list[Tensor]) -> Tensor:
        return input[0].index_select(from_one(self.dimension), input[1].long() - self.index_base)

    class Lua(PairClass):
        indexed = True
        scalars = ("dimension",)


def empty_of(tensor_class: str) -> Any:
    """Return a function for ``constants`` that creates an empty tensor of a fixed class."""
    return lambda _: LuaTensor.empty(tensor_class)


@lua_class("nn.MaskedSelect")
class MaskedSelect(nn.Module):
    """Returns the elements where a mask is not zero, as a vector.

    Shape:
        - Input: list of a tensor :math:`(*)` and a mask of the same shape and any dtype.
        - Output: :math:`(K)`, where :math:`K` is the number of selected elements.

    Lua:
        ``nn.MaskedSelect()``, MaskedSelect.lua
    """

    def forward(self, input: list[Tensor]) -> Tensor:
        return input[0].masked_select(input[1] != 0)

    class Lua(LuaClass):
        constants = {
            "_maskIndices": empty_of("torch.LongTensor"),
            "_maskIndexBuffer": empty_of("torch.LongTensor"),
            "_maskIndexBufferCPU": empty_of("torch.FloatTensor"),
            "_gradBuffer": LuaTensor.empty,
            "_gradMask": empty_of("torch.ByteTensor"),
        }
