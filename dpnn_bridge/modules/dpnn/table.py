"""Layers for lists and nested lists: ZipTable, ZipTableOneToMany, CAddTensorTable, ReverseTable."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from dpnn_bridge.conversion.lua_class import LuaClass, empty_table
from dpnn_bridge.conversion.memory import Each, Trace
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.arithmetic import shaped_like
from dpnn_bridge.objects import LuaObject, LuaTensor


@lua_class("nn.ZipTable")
class ZipTable(nn.Module):
    """Transposes a list of lists: ``[[a1, a2], [b1, b2]]`` becomes ``[[a1, b1], [a2, b2]]``.

    Shape:
        - Input: list of lists.
        - Output: list of lists, one for each position of the longest inner list. If a shorter inner list leaves a gap,
          the output has a dict with Lua's 1-based keys instead of a list.

    Lua:
        ``nn.ZipTable()``, ZipTable.lua
    """

    def forward(self, input: list[list[Any]]) -> list[list[Any]]:
        columns = [{} for _ in range(max([0, *[len(row) for row in input]]))]
        for i, row in enumerate(input, 1):
            for j, value in enumerate(row):
                columns[j][i] = value
        return [list(c.values()) if len(c) == max(c) else c for c in columns]  # type: ignore[misc]

    class Lua(LuaClass):
        constants = {"modules": empty_table, "output": empty_table, "gradInput": empty_table}

        @classmethod
        def output_memory(cls, obj: LuaObject, input: Any, trace: Trace) -> Any:
            if not isinstance(input, list):
                return Each(Each(trace.element(trace.element(input, None), None)))
            length = min((len(row) for row in input if isinstance(row, list)), default=None)
            if length is None:
                return Each([trace.element(row, None) for row in input])
            return [[trace.element(row, i) for row in input] for i in range(1, length + 1)]


@lua_class("nn.ZipTableOneToMany")
class ZipTableOneToMany(nn.Module):
    """Pairs one element with every element of a list: ``[v, [a, b]]`` becomes ``[[v, a], [v, b]]``.

    Shape:
        - Input: ``[tensor, list]``.
        - Output: list of pairs.

    Lua:
        ``nn.ZipTableOneToMany()``, ZipTableOneToMany.lua
    """

    def forward(self, input: list[Any]) -> list[list[Any]]:
        if len(input) != 2:
            raise ValueError(f"ZipTableOneToMany: expected [element, list], found {len(input)} elements")
        element, elements = input
        return [[element, other] for other in elements]

    class Lua(LuaClass):
        scratch = ("gradInputEl",)
        constants = {
            "modules": empty_table,
            "output": empty_table,
            "gradInput": empty_table,
            "gradInputEl": LuaTensor.empty,
        }

        @classmethod
        def output_memory(cls, obj: LuaObject, input: Any, trace: Trace) -> Any:
            value, table = trace.element(input, 1), trace.element(input, 2)
            if not isinstance(table, list):
                return Each([value, trace.element(table, None)])
            return [[value, trace.element(table, i)] for i in range(1, len(table) + 1)]


@lua_class("nn.CAddTensorTable")
class CAddTensorTable(nn.Module):
    """Adds one tensor to every tensor of a list.

    Shape:
        - Input: ``[tensor, list of tensors]``, all of the same shape.
        - Output: list of tensors of that shape.

    Lua:
        ``nn.CAddTensorTable()``, CAddTensorTable.lua
    """

    def forward(self, input: list[Any]) -> list[Tensor]:
        tensor, tensors = input
        return [tensor + shaped_like(tensor, other) for other in tensors]

    class Lua(LuaClass):
        constants = {"gradInput": empty_table}


@lua_class("nn.ReverseTable")
class ReverseTable(nn.Module):
    """Reverses a list.

    Shape:
        - Input, output: list.

    Lua:
        ``nn.ReverseTable()``, ReverseTable.lua
    """

    def forward(self, input: list[Any]) -> list[Any]:
        return input[::-1]

    class Lua(LuaClass):
        constants = {"output": empty_table, "gradInput": empty_table}

        @classmethod
        def output_memory(cls, obj: LuaObject, input: Any, trace: Trace) -> Any:
            if not isinstance(input, list):
                return Each(trace.element(input, None))
            return [trace.element(input, i) for i in range(len(input), 0, -1)]
