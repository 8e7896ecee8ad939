"""Layers of deep encoding (texture encoding networks)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.lua_class import LuaClass, plain_object
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.objects import LuaTensor
from dpnn_bridge.torch7.gradient import scale_gradient


@lua_class("nn.Aggregate")
class Aggregate(nn.Module):
    r"""Weighted sums of residuals, :math:`e_k = \sum_i a_{ik} r_{ik}`.

    Args:
        K: number of codewords.
        D: number of features.

    Shape:
        - Input: ``[weights, residuals]``, :math:`(B, N, K)` and :math:`(B, N, K, D)`, or both without B.
        - Output: :math:`(B, K, D)`.

    Lua:
        ``nn.Aggregate(K, D)``, Deep-Encoding layers/aggregate.lua
    """

    def __init__(self, K: int, D: int) -> None:
        super().__init__()
        self.K, self.D = K, D

    def forward(self, input: list[Tensor]) -> Tensor:
        weights, residuals = input
        return torch.einsum("...nk,...nkd->...kd", weights, residuals)

    class Lua(LuaClass):
        scalars = ("K", "D")
        checked_by = "formula"
        test = "test_aggregate_sums_weighted_residuals"


@lua_class("nn.Encoding")
class Encoding(nn.Module):
    r"""Sums of the residuals to each codeword, weighted by a soft assignment of the inputs to the codewords.

    With :math:`r_{ik} = x_i - c_k` and :math:`a_{ik} = \mathrm{softmax}_k(-s_k \|r_{ik}\|^2)` the output is
    :math:`e_k = \sum_i a_{ik} r_{ik}`.

    Args:
        K: number of codewords.
        D: number of features.

    Attributes:
        weight: the codewords c, :math:`(K, D)`.
        bias: the factors s, :math:`(K)`.

    Shape:
        - Input: :math:`(B, N, D)` or :math:`(N, D)`.
        - Output: :math:`(B, K, D)` or :math:`(K, D)`.

    Differs from PyTorch:
        The gradient through the assignment weights a has the opposite sign, as in Torch7.

    Differs from Torch7:
        The gradients of the parameters are accumulated; Torch7 keeps only the gradients of the last backward pass.
        Torch7 has no backward pass for inputs of two dimensions.

    Lua:
        ``nn.Encoding(K, D)``, Deep-Encoding layers/encoding.lua
    """

    def __init__(self, K: int, D: int, device: Any = None) -> None:
        super().__init__()
        self.K, self.D = K, D
        self.weight = nn.Parameter(torch.empty(K, D, device=device))
        self.bias = nn.Parameter(torch.empty(K, device=device))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize the parameters as Deep-Encoding does."""
        nn.init.uniform_(self.weight, -((self.K * self.D) ** -0.5), (self.K * self.D) ** -0.5)
        nn.init.uniform_(self.bias, -(self.K**-0.5), self.K**-0.5)

    def forward(self, input: Tensor) -> Tensor:
        residuals = input.unsqueeze(-2) - self.weight
        near = scale_gradient(-residuals.square().sum(-1) * self.bias, -1)
        return torch.einsum("...nk,...nkd->...kd", near.softmax(-1), residuals)

    class Lua(LuaClass):
        scalars = ("K", "D")
        tensors = ("weight", "bias")
        scratch = ("A", "R", "L2", "SL2", "gradA", "gradSL2", "bufBias", "bufWeight")
        constants = {
            **dict.fromkeys(("A", "R", "gradA"), LuaTensor.empty),
            "soft": plain_object("nn.SoftMax"),
        }
        checked_by = "formula"
        test = "test_encoding_reverses_the_gradient_of_the_assignment"
