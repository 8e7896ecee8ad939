"""Binary activations (allenai/XNOR-Net)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.torch7.gradient import with_gradient_of


@lua_class("nn.BinActiveZ")
class BinActiveZ(nn.Module):
    """The sign of the input; the gradient passes where the input is between -1 and 1.

    Shape:
        - Input, output: :math:`(*)`.

    Lua:
        ``nn.BinActiveZ()``, XNOR-Net newLayers/BinActiveZ.lua
    """

    def forward(self, input: Tensor) -> Tensor:
        return with_gradient_of(torch.sign(input), input.masked_fill((input >= 1) | (input <= -1), 0))
