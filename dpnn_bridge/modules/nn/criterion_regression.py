"""Criterions for regression."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.criterion import Criterion, Loss, LossClass, elementwise


@lua_class("nn.AbsCriterion")
class AbsCriterion(Loss):
    r"""Mean or sum of :math:`|x - t|`, with gradient 1 where :math:`x = t`.

    Args:
        reduction: ``"mean"`` or ``"sum"``.

    Shape:
        - Input: :math:`(*)`.
        - Target: as many elements.
        - Output: scalar.

    Lua:
        ``nn.AbsCriterion([sizeAverage])``, AbsCriterion.lua

    Differs from PyTorch:
        :class:`torch.nn.L1Loss` has gradient 0 where input and target are equal.
    """

    def forward(self, input: Tensor, target: Any = None) -> Tensor:
        difference = input - elementwise(target, input)
        return self.reduced(torch.where(difference >= 0, difference, -difference))

    class Lua(LossClass):
        torch_type = nn.L1Loss


@lua_class("nn.MSECriterion")
class MSECriterion(nn.MSELoss):
    r"""Mean or sum of :math:`(x - t)^2`.

    Args:
        reduction: ``"mean"`` or ``"sum"``.

    Shape:
        - Input: :math:`(*)`.
        - Target: as many elements.
        - Output: scalar.

    Lua:
        ``nn.MSECriterion([sizeAverage])``, MSECriterion.lua

    Differs from PyTorch:
        The target is reshaped to the input's shape, not broadcast.
    """

    def forward(self, input: Tensor, target: Any) -> Tensor:
        return super().forward(input, elementwise(target, input))

    class Lua(LossClass):
        torch_type = nn.MSELoss


@lua_class("nn.SmoothL1Criterion")
class SmoothL1Criterion(nn.SmoothL1Loss):
    r"""Mean or sum of :math:`d^2 / 2` where :math:`|d| < 1`, otherwise :math:`|d| - 1/2`, with :math:`d = x - t`.

    Args:
        reduction: ``"mean"`` or ``"sum"``.

    Shape:
        - Input: :math:`(*)`.
        - Target: as many elements.
        - Output: scalar.

    Lua:
        ``nn.SmoothL1Criterion([sizeAverage])``, SmoothL1Criterion.lua

    Differs from PyTorch:
        The target is reshaped to the input's shape, not broadcast.
    """

    def forward(self, input: Tensor, target: Any) -> Tensor:
        return super().forward(input, elementwise(target, input))

    class Lua(LossClass):
        torch_type = nn.SmoothL1Loss


@lua_class("nn.WeightedMSECriterion")
class WeightedMSECriterion(MSECriterion):
    r"""Mean or sum of :math:`(x - w t)^2`: only the target is multiplied by the weights.

    Args:
        weight: weights, as many as the elements of the input or of one sample.
        reduction: ``"mean"`` or ``"sum"``.

    Shape:
        - Input: :math:`(*)`.
        - Target: as many elements.
        - Output: scalar.

    Lua:
        ``nn.WeightedMSECriterion(w)``, WeightedMSECriterion.lua
    """

    weight: Tensor

    def __init__(self, weight: Tensor, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.register_buffer("weight", weight)

    def forward(self, input: Tensor, target: Any) -> Tensor:
        target = elementwise(target, input)
        per_sample = input.dim() - 1 == self.weight.dim()
        weight = elementwise(self.weight, input[0] if per_sample else input)
        return super().forward(input, target * weight)

    class Lua(LossClass):
        tensors = ("weight",)
        tensor_args = ("weight",)
        buffers = ("output_tensor", "buffer")


@lua_class("nn.SpatialAutoCropMSECriterion")
class SpatialAutoCropMSECriterion(MSECriterion):
    r"""Mean or sum of :math:`(x - t)^2`; a larger target is center-cropped to the input's height and width.

    Args:
        reduction: ``"mean"`` or ``"sum"``.

    Shape:
        - Input: :math:`(N, C, H, W)` or :math:`(C, H, W)`.
        - Target: :math:`(N, C, H', W')` or :math:`(C, H', W')` with :math:`H' \ge H` and :math:`W' \ge W`.
        - Output: scalar.

    Lua:
        ``nn.SpatialAutoCropMSECriterion([sizeAverage])``, SpatialAutoCropMSECriterion.lua. If the sizes differ, the
        backward pass of Torch7 raises an error; here it computes the derivative.

    Raises:
        ValueError: input or target has another number of dimensions, or the target is smaller.
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        if input.dim() not in (3, 4) or input.dim() != target.dim():
            raise ValueError(
                f"expected input and target with 3 or both with 4 dimensions, found {tuple(input.shape)} and "
                f"{tuple(target.shape)}"
            )
        for d, size in ((-2, input.shape[-2]), (-1, input.shape[-1])):
            if size > target.shape[d]:
                raise ValueError(
                    f"expected a target of at least height and width {tuple(input.shape[-2:])}, "
                    f"found {tuple(target.shape[-2:])}"
                )
            target = target.narrow(d, (target.shape[d] - size) // 2, size)
        return super().forward(input, target)

    class Lua(LossClass):
        pass


@lua_class("nn.DistKLDivCriterion")
class DistKLDivCriterion(Loss):
    r"""Mean or sum of :math:`t (\log t - x)`, which is replaced by 0 where :math:`t \le 0`.

    Args:
        reduction: ``"mean"``, over all elements, or ``"sum"``.

    Shape:
        - Input: :math:`(*)`, log probabilities.
        - Target: the input's shape, probabilities.
        - Output: scalar.

    Lua:
        ``nn.DistKLDivCriterion()``, DistKLDivCriterion.lua

    Differs from PyTorch:
        :class:`torch.nn.KLDivLoss` returns NaN for an input of ``-inf`` with target 0.

    Raises:
        ValueError: the shapes differ.
    """

    def forward(self, input: Tensor, target: Any = None) -> Tensor:
        if input.shape != target.shape:
            raise ValueError(f"expected input and target of equal shape, found {input.shape} and {target.shape}")
        counted = target > 0
        losses = target * (torch.where(counted, target, 1).log() - input)
        return self.reduced(torch.where(counted, losses, 0))

    class Lua(LossClass):
        torch_type = nn.KLDivLoss


@lua_class("nn.L1Cost")
class L1Cost(Criterion):
    r"""Sum of :math:`|x|`; the target is ignored.

    Shape:
        - Input: :math:`(*)`.
        - Output: scalar.

    Lua:
        ``nn.L1Cost()``, L1Cost.lua
    """

    def forward(self, input: Tensor, target: Any = None) -> Tensor:
        return input.abs().sum()
