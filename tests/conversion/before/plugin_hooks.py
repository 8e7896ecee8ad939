"""A plugin with the names that hooks of LuaClass had until November 2026."""

from typing import Any

import torch
from torch import nn

from dpnn_bridge import LuaClass, lua_class
from dpnn_bridge.objects import LuaTable


class Scale(nn.Module):
    def __init__(self, weight: torch.Tensor, size: int, power: float) -> None:
        super().__init__()
        self.size, self.power = size, power
        self.weight = nn.Parameter(weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight**self.power


@lua_class("before.Square")
class SquareClass(LuaClass):
    torch_type = Scale
    tensors = {"weight": "weight"}
    sizes = {"weight": "size"}
    passed = ("weight",)
    fixed = {"power": 2}
    derived = ("square",)
    passes_through = True
    trains_unasked = False

    @classmethod
    def in_file(cls, obj: Any) -> Any:
        return LuaTable([("wrapped", super().in_file(obj))])


@lua_class("before.Cube")
class CubeClass(SquareClass):
    only_from_files = True
    fixed = {**SquareClass.fixed, "power": 3}
