"""dpnn's differentiable criterions: ModuleCriterion, BinaryLogisticRegression, SpatialBinaryLogisticRegression."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.criterion import Criterion, elementwise


@lua_class("nn.ModuleCriterion")
class ModuleCriterion(Criterion):
    """Applies modules to the input and to the target, then a criterion to the results.

    Args:
        criterion: the criterion.
        input_module: module applied to the input; None: the input is not changed.
        target_module: module applied to the target; None: the target is not changed.
        cast_target: whether a cast of this criterion, such as ``.double()``, also casts ``target_module``.

    Shape:
        - Input, Target: the inputs of the modules.
        - Output: the criterion's output.

    Lua:
        ``nn.ModuleCriterion(criterion, inputModule, targetModule, castTarget)``, ModuleCriterion.lua
    """

    def __init__(
        self,
        criterion: nn.Module,
        input_module: nn.Module | None = None,
        target_module: nn.Module | None = None,
        cast_target: bool = True,
    ) -> None:
        super().__init__()
        self.criterion, self.input_module, self.target_module = criterion, input_module, target_module
        self.cast_target = cast_target

    def forward(self, input: Any, target: Any = None) -> Any:
        if self.input_module is not None:
            input = self.input_module(input)
        if self.target_module is not None:
            target = self.target_module(target)
        return self.criterion(input, target)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ModuleCriterion:
        if self.cast_target:
            return super()._apply(fn, recurse)
        target_module, self.target_module = self.target_module, None
        try:
            return super()._apply(fn, recurse)
        finally:
            self.target_module = target_module

    class Lua(Criterion.Lua):
        members = {"criterion": "criterion", "inputModule": "input_module", "targetModule": "target_module"}
        scalars = {"castTarget": "cast_target"}
        constants = {}
        scratch = ("input", "target")

        @classmethod
        def children(cls, module: nn.Module) -> list[nn.Module]:
            return []  # a criterion has no parameters in Torch7


@lua_class("nn.BinaryLogisticRegression")
class BinaryLogisticRegression(Criterion):
    r"""Logistic loss :math:`\log(1 + e^{-y x})` of scores and signs.

    Args:
        size_average: divide by the number of elements.

    Shape:
        - Input: :math:`(N)`, :math:`(N, 1)` or :math:`(1, N)`.
        - Target: as many elements as the input, each -1 or 1.
        - Output: the loss, a number.

    Lua:
        ``nn.BinaryLogisticRegression(sizeAverage)``, BinaryLogisticRegression.lua

    Differs from PyTorch:
        :class:`torch.nn.SoftMarginLoss` computes the same loss but avoids overflow. Here, as in Torch7, a score beyond
        the range of exp gives an infinite loss and a NaN gradient.
    """

    def __init__(self, size_average: bool = True) -> None:
        super().__init__()
        self.size_average = size_average

    def forward(self, input: Tensor, target: Any) -> Tensor:
        target = torch.as_tensor(target)
        for name, value in (("input", input), ("target", target)):
            if value.dim() not in (1, 2) or (value.dim() == 2 and 1 not in value.shape):
                raise ValueError(
                    f"BinaryLogisticRegression: expected {name} of shape (N), (N, 1) or (1, N), {_found(value)}"
                )
        loss = (-elementwise(target, input) * input).exp().add(1).log().sum()
        return loss / input.numel() if self.size_average else loss

    class Lua(Criterion.Lua):
        scalars = {"sizeAverage": "size_average"}


@lua_class("nn.SpatialBinaryLogisticRegression")
class SpatialBinaryLogisticRegression(Criterion):
    r"""Logistic loss of the pixels of one-channel images, divided by :math:`2 N H W`.

    Args:
        size_average: divide by the batch size N too.

    Shape:
        - Input: :math:`(N, 1, H, W)` or :math:`(1, H, W)`.
        - Target: the input's shape, values -1 or 1.
        - Output: the loss, a number.

    Lua:
        ``nn.SpatialBinaryLogisticRegression()``, SpatialBinaryLogisticRegression.lua

    Differs from PyTorch:
        The loss can overflow, as in :class:`BinaryLogisticRegression`.
    """

    def __init__(self, size_average: bool = True) -> None:
        super().__init__()
        self.size_average = size_average

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        if input.dim() not in (3, 4) or input.shape[-3] != 1 or input.shape != target.shape:
            raise ValueError(
                "SpatialBinaryLogisticRegression: expected input and target of shape (N, 1, H, W) or (1, H, W), "
                f"{_found(input)} and {tuple(target.shape)}"
            )
        loss = (-target.to(input.dtype) * input).exp().add(1).log().sum()
        n = input.shape[0] if self.size_average and input.dim() == 4 else 1
        return loss / (2 * n * input.shape[-2] * input.shape[-1])

    class Lua(Criterion.Lua):
        scalars = {"sizeAverage": "size_average"}


def _found(value: Tensor) -> str:
    return f"found {tuple(value.shape)}"
