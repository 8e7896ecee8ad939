"""Base classes and functions of all criterions, and criterions that combine others.

A criterion is called as ``criterion(input, target)`` and returns the loss as a scalar tensor. Its gradient is Torch7's
``gradInput``, also where this is not the derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import takewhile
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
    """Convert ``target`` to the shape and dtype of ``input``; Torch7 pairs elements in row-major order for any shapes.

    Raises:
        ValueError: the numbers of elements differ.
    """
    values: Tensor = torch.as_tensor(target, device=input.device)
    if values.numel() != input.numel():
        raise ValueError(
            f"expected a target with {input.numel()} elements for input of shape {tuple(input.shape)}, "
            f"found shape {tuple(values.shape)} with {values.numel()} elements"
        )
    return values.reshape(input.shape).to(input.dtype)


def class_indices(target: Tensor | float, input: Tensor, index_base: int) -> Tensor:
    """Convert class indices from ``index_base`` (a number, or a tensor of integers or floats) to 0-based integers."""
    return torch.as_tensor(target, device=input.device).long() - index_base


#: hint in the error for a class index out of range
WHERE_TARGETS_START = "targets start at 1, as in Lua, unless the criterion was converted with index_base=0"


def nll_loss(log_probs: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str) -> Tensor:
    """Compute the negative log likelihood; the mean is weighted by the targets' weights, and 0 if these sum to 0.

    Args:
        log_probs: log probabilities :math:`(N, C, *)`.
        target: 0-based classes :math:`(N, *)`.
        weight: one factor for each class, or None.
        ignore_index: 0-based class that is ignored.
        reduction: ``"mean"`` or ``"sum"``.

    Raises:
        IndexError: a target is not the index of a class.
    """
    logs = log_probs.contiguous()  # PyTorch's backward pass raises an error for non-contiguous spatial inputs
    try:
        loss = F.nll_loss(logs, target, weight, ignore_index=ignore_index, reduction="sum")
    except IndexError as error:
        raise IndexError(f"{error} (counted from 0); {WHERE_TARGETS_START}") from error
    if reduction == "sum":
        return loss
    counted = target != ignore_index
    total = (counted if weight is None else weight[target.where(counted, 0)].where(counted, 0)).sum().to(loss.dtype)
    return loss / total.where(total != 0, 1)


def expanded(weight: Tensor | None, target: Tensor | float) -> Tensor | None:
    """Expand one weight per column to the shape of ``target``.

    Raises:
        ValueError: ``target`` has more than two dimensions, or another number of columns.
    """
    if weight is None:
        return None
    target = torch.as_tensor(target)
    if target.dim() not in (1, 2) or target.shape[-1] != weight.numel():
        raise ValueError(
            f"expected a target of shape ({weight.numel()},) or (N, {weight.numel()}) for {weight.numel()} weights, "
            f"found {tuple(target.shape)}"
        )
    return weight.expand_as(target)


# ---------------------------------------------------------------------- the base classes
@lua_class("nn.Criterion")
class Criterion(nn.Module):
    """Base class of criterions without an equivalent in PyTorch; used directly, it computes nothing.

    Shape:
        - Input, Target: any values.
        - Output: None.

    Lua:
        ``nn.Criterion()``, Criterion.lua
    """

    def forward(self, input: Any, target: Any = None) -> Any:
        return None

    class Lua(LuaClass):
        """Base class of all criterion mappings.

        Attributes:
            buffers: fields that are not written: Torch7 creates them if they are missing, but fails if they are empty.
        """

        constants = {"output": 0}
        buffers: ClassVar[tuple[str, ...]] = ("output_tensor",)

        @classmethod
        def upgrade(cls, obj: LuaObject) -> LuaObject:
            return obj.changed(dict.fromkeys(cls.buffers))


class Loss(Criterion):
    """Base class of criterions with Torch7's ``sizeAverage``, here PyTorch's ``reduction``.

    Args:
        reduction: ``"mean"`` (``sizeAverage = true``) or ``"sum"``.
    """

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = checked_reduction(reduction)

    def reduced(self, losses: Tensor) -> Tensor:
        """Return the mean or sum of all elements."""
        return losses.mean() if self.reduction == "mean" else losses.sum()


def filled(value: float) -> Callable[[str], LuaTensor]:
    """Return a function that creates a tensor with one element ``value``, which Torch7 needs before the first call."""
    return lambda tensor_class: LuaTensor.from_numpy(np.full(1, value, element_dtype(tensor_class)), tensor_class)


class LossClass(Criterion.Lua):
    """Base class of the mappings of criterions with ``sizeAverage``.

    Attributes:
        averages: default of ``sizeAverage`` if the field is missing.
        is_mean: function of a value of ``sizeAverage``; C functions take the number 0 as false, Lua as true.
    """

    computed_fields = ("sizeAverage",)

    averages: ClassVar[bool] = True
    is_mean: ClassVar[Callable[[Any], bool]] = bool

    @classmethod
    def represents(cls, module: nn.Module) -> bool:
        """Return whether the options that exist only in PyTorch have the values that Torch7 implements."""
        neutral = {"label_smoothing": 0.0, "log_target": False, "pos_weight": None, "beta": 1.0}
        actual = {name: getattr(module, name, value) for name, value in neutral.items()}
        return getattr(module, "reduction", None) in ("mean", "sum") and actual == neutral

    @classmethod
    def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
        average = obj.get("sizeAverage", cls.averages)
        return {**super().arguments(obj, ctx), "reduction": reduction(cls.is_mean(average))}

    @classmethod
    def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
        return {**super().to_lua(module, ctx), "sizeAverage": module.reduction == "mean"}


def checked_reduction(reduction: str) -> str:
    """Return ``reduction``.

    Raises:
        ValueError: ``reduction`` is neither ``"mean"`` nor ``"sum"``.
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"expected reduction 'mean' or 'sum', found {reduction!r}")
    return reduction


def reduction(size_average: Any) -> str:
    """Convert Torch7's flag to PyTorch's ``reduction``; nil means false, and so does 0 for the kernels."""
    return "mean" if size_average else "sum"


class PairClass(Criterion.Lua):
    """Base class of the mappings of criterions with two inputs, whose ``gradInput`` is a table of two tensors."""

    @classmethod
    def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
        tensor_class, zero = ctx.type_of(module), filled(0)
        return {
            **super().to_lua(module, ctx),
            "gradInput": LuaTable.from_list([zero(tensor_class), zero(tensor_class)]),
        }


# ---------------------------------------------------------------------- combinations
class WeightedCriterions(nn.ModuleList):
    """Base class of weighted sums of criterions.

    Args:
        criterions: the criterions.
        weights: factor of each criterion; default: 1.

    Attributes:
        weights: list of the factors.
    """

    def __init__(self, criterions: Iterable[nn.Module] = (), weights: Iterable[float] | None = None) -> None:
        super().__init__(criterions)
        self.weights = [1.0] * len(self) if weights is None else [float(w) for w in weights]
        if len(self.weights) != len(self):
            raise ValueError(f"expected {len(self)} weights, one per criterion, found {len(self.weights)}")

    @property
    def criterions(self) -> list[nn.Module]:
        """The criterions, as a list."""
        return list(self)

    def weighted_sum(self, inputs: Any, targets: Any) -> Any:
        """Return the weighted sum of the losses of each criterion's own input and target.

        Raises:
            IndexError: there are fewer inputs or targets than criterions.
        """
        weighted = enumerate(zip(self.weights, self, strict=True))
        return sum(w * criterion(inputs[i], targets[i]) for i, (w, criterion) in weighted)


@lua_class("nn.MultiCriterion")
class MultiCriterion(WeightedCriterions):
    """Weighted sum of criterions of the same input and target.

    Args:
        criterions: the criterions.
        weights: factor of each criterion; default: 1.

    Shape:
        - Input, Target: an input and a target that every criterion accepts.
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
            return cls.torch_type(criterions, numbers(obj["weights"], len(criterions)), **cls.arguments(obj, ctx))

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
    """Weighted sum of criterions; the i-th criterion gets the i-th input and the i-th target.

    Args:
        criterions: the criterions.
        weights: factor of each criterion; default: 1.
        repeat_target: pass the complete target to every criterion.

    Shape:
        - Input: list with at least one element for each criterion.
        - Target: list with at least one element for each criterion; any value with ``repeat_target``.
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
        return self.weighted_sum(input, [target] * len(self) if self.repeat_target else target)

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


def numbers(value: LuaTable | LuaStorage | LuaTensor, count: int) -> list[float]:
    """Return the first ``count`` numbers of a Lua table, storage or tensor, which may repeat one number very often."""
    if isinstance(value, LuaTable):
        return [value[i] for i in takewhile(value.__contains__, range(1, count + 1))]
    return value.numpy().flat[:count].tolist()


# ---------------------------------------------------------------------- a criterion as a module
@lua_class("nn.CriterionTable")
class CriterionTable(nn.Module):
    """Wraps a criterion as a module whose input is a list of input and target.

    As in Torch7, the gradient of the output is ignored (1 is used), and the target gets no gradient.

    Args:
        criterion: criterion that is called with the two elements of the input.

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
        return with_penalty(loss.detach(), loss)  # the loss has gradient 1, regardless of the output's gradient

    class Lua(LuaClass):
        computed_fields = ("criterion",)

        @classmethod
        def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
            return {"criterion": ctx.to_torch(obj["criterion"], "criterion")}

        @classmethod
        def to_lua(cls, module: CriterionTable, ctx: LuaContext) -> dict[str, Any]:
            criterion = ctx.to_lua(module.criterion)
            buffer = criterion.get("gradInput")  # None if the buffers were removed from the file
            buffers = ctx.empty_tensors(module, 1) if buffer is None else LuaTable.from_list([buffer])
            return {"criterion": criterion, "gradInput": buffers}
