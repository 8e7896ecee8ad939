"""Element-wise arithmetic between the tensors of a list."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, fx, nn

from dpnn_bridge.conversion.lua_class import LuaClass, empty_sizes, empty_table
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.activation import Inplace
from dpnn_bridge.objects import LuaTensor


@fx.wrap
def shaped_like(first: Tensor, other: Tensor) -> Tensor:
    """Return ``other`` in the shape of ``first``: Torch7 pairs elements in their order and never broadcasts.

    Raises:
        ValueError: the numbers of elements differ.
    """
    if other.shape == first.shape:
        return other
    if other.numel() != first.numel():
        raise ValueError(f"expected as many elements as {tuple(first.shape)} has, found shape {tuple(other.shape)}")
    return other.reshape(first.shape)


def check_dimensions(*tensors: Tensor) -> None:
    """Refuse tensors without elements in one dimension, which in Torch7 have no dimension.

    Raises:
        ValueError: there is one.
    """
    if any(tensor.dim() == 1 and tensor.shape[0] == 0 for tensor in tensors):
        raise ValueError("a tensor without elements has no dimensions in Torch7; omit it from the table")


def joined(tensors: Sequence[Tensor], dim: int) -> Tensor:
    """Concatenate tensors along ``dim`` as Torch7 does: each takes the other sizes of the first, element by element.

    Args:
        tensors: each with the number of elements of its slice, in any shape.
        dim: counted from 0.

    Raises:
        ValueError: a tensor has no ``dim``, or another number of elements than its slice.
    """
    first, *others = tensors
    check_dimensions(*tensors)
    fitting = [first]
    for number, tensor in enumerate(others, 2):
        size = tensor.shape[dim] if dim < tensor.dim() else -1
        place = (*first.shape[:dim], size, *first.shape[dim + 1 :])
        if tensor.shape != place:
            if size < 0 or tensor.numel() != math.prod(place):
                raise ValueError(
                    f"tensor {number} of shape {tuple(tensor.shape)} cannot be joined to the first, of shape "
                    f"{tuple(first.shape)}, along dimension {dim + 1}"
                )
            tensor = tensor.reshape(place)
        fitting.append(tensor)
    return torch.cat(fitting, dim)


@lua_class("nn.CAddTable")
class CAddTable(nn.Module):
    """The sum of all tensors of a list.

    Args:
        inplace: overwrite the first tensor.

    Shape:
        - Input: list of tensors with the same number of elements.
        - Output: the shape of the first.

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


@lua_class("nn.CSubTable")
class CSubTable(nn.Module):
    """The first tensor of a list minus the second.

    Shape:
        - Input: list of two tensors with the same number of elements.
        - Output: the shape of the first.

    Lua:
        ``nn.CSubTable()``, CSubTable.lua
    """

    def forward(self, input: list[Tensor]) -> Tensor:
        return input[0] - shaped_like(input[0], input[1])

    class Lua(LuaClass):
        constants = {"gradInput": empty_table}


@lua_class("nn.CMulTable")
class CMulTable(nn.Module):
    """The product of all tensors of a list.

    Shape:
        - Input: list of tensors with the same number of elements.
        - Output: the shape of the first.

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
    """The first tensor of a list divided by the second.

    Shape:
        - Input: list of two tensors with the same number of elements.
        - Output: the shape of the first.

    Lua:
        ``nn.CDivTable()``, CDivTable.lua
    """

    def forward(self, input: list[Tensor]) -> Tensor:
        return input[0] / shaped_like(input[0], input[1])

    class Lua(LuaClass):
        constants = {"gradInput": empty_table}


def _chosen(input: list[Tensor], replaces: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return the elements of the first tensor, replaced by those of later tensors for which ``replaces`` is true."""
    output = input[0]
    for other in input[1:]:
        other = shaped_like(output, other)
        output = torch.where(replaces(other, output), other, output)
    return output


@lua_class("nn.CMaxTable")
class CMaxTable(nn.Module):
    """The element-wise maximum of a list of tensors; equal values send their gradient to the first.

    Shape:
        - Input: list of tensors with the same number of elements.
        - Output: the shape of the first.

    Lua:
        ``nn.CMaxTable()``, CMaxTable.lua

    Differs from PyTorch:
        :func:`torch.maximum` gives equal values half of the gradient each, and passes NaN on.
    """

    def forward(self, input: list[Tensor]) -> Tensor:
        return _chosen(input, torch.gt)

    class Lua(LuaClass):
        scratch = ("maxIdx", "mask", "maxVals", "gradMaxVals", "maskByteTensor")
        constants = {"gradInput": empty_table, **dict.fromkeys(scratch[:4], LuaTensor.empty)}


@lua_class("nn.CMinTable")
class CMinTable(nn.Module):
    """The element-wise minimum of a list of tensors; equal values send their gradient to the first.

    Shape:
        - Input: list of tensors with the same number of elements.
        - Output: the shape of the first.

    Lua:
        ``nn.CMinTable()``, CMinTable.lua

    Differs from PyTorch:
        :func:`torch.minimum` gives equal values half of the gradient each, and passes NaN on.
    """

    def forward(self, input: list[Tensor]) -> Tensor:
        return _chosen(input, torch.lt)

    class Lua(LuaClass):
        scratch = ("minIdx", "mask", "minVals", "gradMaxVals", "maskByteTensor")
        constants = {"gradInput": empty_table, **dict.fromkeys(scratch[:4], LuaTensor.empty)}


@lua_class("nn.MixtureTable")
class MixtureTable(nn.Module):
    r"""A mixture of experts: the sum of the experts' outputs, each times its gate.

    Args:
        dim: dimension of the experts in the expert tensor, or where a list of experts is stacked, counted from 1;
            None: 2 with a batch of gates, 1 with a vector.

    Shape:
        - Input: list of the gates :math:`(E)` or :math:`(N, E)` and the experts, a list of :math:`E` tensors
          :math:`(*)` or :math:`(N, *)`, or one tensor with a dimension of size :math:`E`.
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
