"""Label distribution learning (gaobb/DLDL-v2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.registry import lua_class


@lua_class("nn.ExpOut")
class ExpOut(nn.Module):
    """The expected label under a distribution over fixed labels.

    Args:
        labels: number L of labels.

    Shape:
        - Input: probabilities, :math:`(N, L)`.
        - Output: :math:`(N)`.

    Attributes:
        constant_vector: the labels, :math:`(L)`.

    Lua:
        ``nn.ExpOut(labelset)``, DLDL-v2 private/ExpOut.lua
    """

    constant_vector: Tensor

    def __init__(self, labels: int, device: Any = None) -> None:
        super().__init__()
        self.labels = labels
        self.register_buffer("constant_vector", torch.zeros(labels, device=device))

    def forward(self, input: Tensor) -> Tensor:
        return input @ self.constant_vector

    class Lua(LuaClass):
        tensors = ("constant_vector",)
        sizes = {"constant_vector": "labels"}
