"""Containers: modules that run other modules."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.registry import LuaClass, lua_class


@lua_class("nn.Sequential")
class Sequential(LuaClass):
    torch_type = nn.Sequential
    container = True


class ConcatTable(nn.Sequential):
    """Applies every member to the same input and returns the list of results.

    Args:
        *modules: the members.

    Shape:
        - Input: anything that every member takes.
        - Output: list with one result per member.

    Lua:
        ``nn.ConcatTable()``, ConcatTable.lua
    """

    def forward(self, input: Any) -> list[Any]:  # type: ignore[override]
        return [module(input) for module in self]


@lua_class("nn.ConcatTable")
class ConcatTableClass(LuaClass):
    torch_type = ConcatTable
    container = True


class ParallelTable(nn.Sequential):
    """Applies the i-th member to the i-th element of a list.

    Args:
        *modules: the members.

    Shape:
        - Input: list with at least as many elements as there are members.
        - Output: list with one result per member.

    Lua:
        ``nn.ParallelTable()``, ParallelTable.lua
    """

    def forward(self, input: list[Any]) -> list[Any]:  # type: ignore[override]
        return [module(input[i]) for i, module in enumerate(self)]


@lua_class("nn.ParallelTable")
class ParallelTableClass(LuaClass):
    torch_type = ParallelTable
    container = True


class Concat(nn.Sequential):
    """Applies every member to the same input and joins the results along one dimension.

    Args:
        *modules: the members.
        dimension: where the results are joined, counted from 1.

    Shape:
        - Input: :math:`(*)`, whatever every member takes.
        - Output: the members' outputs, joined.

    Lua:
        ``nn.Concat(dim)``, Concat.lua
    """

    def __init__(self, *modules: nn.Module, dimension: int) -> None:
        super().__init__(*modules)
        self.dimension = dimension

    def forward(self, input: Any) -> Tensor:  # type: ignore[override]
        return torch.cat([module(input) for module in self], self.dimension - 1)


@lua_class("nn.Concat")
class ConcatClass(LuaClass):
    torch_type = Concat
    container = True
    scalars = {"dimension": "dimension"}
    scratch = ("size", "outputSize")


class DepthConcat(Concat):
    """Like :class:`Concat`, with smaller outputs centred in zeros of the largest size of every other dimension.

    Args:
        *modules: the members.
        dimension: where the results are joined, counted from 1.

    Shape:
        - Input: :math:`(*)`, whatever every member takes.
        - Output: the members' outputs, padded before by ``floor((largest - size) / 2)`` and joined.

    Lua:
        ``nn.DepthConcat(dim)``, DepthConcat.lua
    """

    def forward(self, input: Any) -> Tensor:
        outputs = [module(input) for module in self]
        sizes = [max(sizes) for sizes in zip(*(o.shape for o in outputs), strict=True)]
        return torch.cat([self._padded(o, sizes) for o in outputs], self.dimension - 1)

    def _padded(self, output: Tensor, sizes: list[int]) -> Tensor:
        pad: list[int] = []
        for d in reversed(range(output.dim())):
            missing = 0 if d == self.dimension - 1 else sizes[d] - output.shape[d]
            pad += [missing // 2, missing - missing // 2]
        return F.pad(output, pad)


@lua_class("nn.DepthConcat")
class DepthConcatClass(ConcatClass):
    torch_type = DepthConcat
    scratch = ("size", "outputSize", "windows")
