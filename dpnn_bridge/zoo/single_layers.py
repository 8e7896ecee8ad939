"""Single layers of training scripts: reversed sequences (tardis, torch-rnn), noise, constants, one-hot, sums."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.lua_values import short_list
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.indices import rows_at
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor
from dpnn_bridge.torch7.gradient import zero_gradient


@lua_class("nn.ReverseTensor")
class ReverseTensor(nn.Module):
    """Reverses one dimension.

    Args:
        dim: the dimension, counted from 1.
        backprop: False makes the gradient of the input zero.

    Shape:
        - Input, output: :math:`(*)`.

    Lua:
        ``nn.ReverseTensor(dim, bprop)``, tardis ReverseTensor.lua
    """

    def __init__(self, dim: int = 1, backprop: bool = True) -> None:
        super().__init__()
        self.dim, self.backprop = dim, backprop

    def forward(self, input: Tensor) -> Tensor:
        output = (input if self.backprop else input.detach()).flip(self.dim - 1)
        return output if self.backprop else zero_gradient(output, input)

    class Lua(LuaClass):
        scalars = {"dim": "dim", "bprop": "backprop"}
        defaults = {"dim": 1, "bprop": True}
        constants = {"rev_index": lambda tensor_class: LuaTensor.empty("torch.LongTensor")}
        checked_by = "formula"
        test = "test_sequences_are_reversed"


@lua_class("nn.ReverseSequence")
class ReverseSequence(ReverseTensor):
    """Reverses one of the first three dimensions.

    Args:
        dim: the dimension, counted from 1.

    Shape:
        - Input, output: :math:`(*)`.

    Lua:
        ``nn.ReverseSequence(dim)``, torch-rnn ReverseSequence.lua
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim)

    class Lua(LuaClass):
        scalars = ("dim",)
        checked_by = "formula"
        test = "test_sequences_are_reversed"


@lua_class("nn.LookupTableOneHot")
class LookupTableOneHot(nn.Module):
    """Encodes indices as one-hot vectors.

    Args:
        size: number of indices.
        index_base: the smallest index.

    Shape:
        - Input: :math:`(T)` or :math:`(N, T)`, indices.
        - Output: :math:`(T, size)` or :math:`(N, T, size)`.

    Raises:
        IndexError: an index is out of range.

    Lua:
        ``nn.LookupTableOneHot(input_size)``, LookupTableOneHot.lua
    """

    eye: Tensor

    def __init__(self, size: int, index_base: int = 1) -> None:
        super().__init__()
        self.size, self.index_base = size, index_base
        self.register_buffer("eye", torch.eye(size))

    def forward(self, input: Tensor) -> Tensor:
        rows = rows_at(self.eye, input.long().flatten() - self.index_base, self.index_base)
        return zero_gradient(rows.view(*input.shape, self.size), input)

    class Lua(LuaClass):
        indexed = True
        tensors = ("eye",)
        scratch = ("_indices", "_inputView")
        checked_by = "formula"
        test = "test_one_hot_rows_are_those_of_the_table"

        @classmethod
        def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
            return {**super().arguments(obj, ctx), "size": int(obj["eye"].shape[0])}


@lua_class("nn.NormalizeBySum")
class NormalizeBySum(nn.Module):
    """Divides a vector by the sum of its elements.

    Shape:
        - Input, output: :math:`(N)`.

    Lua:
        ``nn.NormalizeBySum()``, NormalizeBySum.lua
    """

    def forward(self, input: Tensor) -> Tensor:
        return input / input.sum()

    class Lua(LuaClass):
        computed_fields = ("sum",)
        checked_by = "formula"
        test = "test_a_vector_is_divided_by_its_sum"


@lua_class("nn.GlobalSum")
class GlobalSum(nn.Module):
    """Replaces every element by the mean over the first dimension.

    Shape:
        - Input, output: :math:`(T, *)`.

    Lua:
        ``nn.GlobalSum()``, GlobalSum.lua
    """

    def forward(self, input: Tensor) -> Tensor:
        return input.mean(0, keepdim=True).expand_as(input)

    class Lua(LuaClass):
        checked_by = "formula"
        test = "test_a_global_sum_is_a_mean_for_all"


@lua_class("nn.NoBP")
class NoBP(nn.Module):
    """Returns its input; the gradient of the input is zero.

    Shape:
        - Input, output: :math:`(*)`.

    Lua:
        ``nn.NoBP()``, NoBP.lua
    """

    def forward(self, input: Tensor) -> Tensor:
        return zero_gradient(input.detach(), input)

    class Lua(LuaClass):
        scratch = ("input",)
        checked_by = "formula"
        test = "test_no_gradient_passes"


@lua_class("nn.MyMul")
class MyMul(nn.Module):
    """Multiplies by one learned number.

    Args:
        value: initial value of the number.

    Shape:
        - Input, output: :math:`(*)`.

    Lua:
        ``nn.MyMul(val, inplace)``, MyMul.lua
    """

    def __init__(self, value: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((1,), float(value)))

    def forward(self, input: Tensor) -> Tensor:
        return input * self.weight

    class Lua(LuaClass):
        tensors = ("weight",)
        constants = {"inplace": False}
        checked_by = "formula"
        test = "test_one_number_is_learned"


@lua_class("nn.Noise")
class Noise(nn.Module):
    """Adds normal noise in training.

    Args:
        variance: the standard deviation of the noise; the name is Torch7's.

    Shape:
        - Input, output: :math:`(*)`.

    Lua:
        ``nn.Noise(variance)``, Noise.lua
    """

    def __init__(self, variance: float) -> None:
        super().__init__()
        self.variance = variance

    def forward(self, input: Tensor) -> Tensor:
        return input + self.variance * torch.randn_like(input) if self.training else input

    class Lua(LuaClass):
        scalars = ("variance",)
        computed_fields = ("active",)
        checked_by = "formula"
        test = "test_noise_is_normal_and_of_training"

        @classmethod
        def matches(cls, obj: LuaObject) -> bool:
            return "variance" in obj and "active" in obj

        @classmethod
        def upgrade(cls, obj: LuaObject) -> LuaObject:
            """Take the mode, training or evaluation, from the field ``active``."""
            return super().upgrade(obj).changed(train=obj["active"])

        @classmethod
        def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
            return {**super().to_lua(module, ctx), "active": module.training}


@lua_class("nn.AppendConstant")
class AppendConstant(nn.Module):
    """Appends constants to the elements of one dimension.

    Args:
        values: one or several numbers.
        dimension: the dimension, counted from 1; the last dimension if the input has fewer dimensions.

    Shape:
        - Input: :math:`(*)`.
        - Output: shape of the input, with ``dimension`` enlarged by the number of constants.

    Lua:
        ``nn.AppendConstant(constant_value, dimension)``, AppendConstant.lua
    """

    def __init__(self, values: tuple[float, ...], dimension: int = 2) -> None:
        super().__init__()
        self.values, self.dimension = tuple(values), dimension

    def forward(self, input: Tensor) -> Tensor:
        dim = min(self.dimension, input.dim()) - 1
        sizes = list(input.shape)
        sizes[dim] = len(self.values)
        trailing = [1] * (input.dim() - dim - 1)
        return torch.cat([input, input.new_tensor(self.values).view(-1, *trailing).expand(sizes)], dim)

    class Lua(LuaClass):
        scalars = ("dimension",)
        computed_fields = ("constant_value",)
        checked_by = "formula"
        test = "test_constants_are_appended"

        @classmethod
        def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
            values = tuple(float(v) for v in short_list(obj["constant_value"]))
            return {**super().arguments(obj, ctx), "values": values}

        @classmethod
        def to_lua(cls, module: Any, ctx: LuaContext) -> dict[str, Any]:
            return {**super().to_lua(module, ctx), "constant_value": LuaTable.from_list(module.values)}


@lua_class("nn.SpatialReplicatePadding")
class SpatialReplicatePadding(nn.Module):
    """Repeats the border of an image on all sides.

    Args:
        height: rows to add above and below.
        width: columns to add on the left and on the right.

    Shape:
        - Input: :math:`(C, H, W)`.
        - Output: :math:`(C, H + 2 height, W + 2 width)`.

    Lua:
        ``nn.SpatialReplicatePadding(padH, padW)``, SpatialReplicatePadding.lua

    Differs from Torch7:
        Torch7 raises an error in the backward pass, because it crops the gradient by one row and one column too many.
    """

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width

    def forward(self, input: Tensor) -> Tensor:
        sides = (self.width, self.width, self.height, self.height)
        return nn.functional.pad(input, sides, mode="replicate")

    class Lua(LuaClass):
        scalars = {"padH": "height", "padW": "width"}
        checked_by = "formula"
        test = "test_borders_are_repeated"
