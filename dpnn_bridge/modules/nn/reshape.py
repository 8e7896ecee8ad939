"""Layers that change the shape or the order of elements, not their values."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.lua_class import LuaClass, size_storage
from dpnn_bridge.conversion.memory import view_memory
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.loaders.reader import MAX_DIMENSIONS
from dpnn_bridge.modules.nn.indices import from_one
from dpnn_bridge.objects import LuaObject, LuaStorage, LuaTable


def sizes_of(value: Any) -> tuple[int, ...]:
    """Return the numbers of a ``torch.LongStorage`` or of a Lua table, which many modules may share."""
    check_dimensions(value)
    return tuple(int(n) for n in (value.numpy() if isinstance(value, LuaStorage) else value.as_list()))


def check_dimensions(value: LuaStorage | LuaTable) -> None:
    """Raise ``ValueError`` if a storage or table has more entries than a tensor has dimensions."""
    if len(value) > MAX_DIMENSIONS:
        raise ValueError(f"expected an entry for each dimension, at most {MAX_DIMENSIONS}, found {len(value):,}")


def product(sizes: tuple[int, ...]) -> int:
    """Return the product of ``sizes``, ignoring ``-1``."""
    return math.prod([n for n in sizes if n >= 0])


def batched_dim(input: Tensor, dim: int, num_input_dims: int | None) -> int:
    """Convert Torch7's ``dim`` (from 1, or negative from the end) to a 0-based dimension, shifted by one for a batch.

    Raises:
        IndexError: ``dim`` is 0 or less than ``-input.dim()``.
    """
    if dim < -input.dim():
        raise IndexError(f"expected a dimension of at least {-input.dim()}, found {dim}")
    if dim < 0:
        return input.dim() + dim
    return from_one(dim) + (num_input_dims is not None and input.dim() == num_input_dims + 1)


@lua_class("nn.View")
class View(nn.Module):
    r"""Changes the shape of its input to ``size``, or to ``size`` with one batch dimension for a larger input.

    Args:
        *size: the new shape of one sample; one of the sizes may be -1.
        num_input_dims: number of trailing dimensions of one sample; None: all dimensions can belong to the sample.

    Shape:
        - Input: :math:`(*)`, with :math:`B` times as many elements as ``size``.
        - Output: :math:`(B, \text{size})`, or ``size`` for :math:`B = 1`.

    Examples:
        >>> View(12)(torch.zeros(2, 3, 4)).shape
        torch.Size([2, 12])
        >>> View(-1, num_input_dims=2)(torch.zeros(2, 3, 4)).shape
        torch.Size([2, 12])
        >>> View(12)(torch.zeros(1, 3, 4)).shape
        torch.Size([12])

    Lua:
        ``nn.View(sizes...)``, View.lua

    Differs from PyTorch:
        ``nn.Flatten`` and ``nn.Unflatten`` keep a batch of one; this layer keeps it only with ``num_input_dims``.

    Differs from Torch7:
        A non-contiguous input is copied; Torch7 raises an error.

    Raises:
        ValueError: the number of elements is not a multiple of the number of elements of one sample.
    """

    def __init__(self, *size: int, num_input_dims: int | None = None) -> None:
        super().__init__()
        self.size, self.num_input_dims = tuple(size), num_input_dims

    def forward(self, input: Tensor) -> Tensor:
        dims = input.dim() if self.num_input_dims is None else self.num_input_dims
        split = max(input.dim() - dims, 0)
        elements, sample = math.prod(input.shape[split:]), product(self.size)
        if sample == 0 or elements % sample:
            raise ValueError(f"an input of shape {tuple(input.shape)} cannot be viewed as samples of shape {self.size}")
        batch = (1 if -1 in self.size else elements // sample) * math.prod(input.shape[:split])
        size = self.size if input.numel() else [elements // sample if n == -1 else n for n in self.size]
        return input.reshape(size if split == 0 and batch == 1 else [batch, *size])

    class Lua(LuaClass):
        output_memory = view_memory
        scalars = {"numInputDims": "num_input_dims"}
        defaults = {"numInputDims": None}
        scratch = ("size", "numElements")

        @classmethod
        def build(cls, obj: LuaObject, ctx: TorchContext) -> View:
            return View(*sizes_of(obj["size"]), **cls.arguments(obj, ctx))

        @classmethod
        def to_lua(cls, module: View, ctx: LuaContext) -> dict[str, Any]:
            size = size_storage(module.size)
            return {**super().to_lua(module, ctx), "size": size, "numElements": product(module.size)}


@lua_class("nn.Reshape")
class Reshape(nn.Module):
    r"""Changes the shape of its input; a first batch dimension is not changed.

    Args:
        *size: the new shape of one sample.
        batch_mode: whether the input's first dimension is a batch; None: it is a batch unless the input has as many
            elements as one sample and more than one row.

    Shape:
        - Input: :math:`(*)` or :math:`(N, *)`.
        - Output: ``size`` or :math:`(N, \text{size})`.

    Examples:
        >>> Reshape(12)(torch.zeros(2, 3, 4)).shape
        torch.Size([2, 12])
        >>> Reshape(12)(torch.zeros(3, 4)).shape
        torch.Size([12])
        >>> Reshape(12)(torch.zeros(1, 3, 4)).shape
        torch.Size([1, 12])

    Lua:
        ``nn.Reshape(sizes..., batchMode)``, Reshape.lua
    """

    def __init__(self, *size: int, batch_mode: bool | None = None) -> None:
        super().__init__()
        self.size, self.batch_mode = tuple(size), batch_mode

    def forward(self, input: Tensor) -> Tensor:
        single = self.batch_mode is False
        if self.batch_mode is None:
            single = input.numel() == math.prod(self.size) and input.shape[0] != 1
        return input.reshape(self.size) if single else input.reshape(input.shape[0], *self.size)

    class Lua(LuaClass):
        output_memory = view_memory
        scalars = {"batchMode": "batch_mode"}
        defaults = {"batchMode": None}
        scratch = ("size", "batchsize", "nelement")

        @classmethod
        def build(cls, obj: LuaObject, ctx: TorchContext) -> Reshape:
            return Reshape(*sizes_of(obj["size"]), **cls.arguments(obj, ctx))

        @classmethod
        def to_lua(cls, module: Reshape, ctx: LuaContext) -> dict[str, Any]:
            return {
                **super().to_lua(module, ctx),
                "size": size_storage(module.size),
                "batchsize": size_storage((1, *module.size)),
                "nelement": math.prod(module.size),
            }


@lua_class("nn.Narrow")
class Narrow(nn.Module):
    """Selects a range of one dimension, like :meth:`torch.Tensor.narrow`.

    Args:
        dimension: dimension, counted from 1, or from the end if negative.
        index: first element, counted from 1; if negative, the last ``length`` elements are removed instead.
        length: number of elements; a negative value is the last element, counted from the end with -1.

    Shape:
        - Input: :math:`(*)`.
        - Output: the input's shape with ``length`` in ``dimension``.

    Lua:
        ``nn.Narrow(dimension, offset, length)``, Narrow.lua
    """

    def __init__(self, dimension: int, index: int, length: int = 1) -> None:
        super().__init__()
        self.dimension, self.index, self.length = dimension, index, length

    def forward(self, input: Tensor) -> Tensor:
        dim = batched_dim(input, self.dimension, None)
        length = self.length if self.length >= 0 else input.shape[dim] - self.index + self.length + 2
        if self.index < 0:
            return input.narrow(dim, 0, input.shape[dim] - length)
        return input.narrow(dim, self.index - 1, length)

    class Lua(LuaClass):
        scalars = ("dimension", "index", "length")
        defaults = {"length": 1}


@lua_class("nn.Select")
class Select(nn.Module):
    """Selects one index and removes the dimension, like :meth:`torch.Tensor.select`.

    Args:
        dimension: dimension, counted from 1, or from the end if negative.
        index: index in this dimension, counted from 1, or from the end if negative.

    Shape:
        - Input: :math:`(*)`.
        - Output: the input's shape without ``dimension``; :math:`(1)` for a vector.

    Lua:
        ``nn.Select(dimension, index)``, Select.lua
    """

    def __init__(self, dimension: int, index: int) -> None:
        super().__init__()
        self.dimension, self.index = dimension, index

    def forward(self, input: Tensor) -> Tensor:
        dim = batched_dim(input, self.dimension, None)
        output = input.select(dim, from_one(self.index, "position"))
        return output.reshape(1) if output.dim() == 0 else output

    class Lua(LuaClass):
        scalars = ("dimension", "index")


@lua_class("nn.Transpose")
class Transpose(nn.Module):
    """Swaps pairs of dimensions, one pair after the other.

    Args:
        *permutations: pairs of dimensions, counted from 1.
        num_input_dims: number of dimensions of one sample; dimensions before them are not changed.

    Shape:
        - Input: :math:`(*)`.
        - Output: the input's dimensions, swapped.

    Examples:
        >>> Transpose((1, 2), (2, 3))(torch.zeros(2, 3, 4)).shape
        torch.Size([3, 4, 2])

    Lua:
        ``nn.Transpose({a, b}, ...)``, Transpose.lua
    """

    def __init__(self, *permutations: tuple[int, int], num_input_dims: int | None = None) -> None:
        super().__init__()
        self.permutations, self.num_input_dims = tuple(permutations), num_input_dims

    def forward(self, input: Tensor) -> Tensor:
        offset = 0 if self.num_input_dims is None else input.dim() - self.num_input_dims
        for a, b in self.permutations:
            input = input.transpose(from_one(a + offset), from_one(b + offset))
        return input.contiguous()

    class Lua(LuaClass):
        scalars = {"numInputDims": "num_input_dims"}
        defaults = {"numInputDims": None}
        scratch = ("permutations",)

        @classmethod
        def build(cls, obj: LuaObject, ctx: TorchContext) -> Transpose:
            check_dimensions(obj["permutations"])
            pairs = ((a, b) for a, b in map(sizes_of, obj["permutations"].as_list()))
            return Transpose(*pairs, **cls.arguments(obj, ctx))

        @classmethod
        def to_lua(cls, module: Transpose, ctx: LuaContext) -> dict[str, Any]:
            pairs = LuaTable.from_list(LuaTable.from_list(pair) for pair in module.permutations)
            return {**super().to_lua(module, ctx), "permutations": pairs}


@lua_class("nn.Squeeze")
class Squeeze(nn.Module):
    """Removes one dimension, if its size is 1, or all dimensions of size 1.

    Args:
        dim: dimension, counted from 1; None: all dimensions of size 1.
        num_input_dims: number of dimensions of one sample; an input with one more is a batch and keeps its first
            dimension.

    Shape:
        - Input: :math:`(*)`.
        - Output: the input's shape without these dimensions; at least :math:`(1)`.

    Lua:
        ``nn.Squeeze(dim, numInputDims)``, Squeeze.lua
    """

    def __init__(self, dim: int | None = None, num_input_dims: int | None = None) -> None:
        super().__init__()
        self.dim, self.num_input_dims = dim, num_input_dims

    def forward(self, input: Tensor) -> Tensor:
        if self.dim is not None:
            output = input.squeeze(batched_dim(input, self.dim, self.num_input_dims))
        else:
            batch_of_one = input.dim() - 1 == self.num_input_dims and input.shape[0] == 1
            output = input.squeeze()
            if batch_of_one:
                output = output.reshape(1, *(output.shape or (1,)))
        return output.reshape(1) if output.dim() == 0 else output

    class Lua(LuaClass):
        output_memory = view_memory
        scalars = {"dim": "dim", "numInputDims": "num_input_dims"}
        defaults = {"dim": None, "numInputDims": None}


@lua_class("nn.Unsqueeze")
class Unsqueeze(nn.Module):
    """Inserts a dimension of size 1.

    Args:
        pos: position of the new dimension, counted from 1; 0 and -1 are the positions before, among batch dimensions.
        num_input_dims: number of dimensions of one sample; an input with more has batch dimensions before them.

    Shape:
        - Input: :math:`(*)`.
        - Output: the input's shape with a dimension of size 1 at ``pos``.

    Differs from Torch7:
        Without ``num_input_dims``, each input is one sample. Torch7 keeps the number of dimensions of the first input:
        a later input with more has batch dimensions.

    Lua:
        ``nn.Unsqueeze(pos, numInputDims)``, Unsqueeze.lua
    """

    def __init__(self, pos: int, num_input_dims: int | None = None) -> None:
        super().__init__()
        self.pos, self.num_input_dims = pos, num_input_dims

    def forward(self, input: Tensor) -> Tensor:
        dims = self.num_input_dims or input.dim()
        return input.unsqueeze(from_one(input.dim() - dims + self.pos, "position"))

    class Lua(LuaClass):
        output_memory = view_memory
        scalars = {"pos": "pos", "numInputDims": "num_input_dims"}
        defaults = {"numInputDims": None}
