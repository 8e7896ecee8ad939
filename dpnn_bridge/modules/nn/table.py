"""Layers for lists of tensors (Lua tables)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.lua_class import LuaClass, empty_sizes, empty_table
from dpnn_bridge.conversion.memory import Memory, Trace, view_memory
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.arithmetic import check_dimensions, joined
from dpnn_bridge.modules.nn.reshape import batched_dim
from dpnn_bridge.objects import LuaObject
from dpnn_bridge.torch7.gradient import keep_gradients


@lua_class("nn.JoinTable")
class JoinTable(nn.Module):
    """Concatenates a list of tensors along one dimension.

    Args:
        dimension: dimension, counted from 1, or from the end if negative.
        n_input_dims: number of dimensions of one sample; inputs with one more are batches, which shifts ``dimension``.

    Shape:
        - Input: list of tensors, whose sizes in ``dimension`` may differ. Each tensor is reshaped to the other sizes of
          the first tensor.
        - Output: the concatenated tensors; for an empty list a tensor of shape (0).

    Raises:
        ValueError: a tensor cannot be reshaped or has shape (0); or the list is empty and ``dimension`` depends on the
            tensors.

    Lua:
        ``nn.JoinTable(dimension, nInputDims)``, JoinTable.lua
    """

    def __init__(self, dimension: int, n_input_dims: int | None = None) -> None:
        super().__init__()
        self.dimension, self.n_input_dims = dimension, n_input_dims

    def forward(self, input: list[Tensor]) -> Tensor:
        if not input:
            if self.dimension < 0 or self.n_input_dims is not None:
                raise ValueError(
                    "JoinTable: expected at least one tensor, because dimension is negative or n_input_dims is set, "
                    "found an empty list"
                )
            return torch.empty(0)
        return joined(input, batched_dim(input[0], self.dimension, self.n_input_dims))

    class Lua(LuaClass):
        scalars = {"dimension": "dimension", "nInputDims": "n_input_dims"}
        defaults = {"nInputDims": None}
        constants = {"size": empty_sizes, "gradInput": empty_table}
        scratch = ("size",)


@lua_class("nn.SplitTable")
class SplitTable(nn.Module):
    """Splits a tensor into a list of slices along one dimension, like :func:`torch.unbind`.

    Args:
        dimension: dimension, counted from 1, or from the end if negative.
        n_input_dims: number of dimensions of one sample; an input with one more is a batch, which shifts ``dimension``.

    Shape:
        - Input: :math:`(*)`.
        - Output: list of tensors with the input's shape without ``dimension``.

    Lua:
        ``nn.SplitTable(dimension, nInputDims)``, SplitTable.lua
    """

    def __init__(self, dimension: int, n_input_dims: int | None = None) -> None:
        super().__init__()
        self.dimension, self.n_input_dims = dimension, n_input_dims

    def forward(self, input: Tensor) -> list[Tensor]:
        check_dimensions(input)
        slices = input.unbind(batched_dim(input, self.dimension, self.n_input_dims))
        return [s.reshape(1) for s in slices] if input.dim() == 1 else list(slices)

    extra_repr = JoinTable.extra_repr

    class Lua(LuaClass):
        output_memory = view_memory
        scalars = {"dimension": "dimension", "nInputDims": "n_input_dims"}
        defaults = {"nInputDims": None}


@lua_class("nn.SelectTable", "nn.ElementTable")
class SelectTable(nn.Module):
    """Returns one element of a list or dict.

    Args:
        index: position in a list, counted from 1, or from the end if negative; or key of a dict, a string.

    Shape:
        - Input: list or dict.
        - Output: the element.

    Lua:
        ``nn.SelectTable(index)``, SelectTable.lua
    """

    def __init__(self, index: int | str) -> None:
        super().__init__()
        self.index = index

    def forward(self, input: Any) -> Any:
        if isinstance(self.index, str):
            return keep_gradients(input[self.index], [input[k] for k in input if k != self.index])
        if not 0 < abs(self.index) <= len(input):
            raise IndexError(f"SelectTable: index {self.index} is out of range for a list of {len(input)} elements")
        index = self.index % len(input) if self.index < 0 else self.index - 1
        return keep_gradients(input[index], [*input[:index], *input[index + 1 :]])

    class Lua(LuaClass):
        scalars = ("index",)
        constants = {"gradInput": empty_table}

        @classmethod
        def output_memory(cls, obj: LuaObject, input: Any, trace: Trace) -> Any:
            return trace.element(input, obj["index"])


@lua_class("nn.NarrowTable")
class NarrowTable(nn.Module):
    """Returns a range of a list.

    Args:
        offset: position of the first element, counted from 1.
        length: number of elements.

    Shape:
        - Input: list.
        - Output: list of ``length`` elements.

    Lua:
        ``nn.NarrowTable(offset, length)``, NarrowTable.lua

    Raises:
        ValueError: the offset is less than 1; Torch7 then returns no element or a list without a first element.
    """

    def __init__(self, offset: int, length: int = 1) -> None:
        super().__init__()
        if offset < 1:
            raise ValueError(f"NarrowTable: expected an offset of at least 1, found {offset}")
        self.offset, self.length = offset, length

    def forward(self, input: list[Any]) -> list[Any]:
        start, stop = self.offset - 1, self.offset - 1 + max(self.length, 0)
        return keep_gradients(input[start:stop], [*input[:start], *input[stop:]])

    class Lua(LuaClass):
        scalars = ("offset", "length")
        defaults = {"length": 1}
        constants = {"output": empty_table, "gradInput": empty_table}

        @classmethod
        def output_memory(cls, obj: LuaObject, input: Any, trace: Trace) -> Any:
            first = int(obj["offset"])
            return [trace.element(input, first + i) for i in range(int(obj["length"]))]


@lua_class("nn.FlattenTable")
class FlattenTable(nn.Module):
    """Flattens nested lists to one list.

    Shape:
        - Input: nested lists of tensors.
        - Output: list of tensors.

    Lua:
        ``nn.FlattenTable()``, FlattenTable.lua
    """

    def forward(self, input: Sequence[Any]) -> list[Any]:
        output: list[Any] = []
        for element in input:
            output += self.forward(element) if isinstance(element, (list, tuple)) else [element]
        return output

    class Lua(LuaClass):
        constants = {"output": empty_table, "gradInput": empty_table, "input_map": empty_table}
        scratch = ("input_map",)

        @classmethod
        def output_memory(cls, obj: LuaObject, input: Any, trace: Trace) -> Any:
            return input if isinstance(input, Memory) else [*trace.tensors(input)]
