"""``nn.Replicate``, which repeats a tensor along a new dimension."""

from __future__ import annotations

from torch import Tensor, nn

from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.memory import view_memory
from dpnn_bridge.conversion.registry import lua_class


@lua_class("nn.Replicate")
class Replicate(nn.Module):
    """Repeats its input along a new dimension, without copying it.

    Args:
        n_features: number of copies.
        dim: position of the new dimension, counted from 1.
        n_input_dims: number of dimensions of one sample; an input with more has a batch dimension, which stays first.

    Shape:
        - Input: :math:`(*)`.
        - Output: the input's shape with ``n_features`` inserted at ``dim``.

    Lua:
        ``nn.Replicate(nFeature, dim, ndim)``, Replicate.lua
    """

    def __init__(self, n_features: int, dim: int = 1, n_input_dims: int | None = None) -> None:
        super().__init__()
        self.n_features, self.dim, self.n_input_dims = n_features, dim, n_input_dims

    def forward(self, input: Tensor) -> Tensor:
        batch = self.n_input_dims is not None and input.dim() > self.n_input_dims
        dim = self.dim if batch else self.dim - 1
        return input.unsqueeze(dim).expand(*input.shape[:dim], self.n_features, *input.shape[dim:])

    class Lua(LuaClass):
        output_memory = view_memory
        scalars = {"nfeatures": "n_features", "dim": "dim", "ndim": "n_input_dims"}
        defaults = {"dim": 1, "ndim": None}
