"""Element-wise arithmetic between the tensors of a list."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from dpnn_bridge.conversion.lua_class import LuaClass, empty_sizes, empty_table
from dpnn_bridge.conversion.memory import Trace
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.activation import Inplace
from dpnn_bridge.objects import LuaObject, LuaTensor


@fx.wrap
def shaped_like(first: Tensor, other: Tensor) -> Tensor:
    """Reshape ``other`` to the shape of ``first``; Torch7 pairs elements in row-major order and never broadcasts.

    Raises:
        ValueError: the numbers of elements differ.
    """
    if other.shape == first.shape:
        return other
    if other.numel() != first.numel():
        raise ValueError(
            f"expected a tensor with as many elements as shape {tuple(first.shape)}, found shape {tuple(other.shape)}"
        )
    return other.reshape(first.shape)


def check_dimensions(*tensors: Tensor) -> None:
    """Raise an error for tensors of shape (0), which have no dimensions in Torch7.

    Raises:
        ValueError: a tensor has shape (0).
    """
    if any(tensor.dim() == 1 and tensor.shape[0] == 0 for tensor in tensors):
        raise ValueError("a tensor of shape (0) has no dimensions in Torch7; remove it from the input")


def joined(tensors: Sequence[Tensor], dim: int) -> Tensor:
    """Concatenate tensors along ``dim`` with Torch7's rules: each tensor is reshaped to the other sizes of the first.

    Args:
        tensors: tensors of any shape with dimension ``dim`` and the right number of elements.
        dim: dimension, counted from 0.

    Raises:
        ValueError: a tensor has no dimension ``dim``, or cannot be reshaped.
    """
    first, *others = tensors
    check_dimensions(*tensors)
    reshaped = [first]
    for number, tensor in enumerate(others, 2):
        size = tensor.shape[dim] if dim < tensor.dim() else -1
        shape = (*first.shape[:dim], size, *first.shape[dim + 1 :])
        if tensor.shape != shape:
            if size < 0 or tensor.numel() != math.prod(shape):
                raise ValueError(
                    f"tensor {number} of shape {tuple(tensor.shape)} cannot be concatenated to the first, of shape "
                    f"{tuple(first.shape)}, along dimension {dim + 1}"
                )
            tensor = tensor.reshape(shape)
        reshaped.append(tensor)
    return torch.cat(reshaped, dim)


@lua_class("nn.CAddTable")
class CAddTable(nn.Module):
    """Returns the sum of all tensors of a list.

    Args:
        inplace: overwrite the first tensor with the sum.

    Shape:
        - Input: list of tensors with the same number of elements.
        - Output: the shape of the first tensor.

    Lua:
        ``nn.CAddTable(inplace)``, CAddTable.lua
    """

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, input: list[Tensor]) -> Tensor:
        output = input[0]
        for other in input[1:]:
            other = shaped_like(output, other)
            output = output.add_(other) if self.inplace else output + other
        return output

    class Lua(Inplace):
        constants = {"gradInput": empty_table}

        @classmethod
        def output_memory(cls, obj: LuaObject, input: Any, trace: Trace) -> Any:
            if not obj.get("inplace"):
                return trace.computed(input)
            first = trace.overwrite(trace.element(input, 1))
            if not isinstance(input, list):
                return first
            trace.read(input[1:2])  # before the first change
            trace.call()
            trace.read(input[2:])
            return first


@lua_class("nn.CSubTable")
class CSubTable(nn.Module):
    """Returns the first tensor of a list minus the second.

    Shape:
        - Input: list of two tensors with the same number of elements.
        - Output: the shape of the first tensor.

    Lua:
        ``nn.CSubTable()``, CSubTable.lua
    """

    def forward(self, input: list[Tensor]) -> Tensor:
        return input[0] - shaped_like(input[0], input[1])

    class Lua(LuaClass):
        constants = {"gradInput": empty_table}


@lua_class("nn.CMulTable")
class CMulTable(nn.Module):
    """Returns the product of all tensors of a list.

    Shape:
        - Input: list of tensors with the same number of elements.
        - Output: the shape of the first tensor.

    Lua:
        ``nn.CMulTable()``, CMulTable.lua
    """

    def forward(self, input: list[Tensor]) -> Tensor:
        output = input[0]
        for other in input[1:]:
            output = output * shaped_like(output, other)
        return output

    class Lua(LuaClass):
        constants = {"gradInput": empty_table}
        scratch = ("tout",)


@lua_class("nn.CDivTable")
class CDivTable(nn.Module):
    """Returns the first tensor of a list divided by the second.

    Shape:
        - Input: list of two tensors with the same number of elements.
        - Output: the shape of the first tensor.

    Lua:
        ``nn.CDivTable()``, CDivTable.lua
    """

    def forward(self, input: list[Tensor]) -> Tensor:
        return input[0] / shaped_like(input[0], input[1])

    class Lua(LuaClass):
        constants = {"gradInput": empty_table}


def _select(input: list[Tensor], replaces: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return the first tensor; each later tensor replaces the elements where ``replaces(later, result)`` is true."""
    output = input[0]
    for other in input[1:]:
        other = shaped_like(output, other)
        output = torch.where(replaces(other, output), other, output)
    return output


@lua_class("nn.CMaxTable")
class CMaxTable(nn.Module):
    """Returns the element-wise maximum of a list of tensors; of equal values, the first gets the gradient.

    Shape:
        - Input: list of tensors with the same number of elements.
        - Output: the shape of the first tensor.

    Lua:
        ``nn.CMaxTable()``, CMaxTable.lua

    Differs from PyTorch:
        :func:`torch.maximum` gives each of two equal values half of the gradient, and propagates NaN.
    """

    def forward(self, input: list[Tensor]) -> Tensor:
        return _select(input, torch.gt)

    class Lua(LuaClass):
        scratch = ("maxIdx", "mask", "maxVals", "gradMaxVals", "maskByteTensor")
        constants = {"gradInput": empty_table, **dict.fromkeys(scratch[:4], LuaTensor.empty)}


@lua_class("nn.CMinTable")
class CMinTable(nn.Module):
    """Returns the element-wise minimum of a list of tensors; of equal values, the first gets the gradient.

    Shape:
        - Input: list of tensors with the same number of elements.
        - Output: the shape of the first tensor.

    Lua:
        ``nn.CMinTable()``, CMinTable.lua

    Differs from PyTorch:
        :func:`torch.minimum` gives each of two equal values half of the gradient, and propagates NaN.
    """

    def forward(self, input: list[Tensor]) -> Tensor:
        return _select(input, torch.lt)

    class Lua(LuaClass):
        scratch = ("minIdx", "mask", "minVals", "gradMaxVals", "maskByteTensor")
        constants = {"gradInput": empty_table, **dict.fromkeys(scratch[:4], LuaTensor.empty)}


@lua_class("nn.MixtureTable")
class MixtureTable(nn.Module):
    r"""A mixture of experts: the sum of the experts' outputs, each multiplied by its gate.

    Args:
        dim: dimension of the experts in the expert tensor, counted from 1; a list of experts is stacked along it. None:
            2 for a batch of gates, 1 for a vector.

    Shape:
        - Input: ``[gates, experts]``: gates :math:`(E)` or :math:`(N, E)`; experts, a list of :math:`E` tensors
          :math:`(*)` or :math:`(N, *)`, or one tensor whose dimension ``dim`` has size :math:`E`.
        - Output: the shape of one expert's output.

    Lua:
        ``nn.MixtureTable(dim)``, MixtureTable.lua
    """

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: list) -> Tensor:
        gates, experts = input
        check_dimensions(gates)
        batched = gates.dim() > 1
        dim = (2 if batched else 1) if self.dim is None else self.dim
        count = gates.shape[1 if batched else 0]
        if not isinstance(experts, Tensor):
            if len(experts) != count:
                raise ValueError(f"expected one gate per expert, found {count} gates and {len(experts)} experts")
            experts = torch.stack(list(experts), dim - 1)
        sizes = [1] * experts.dim()
        if batched:
            sizes[0] = gates.shape[0]
        sizes[dim - 1] = count
        return (gates.reshape(sizes) * experts).sum(dim - 1)

    class Lua(LuaClass):
        scalars = ("dim",)
        defaults = {"dim": None}
        constants = {
            "size": empty_sizes,
            "size2": empty_sizes,
            "batchSize": 0,
            "backwardSetup": False,
            "gradInput": empty_table,
        }
        scratch = ("size", "size2")
        #: before 2017, Torch7 resized its buffers only for another batch size
        resets = {"batchSize": 0, "backwardSetup": False}
