"""Layers of torch-ntm."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.lua_class import LuaClass, empty_table
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.pairwise import PairClass
from dpnn_bridge.objects import LuaObject
from dpnn_bridge.torch7.gradient import with_gradient_of


@lua_class("nn.CircularConvolution")
class CircularConvolution(nn.Module):
    """Circular convolution of a vector and a kernel.

    Shape:
        - Input: ``[vector, kernel]``, :math:`(D)` and :math:`(K)`.
        - Output: :math:`(D)`.

    Lua:
        ``nn.CircularConvolution()``, torch-ntm layers/CircularConvolution.lua
    """

    def forward(self, input: list[Tensor]) -> Tensor:
        vector, kernel = input
        size, shift = vector.shape[0], kernel.shape[0] // 2
        i = torch.arange(size, device=vector.device)[:, None]
        j = torch.arange(kernel.shape[0], device=vector.device)[None, :]
        return vector[(i + shift - j) % size] @ kernel

    class Lua(LuaClass):
        constants = {"gradInput": empty_table}


@lua_class("nn.OuterProd")
class OuterProd(nn.Module):
    """Outer product of two or three vectors, or of the corresponding rows of two matrices.

    Shape:
        - Input: list of two tensors :math:`(*, n)` and :math:`(*, m)`, or of three vectors of sizes n, m and p.
        - Output: :math:`(*, n, m)` for two tensors, :math:`(n, m, p)` for three.

    Lua:
        ``nn.OuterProd()``, torch-ntm layers/OuterProd.lua and lstm-char-cnn util/OuterProd.lua
    """

    def forward(self, input: list[Tensor]) -> Tensor:
        return torch.einsum("...i,...j->...ij" if len(input) == 2 else "i,j,k->ijk", *input)

    class Lua(PairClass):
        scratch = ("order", "size")

        @classmethod
        def matches(cls, obj: LuaObject) -> bool:
            return "modules" not in obj  # a container that flattens the product


@lua_class("nn.PowTable")
class PowTable(nn.Module):
    """Power of a vector; the exponent is the second input.

    Shape:
        - Input: ``[x, exponent]``, :math:`(D)` and :math:`(1)`.
        - Output: :math:`(D)`.

    Differs from PyTorch:
        As in Torch7, elements that are not positive add nothing to the gradient of the exponent.

    Lua:
        ``nn.PowTable()``, torch-ntm layers/PowTable.lua
    """

    def forward(self, input: list[Tensor]) -> Tensor:
        x, exponent = input
        power = x.pow(exponent.detach())
        log = torch.where(x > 0, x, 1).detach().log()
        slope = torch.where(x > 0, power.detach() * log, 0)
        return with_gradient_of(power, power + slope * exponent)

    class Lua(LuaClass):
        constants = {"gradInput": empty_table}


@lua_class("nn.ScalarMulTable")
class ScalarMulTable(nn.Module):
    """Product of a tensor and a number; the number is the second input.

    Shape:
        - Input: ``[x, factor]``, :math:`(*)` and :math:`(1)`.
        - Output: :math:`(*)`.

    Lua:
        ``nn.ScalarMulTable()``, torch-ntm layers/ScalarMulTable.lua
    """

    def forward(self, input: list[Tensor]) -> Tensor:
        return input[0] * input[1]

    class Lua(LuaClass):
        constants = {"gradInput": empty_table}


@lua_class("nn.ScalarDivTable")
class ScalarDivTable(nn.Module):
    """Quotient of a tensor and a number; the number is the second input.

    Shape:
        - Input: ``[x, divisor]``, :math:`(*)` and :math:`(1)`.
        - Output: :math:`(*)`.

    Lua:
        ``nn.ScalarDivTable()``, torch-ntm layers/ScalarDivTable.lua
    """

    def forward(self, input: list[Tensor]) -> Tensor:
        return input[0] / input[1]

    class Lua(LuaClass):
        constants = {"gradInput": empty_table}
        checked_by = "formula"
        test = "test_division_by_a_number"


@lua_class("nn.SmoothCosineSimilarity")
class SmoothCosineSimilarity(nn.Module):
    """Cosine similarity of each row of a matrix and a vector, with a constant in the denominator.

    Args:
        smooth: constant that is added to the denominator.

    Shape:
        - Input: ``[matrix, vector]``, :math:`(N, D)` and :math:`(D)`.
        - Output: :math:`(N)`.

    Lua:
        ``nn.SmoothCosineSimilarity(smoothen)``, torch-ntm layers/SmoothCosineSimilarity.lua
    """

    def __init__(self, smooth: float = 1e-3) -> None:
        super().__init__()
        self.smooth = smooth

    def forward(self, input: list[Tensor]) -> Tensor:
        matrix, vector = input
        norms = torch.linalg.vector_norm(matrix, dim=1) * torch.linalg.vector_norm(vector)
        return matrix @ vector / (norms + self.smooth)

    class Lua(LuaClass):
        scalars = ("smooth",)
        scratch = ("rownorms", "dot", "knorm")
        constants = {"gradInput": empty_table}
