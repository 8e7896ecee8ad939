"""Criterions for distances and for pairs of inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.lua_values import is_true
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.arithmetic import shaped_like
from dpnn_bridge.modules.nn.criterion import Criterion, Loss, LossClass, PairClass, checked_reduction, elementwise

#: added to the squared norms in CosineEmbeddingCriterion
EPSILON = 1e-12


def hinge(x: Tensor) -> Tensor:
    """Compute :math:`\\max(0, x)` with gradient 1 at 0 as in THNN; clamp's gradient depends on PyTorch's version."""
    return torch.where(x < 0, 0, x)


@lua_class("nn.HingeEmbeddingCriterion")
class HingeEmbeddingCriterion(nn.HingeEmbeddingLoss):
    r"""Mean or sum of :math:`x` where the target is 1 and of :math:`\max(0, m - x)` where it is -1.

    Args:
        margin: :math:`m`.
        reduction: ``"mean"`` or ``"sum"``.

    Shape:
        - Input: :math:`(*)`, distances.
        - Target: 1 or -1, as many elements as the input; or one number.
        - Output: scalar.

    Lua:
        ``nn.HingeEmbeddingCriterion([margin])``, HingeEmbeddingCriterion.lua
    """

    def __init__(self, margin: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(margin, reduction=checked_reduction(reduction))

    def forward(self, input: Tensor, target: Any) -> Tensor:
        target = elementwise(target, input)
        losses = torch.where(target != 1, hinge(self.margin - input), 0) + torch.where(target != -1, input, 0)
        return losses.mean() if self.reduction == "mean" else losses.sum()

    class Lua(LossClass):
        is_mean = staticmethod(lambda average: average is True)  # it compares with true
        scalars = ("margin",)
        defaults = {"margin": 1}
        buffers = ("buffer", "ty")


@lua_class("nn.L1HingeEmbeddingCriterion")
class L1HingeEmbeddingCriterion(Criterion):
    r"""Distance :math:`d = \sum |a - b|` of a pair if the target is 1, :math:`\max(0, m - d)` if it is -1.

    For elements that are equal in both inputs, the gradient is randomly 1 or -1, from PyTorch's default generator.

    Args:
        margin: :math:`m`.

    Shape:
        - Input: list of two tensors :math:`(*)`.
        - Target: 1 or -1, one number for the pair.
        - Output: scalar.

    Lua:
        ``nn.L1HingeEmbeddingCriterion([margin])``, L1HingeEmbeddingCriterion.lua
    """

    def __init__(self, margin: float = 1.0) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, input: list[Tensor], target: Any = None) -> Tensor:
        difference = input[0] - shaped_like(*input)
        random_sign = 2 * torch.randint_like(difference, 2) - 1
        distance = (difference * torch.where(difference == 0, random_sign, difference.sign()).detach()).sum()
        target = torch.as_tensor(target, device=distance.device).reshape(())
        return torch.where(target == -1, hinge(self.margin - distance), distance)

    class Lua(PairClass):
        scalars = ("margin",)
        defaults = {"margin": 1}


@lua_class("nn.CosineEmbeddingCriterion")
class CosineEmbeddingCriterion(Loss):
    r"""Mean or sum of :math:`1 - \cos(a, b)` where the target is 1, of :math:`\max(0, \cos(a, b) - m)` where it is -1.

    Args:
        margin: :math:`m`.
        reduction: ``"mean"``, over the pairs, or ``"sum"``.

    Shape:
        - Input: list of two tensors :math:`(N, D)` or :math:`(D)`.
        - Target: :math:`(N)`, 1 or -1; or one number.
        - Output: scalar.

    Lua:
        ``nn.CosineEmbeddingCriterion([margin])``, CosineEmbeddingCriterion.lua

    Differs from PyTorch:
        1e-12 is added to the squared norms; PyTorch clamps them instead. A loss of 0 has gradient 0. For a target of
        shape :math:`(N, M)`, the mean divides by :math:`N`.
    """

    def __init__(self, margin: float = 0.0, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.margin = margin

    def forward(self, input: list[Tensor], target: Any = None) -> Tensor:
        a, b = (x.unsqueeze(0) if x.dim() == 1 else x for x in (input[0], shaped_like(*input)))
        scale = (1 / ((a * a).sum(1) + EPSILON) * (1 / ((b * b).sum(1) + EPSILON))).sqrt()
        cosine = (a * b).sum(1) * scale
        target = torch.as_tensor(target, device=cosine.device)
        count = target.shape[0] if self.reduction == "mean" and target.dim() else 1
        target = elementwise(target, cosine)
        losses = torch.where(target == -1, F.relu(cosine - self.margin), torch.where(target == 1, 1 - cosine, cosine))
        return torch.where(losses > 0, losses, losses.detach()).sum() / count

    class Lua(LossClass, PairClass):
        is_mean = is_true
        scalars = ("margin",)
        defaults = {"margin": 0}
        buffers = ("_y", "buffer", "w1", "w22", "w", "w32", "_outputs", "_idx")
        averages = False


@lua_class("nn.MarginRankingCriterion")
class MarginRankingCriterion(Loss):
    r"""Sum or mean over the targets :math:`t` of :math:`\max(0, m - t (a - b))`.

    Args:
        margin: :math:`m`.
        reduction: ``"mean"`` or ``"sum"``; no effect if the target is a number.

    Shape:
        - Input: list of two tensors :math:`(N)`, or of one element each if the target is a number.
        - Target: :math:`(N)`, 1 or -1; or one number.
        - Output: scalar.

    Lua:
        ``nn.MarginRankingCriterion([margin])``, MarginRankingCriterion.lua

    Differs from PyTorch:
        The default margin is 1. For a target of shape :math:`(N, M)`, the mean divides by :math:`N`.
    """

    def __init__(self, margin: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.margin = margin

    def forward(self, input: list[Tensor], target: Any = None) -> Tensor:
        a, b = input
        target = torch.as_tensor(target, device=a.device)
        if target.dim() == 0:
            a, b, target = a.reshape(-1)[:1], b.reshape(-1)[:1], target.reshape(1)
        losses = hinge(self.margin - elementwise(target, a) * (a - shaped_like(a, b)))
        return losses.sum() / target.shape[0] if self.reduction == "mean" else losses.sum()

    class Lua(LossClass, PairClass):
        is_mean = is_true
        scalars = ("margin",)
        defaults = {"margin": 1}
        buffers = ("_output", "dist", "mask")
        averages = False


@lua_class("nn.DistanceRatioCriterion")
class DistanceRatioCriterion(Loss):
    r"""Sum of :math:`a + \log(e^{-a} + e^{-b})`; ``"mean"`` divides it by the size of the first dimension.

    Args:
        reduction: ``"mean"`` or ``"sum"``.

    Shape:
        - Input: list of the distances a of similar and b of dissimilar samples, both :math:`(N)`.
        - Output: scalar.

    Lua:
        ``nn.DistanceRatioCriterion([sizeAverage])``, DistanceRatioCriterion.lua
    """

    def forward(self, input: list[Tensor], target: Any = None) -> Tensor:
        similar, dissimilar = input
        total = (-similar).exp() + (-shaped_like(similar, dissimilar)).exp()
        loss = (similar + total.log()).sum()
        return loss / similar.shape[0] if self.reduction == "mean" else loss

    class Lua(LossClass):
        buffers = ("_expMinusX", "_expMinusY", "_sumExpMinusXY", "_logSumExpMinusXY", "loss", "dX", "dY")
