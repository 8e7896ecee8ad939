"""Concatenated ReLU."""

from __future__ import annotations

from torch import Tensor, nn

from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.memory import new_memory
from dpnn_bridge.conversion.registry import lua_class


@lua_class("nn.CReLU")
class CReLU(nn.Sequential):
    """Concatenates a sample and its negative along the sample's first dimension and applies ReLU.

    Args:
        *modules: the inner modules of Torch7's class: a ConcatTable of identity and negation, a JoinTable and a ReLU.
            They run on flattened samples.
        n_input_dims: number of dimensions of one sample.

    Shape:
        - Input: :math:`(N, C, *)` with one dimension more than ``n_input_dims``, or a sample :math:`(C, *)`.
        - Output: :math:`(N, 2 C, *)` or :math:`(2 C, *)`.

    Lua:
        ``nn.CReLU(nInputDims, inplace)``, CReLU.lua
    """

    fx_leaf = True

    def __init__(self, *modules: nn.Module, n_input_dims: int) -> None:
        super().__init__(*modules)
        self.n_input_dims = n_input_dims

    def forward(self, input: Tensor) -> Tensor:  # type: ignore[override]
        channel = 1 if input.dim() == self.n_input_dims + 1 else 0
        rows = input.flatten(1) if channel else input.reshape(1, -1)
        size = list(input.shape)
        size[channel] *= 2
        return super().forward(rows).view(size)

    class Lua(LuaClass):
        output_memory = new_memory  # Torch7 overwrites only a buffer
        container = True
        scalars = {"nInputDims": "n_input_dims"}
        constants = {"inplace": False}
