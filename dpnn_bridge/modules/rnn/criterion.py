"""Criterions of rnn: for the time steps of a sequence, and for rows that are not masked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.compare.nested import leaves, map_tensors
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.criterion import Criterion
from dpnn_bridge.modules.rnn.mask import zero_rows
from dpnn_bridge.objects import LuaTable


@lua_class("nn.SequencerCriterion")
class SequencerCriterion(Criterion):
    """Sum of a criterion over the time steps of a sequence.

    Args:
        criterion: criterion for the input and target of one time step.
        size_average: divide by the number of steps.

    Shape:
        - Input: :math:`(T, *)`, or a list with one element for each time step.
        - Target: :math:`(T, *)`, or a list with one element for each time step.
        - Output: scalar.

    Lua:
        ``nn.SequencerCriterion(criterion, sizeAverage)``, SequencerCriterion.lua

    Raises:
        ValueError: input and target have different lengths.
    """

    def __init__(self, criterion: nn.Module, size_average: bool = False) -> None:
        super().__init__()
        self.criterion, self.size_average = criterion, size_average

    def forward(self, input: Tensor | list[Any], target: Tensor | list[Any] | None = None) -> Tensor:
        if target is None or len(input) != len(target):
            found = "none" if target is None else f"{len(target)}"
            raise ValueError(f"SequencerCriterion: expected {len(input)} targets, one per time step, found {found}")
        loss = torch.stack([self.criterion(x, y) for x, y in zip(input, target, strict=True)]).sum()
        return loss / len(input) if self.size_average else loss

    class Lua(Criterion.Lua):
        members = ("criterion",)
        scalars = {"sizeAverage": "size_average"}
        defaults = {"sizeAverage": False}
        constants = {"output": 0, "gradInput": lambda tensor_class: LuaTable()}
        scratch = ("clones",)

        @classmethod
        def to_lua(cls, module: nn.Module, ctx: Any) -> dict[str, Any]:
            return super().to_lua(module, ctx) | {"clones": LuaTable()}


@lua_class("nn.RepeaterCriterion")
class RepeaterCriterion(Criterion):
    """Sum of a criterion over the time steps of a sequence, all with the same target.

    Args:
        criterion: criterion for the input of one time step and the target.

    Shape:
        - Input: :math:`(T, *)`, or a list with one element for each time step.
        - Target: the criterion's target.
        - Output: scalar.

    Lua:
        ``nn.RepeaterCriterion(criterion)``, RepeaterCriterion.lua
    """

    def __init__(self, criterion: nn.Module) -> None:
        super().__init__()
        self.criterion = criterion

    def forward(self, input: Tensor | list[Any], target: Any = None) -> Tensor:
        return torch.stack([self.criterion(x, target) for x in input]).sum()

    class Lua(Criterion.Lua):
        members = ("criterion",)
        constants = {"output": 0, "gradInput": lambda tensor_class: LuaTable()}
        scratch = ("clones",)

        @classmethod
        def to_lua(cls, module: nn.Module, ctx: Any) -> dict[str, Any]:
            return super().to_lua(module, ctx) | {"clones": LuaTable()}


@lua_class("nn.MaskZeroCriterion")
class MaskZeroCriterion(Criterion):
    """Applies a criterion to the rows of a batch that are not zero in the (first) input tensor.

    Args:
        criterion: criterion for these rows of input and target; a mean is computed over these rows.
        input_dims: number of dimensions of one sample of the (first) input tensor.

    Shape:
        - Input: :math:`(N, *)`, or nested lists of such tensors.
        - Target: the criterion's target, with N rows.
        - Output: scalar; 0 if all rows are masked.

    Lua:
        ``nn.MaskZeroCriterion(criterion, nInputDim)``, MaskZeroCriterion.lua

    Raises:
        ValueError: the input is not a batch.
    """

    def __init__(self, criterion: nn.Module, input_dims: int) -> None:
        super().__init__()
        self.criterion, self.input_dims = criterion, input_dims

    def forward(self, input: Any, target: Any = None) -> Tensor:
        mask = zero_rows(input, self.input_dims)
        if mask.dim() == 0:
            raise ValueError("MaskZeroCriterion: expected a batch, found one sample")
        kept = map_tensors(lambda t: t[~mask], input)
        if mask.all():
            return sum(t.sum() for t in leaves(kept))  # type: ignore[return-value]
        return self.criterion(kept, map_tensors(lambda t: t[~mask], target))

    class Lua(Criterion.Lua):
        members = ("criterion",)
        scalars = {"nInputDim": "input_dims"}
        scratch = ("zeroMask", "input", "target")
