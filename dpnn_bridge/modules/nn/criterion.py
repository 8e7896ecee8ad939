"""Criterions: what all of them share, and those that combine others.

A criterion is called as ``criterion(input, target)`` and returns the loss as a tensor without dimensions. Its gradient
is Torch7's ``gradInput``, also where that is not the derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.compare.nested import detached
from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.objects import LuaObject, LuaStorage, LuaTable, LuaTensor, element_dtype
from dpnn_bridge.torch7.gradient import with_penalty


# ---------------------------------------------------------------------- targets
def elementwise(target: Tensor | float, input: Tensor) -> Tensor:
    """Return ``target`` in the shape and dtype of ``input``: Torch7 pairs elements in order, whatever the shapes.

    Raises:
        ValueError: the numbers of elements differ.
    """
    values: Tensor = torch.as_tensor(target, device=input.device)
    if values.numel() != input.numel():
        raise ValueError(
            f"target of shape {tuple(values.shape)} has {values.numel()} elements, "
            f"input of shape {tuple(input.shape)} has {input.numel()}; they must be as many"
        )
    return values.reshape(input.shape).to(input.dtype)


def class_indices(target: Tensor | float, input: Tensor, index_base: int) -> Tensor:
    """Convert class numbers (one number, integers or floats from ``index_base``) to 0-based integers."""
    return torch.as_tensor(target, device=input.device).long() - index_base


#: for the error about a class that there is not
WHERE_TARGETS_START = "targets start at 1, as in Lua, unless the criterion was converted with index_base=0"


def nll_loss(log_probs: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str) -> Tensor:
    """Compute the negative log likelihood, averaged by the targets' weights; 0 if these add up to 0.

    Args:
        log_probs: :math:`(N, C, *)`.
        target: :math:`(N, *)`, 0-based.
        weight: one factor for each class, or None.
        ignore_index: 0-based class that does not count.
        reduction: ``"mean"`` or ``"sum"``.
    """
    logs = log_probs.contiguous()  # or PyTorch's backward refuses maps
    try:
        loss = F.nll_loss(logs, target, weight, ignore_index=ignore_index, reduction="sum")
    except IndexError as error:
        raise IndexError(f"{error} (counted from 0); {WHERE_TARGETS_START}") from error
    if reduction == "sum":
        return loss
    counted = target != ignore_index
    total = (counted if weight is None else weight[target.where(counted, 0)].where(counted, 0)).sum().to(loss.dtype)
    return loss / total.where(total != 0, 1)


def expanded(weight: Tensor | None, target: Tensor) -> Tensor | None:
    """Return one weight for each column of ``target``, repeated for its rows.

    Raises:
        ValueError: ``target`` has more than two dimensions, or another number of columns.
    """
    if weight is None:
        return None
    if target.dim() not in (1, 2) or target.shape[-1] != weight.numel():
        raise ValueError(
            f"{weight.numel()} weights need a target of shape ({weight.numel()},) or (N, {weight.numel()}), "
            f"found {tuple(target.shape)}"
        )
    return weight.expand_as(target)


# ---------------------------------------------------------------------- the base classes
@lua_class("nn.Criterion")
class Criterion(nn.Module):
    """Base of the criterions that PyTorch does not have; alone it computes nothing.

    Shape:
        - Input, Target: anything.
        - Output: None.

    Lua:
        ``nn.Criterion()``, Criterion.lua
    """

    def forward(self, input: Any, target: Any = None) -> Any:
        return None

    class Lua(LuaClass):
        """Base of all criterion mappings.

        Attributes:
            buffers: fields that Torch7 makes when they are missing, and that it could not use when they are empty.
        """

        constants = {"output": 0}
        buffers: ClassVar[tuple[str, ...]] = ("output_tensor",)

        @classmethod
        def upgrade(cls, obj: LuaObject) -> LuaObject:
            return obj.changed(dict.fromkeys(cls.buffers))


class Loss(Criterion):
    """Base of criterions with Torch7's ``sizeAverage``, which is PyTorch's ``reduction``.

    Args:
        reduction: ``"mean"`` (``sizeAverage = true``) or ``"sum"``.
    """

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction must be 'mean' or 'sum', found {reduction!r}")
        self.reduction = reduction

    def reduced(self, losses: Tensor) -> Tensor:
        """Return the mean or sum over all elements."""
        return losses.mean() if self.reduction == "mean" else losses.sum()


def filled(value: float) -> Callable[[str], LuaTensor]:
    """Return a function that makes the tensor with one element that Torch7 needs before the first call."""
    return lambda kind: LuaTensor.from_numpy(np.full(1, value, element_dtype(kind)), kind)


class LossClass(Criterion.Lua):
    """A criterion with ``sizeAverage``.

    Attributes:
        averages: value of a missing ``sizeAverage``.
    """

    computed_fields = ("sizeAverage",)

    averages: ClassVar[bool] = True

    @classmethod
    def represents(cls, module: nn.Module) -> bool:
        """Return whether the options that only PyTorch's losses have are at their neutral values."""
        neutral = {"label_smoothing": 0.0, "log_target": False, "pos_weight": None, "beta": 1.0}
        has = {name: getattr(module, name, value) for name, value in neutral.items()}
        return getattr(module, "reduction", None) in ("mean", "sum") and has == neutral

    @classmethod
    def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
        average = obj.get("sizeAverage", cls.averages)
        return {**super().arguments(obj, ctx), "reduction": reduction(average)}

    @classmethod
    def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
        return {**super().to_lua(module, ctx), "sizeAverage": module.reduction == "mean"}


def reduction(size_average: Any) -> str:
    """Convert Torch7's flag to PyTorch's ``reduction``; nil means false."""
    return "sum" if size_average is None or size_average is False else "mean"


class PairClass(Criterion.Lua):
    """A criterion on two inputs, whose ``gradInput`` must be a table of two tensors."""

    @classmethod
    def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
        kind, zero = ctx.type_of(module), filled(0)
        return {**super().to_lua(module, ctx), "gradInput": LuaTable.from_list([zero(kind), zero(kind)])}


# ---------------------------------------------------------------------- combinations
class WeightedCriterions(nn.ModuleList):
    """Base of weighted sums of criterions.

    Args:
        criterions: the members.
        weights: one factor for each; default 1.

    Attributes:
        weights: list of numbers.
    """

    def __init__(self, criterions: Iterable[nn.Module] = (), weights: Iterable[float] | None = None) -> None:
        super().__init__(criterions)
        self.weights = [1.0] * len(self) if weights is None else [float(w) for w in weights]
        if len(self.weights) != len(self):
            raise ValueError(f"{len(self)} criterions need as many weights, found {len(self.weights)}")

    @property
    def criterions(self) -> list[nn.Module]:
        """The members."""
        return list(self)


@lua_class("nn.MultiCriterion")
class MultiCriterion(WeightedCriterions):
    """Weighted sum of criterions of the same input and target.

    Args:
        criterions: the members.
        weights: one factor for each; default 1.

    Shape:
        - Input, Target: what every member takes.
        - Output: scalar.

    Lua:
        ``nn.MultiCriterion():add(criterion, weight)``, MultiCriterion.lua
    """

    def forward(self, input: Any, target: Any = None) -> Any:
        return sum(w * criterion(input, target) for w, criterion in zip(self.weights, self, strict=True))

    class Lua(Criterion.Lua):
        computed_fields = ("criterions", "weights")

        @classmethod
        def build(cls, obj: LuaObject, ctx: TorchContext) -> nn.Module:
            criterions = ctx.children(obj, "criterions")
            return cls.torch_type(criterions, numbers(obj["weights"])[: len(criterions)], **cls.arguments(obj, ctx))

        @classmethod
        def to_lua(cls, module: WeightedCriterions, ctx: LuaContext) -> dict[str, Any]:
            return {
                **super().to_lua(module, ctx),
                "criterions": LuaTable.from_list(ctx.to_lua(m) for m in cls.children(module)),
                "weights": cls.weights_to_lua(module.weights),
            }

        @classmethod
        def weights_to_lua(cls, weights: list[float]) -> Any:
            return LuaStorage("torch.DoubleStorage", len(weights), np.array(weights, np.float64))


@lua_class("nn.ParallelCriterion")
class ParallelCriterion(WeightedCriterions):
    """Weighted sum of criterions, the i-th of which takes the i-th input and the i-th target.

    Args:
        criterions: the members.
        weights: one factor for each; default 1.
        repeat_target: every member takes the whole target.

    Shape:
        - Input: list with at least one element for each member.
        - Target: the same, or anything with ``repeat_target``.
        - Output: scalar.

    Lua:
        ``nn.ParallelCriterion([repeatTarget]):add(criterion, weight)``, ParallelCriterion.lua
    """

    def __init__(
        self,
        criterions: Iterable[nn.Module] = (),
        weights: Iterable[float] | None = None,
        repeat_target: bool = False,
    ) -> None:
        super().__init__(criterions, weights)
        self.repeat_target = repeat_target

    def forward(self, input: Any, target: Any = None) -> Any:
        return sum(
            w * criterion(input[i], target if self.repeat_target else target[i])
            for i, (w, criterion) in enumerate(zip(self.weights, self, strict=True))
        )

    class Lua(MultiCriterion.Lua):
        computed_fields = ("repeatTarget",)

        @classmethod
        def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
            return {"repeat_target": obj.get("repeatTarget") not in (None, False)}

        @classmethod
        def to_lua(cls, module: ParallelCriterion, ctx: LuaContext) -> dict[str, Any]:
            fields = {**super().to_lua(module, ctx), "gradInput": LuaTable()}
            return {**fields, "repeatTarget": True} if module.repeat_target else fields

        @classmethod
        def weights_to_lua(cls, weights: list[float]) -> Any:
            return LuaTable.from_list(weights)


def numbers(value: LuaTable | LuaStorage | LuaTensor) -> list[float]:
    """Return the numbers of a Lua table, storage or tensor."""
    return value.as_list() if isinstance(value, LuaTable) else value.numpy().tolist()


# ---------------------------------------------------------------------- a criterion as a module
@lua_class("nn.CriterionTable")
class CriterionTable(nn.Module):
    """A criterion as a module, which takes input and target in one list.

    Gradients that come from above are ignored, and the target gets none, as in Torch7.

    Args:
        criterion: called with the two elements of the input.

    Shape:
        - Input: list ``[input, target]``.
        - Output: scalar.

    Lua:
        ``nn.CriterionTable(criterion)``, CriterionTable.lua
    """

    def __init__(self, criterion: nn.Module) -> None:
        super().__init__()
        self.criterion = criterion

    def forward(self, input: list[Any]) -> Tensor:
        loss = self.criterion(input[0], detached(input[1]))
        return with_penalty(loss.detach(), loss)  # its gradient is 1, whatever comes from above

    class Lua(LuaClass):
        computed_fields = ("criterion",)

        @classmethod
        def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
            return {"criterion": ctx.to_torch(obj["criterion"], "criterion")}

        @classmethod
        def to_lua(cls, module: CriterionTable, ctx: LuaContext) -> dict[str, Any]:
            criterion = ctx.to_lua(module.criterion)
            buffer = criterion.get("gradInput")  # a file whose buffers were removed has none
            buffers = ctx.empty_tensors(module, 1) if buffer is None else LuaTable.from_list([buffer])
            return {"criterion": criterion, "gradInput": buffers}
