"""A plugin as users wrote them before a module class could hold its own mapping."""

import torch
from torch import nn

from dpnn_bridge import LuaClass, lua_class


class Scale(nn.Module):
    def __init__(self, size: int, power: float) -> None:
        super().__init__()
        self.power = power
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.weight) ** self.power


@lua_class("before.Scale")
class ScaleClass(LuaClass):
    torch_type = Scale
    scalars = {"power": "power"}
    tensors = {"weight": "weight"}
    sizes = {"weight": "size"}
