"""Criterions (loss modules)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from dpnn_bridge.legacy.module import Criterion
from dpnn_bridge.legacy.nn.activations import LogSoftMax, Sigmoid
from dpnn_bridge.modules.nn.criterion import reduction
from dpnn_bridge.modules.nn.criterion_classification import SpatialClassNLLCriterion as SpatialLoss


class _Averaged(Criterion):
    def __init__(self, sizeAverage: bool = True) -> None:
        super().__init__(sizeAverage=sizeAverage)


class AbsCriterion(_Averaged):
    pass


class DistKLDivCriterion(_Averaged):
    pass


class MSECriterion(_Averaged):
    pass


class SmoothL1Criterion(_Averaged):
    pass


class MultiLabelMarginCriterion(_Averaged):
    pass


class SoftMarginCriterion(_Averaged):
    def __init__(self) -> None:
        super().__init__()


class L1Cost(Criterion):
    pass


class BCECriterion(Criterion):
    def __init__(self, weights: Tensor | None = None, sizeAverage: bool = True) -> None:
        if weights is not None and weights.dim() != 1:
            raise ValueError("weights input should be 1D Tensor")
        super().__init__(sizeAverage=sizeAverage, weights=weights)


class _NegativeLogLikelihood(Criterion):
    weights: Tensor | None
    sizeAverage: bool
    ignore_index: int

    def __init__(self, weights: Tensor | None = None, sizeAverage: bool = True, ignore_index: int = -100) -> None:
        assert weights is None or weights.dim() == 1
        super().__init__(sizeAverage=sizeAverage, ignore_index=ignore_index, weights=weights)


class ClassNLLCriterion(_NegativeLogLikelihood):
    pass


class SpatialClassNLLCriterion(_NegativeLogLikelihood):
    def _in_pytorch(self) -> Any:
        """Build the loss with an ignored class, which Torch7's class does not have."""
        loss = SpatialLoss(self.weights, reduction(self.sizeAverage), index_base=0)
        loss.ignore_index = self.ignore_index
        return loss


class CrossEntropyCriterion(Criterion):
    def __init__(self, weights: Tensor | None = None) -> None:
        super().__init__(lsm=LogSoftMax(), nll=ClassNLLCriterion(weights))


class MultiLabelSoftMarginCriterion(Criterion):
    def __init__(self, weights: Tensor | None = None) -> None:
        super().__init__(lsm=Sigmoid(), nll=BCECriterion(weights))


class MultiMarginCriterion(Criterion):
    def __init__(self, p: int = 1, weights: Tensor | None = None, margin: float = 1, sizeAverage: bool = True) -> None:
        if p not in (1, 2):
            raise ValueError("only p == 1 and p == 2 supported")
        assert weights is None or weights.dim() == 1
        super().__init__(p=p, margin=margin, sizeAverage=sizeAverage, weights=weights)


class MarginCriterion(Criterion):
    def __init__(self, margin: float = 1, sizeAverage: bool = True) -> None:
        super().__init__()
        self.sizeAverage = True  # PyTorch 0.4 ignores the argument
        self.margin = margin


class HingeEmbeddingCriterion(Criterion):
    def __init__(self, margin: float = 1, sizeAverage: bool = True) -> None:
        super().__init__(margin=margin, sizeAverage=sizeAverage)


class _OfPairs(Criterion):
    """Base of criterions with two input tensors."""

    def __init__(self, margin: float = 0, sizeAverage: bool = True) -> None:
        super().__init__(margin=margin, sizeAverage=sizeAverage, gradInput=[torch.Tensor(), torch.Tensor()])


class CosineEmbeddingCriterion(_OfPairs):
    pass


class MarginRankingCriterion(_OfPairs):
    pass


class L1HingeEmbeddingCriterion(Criterion):
    def __init__(self, margin: float = 1) -> None:
        super().__init__(margin=float(margin), gradInput=[torch.Tensor(), torch.Tensor()])


class WeightedMSECriterion(Criterion):
    def __init__(self, weight: Tensor, sizeAverage: bool = True) -> None:
        super().__init__(weight=weight.clone(), sizeAverage=sizeAverage)


class ClassSimplexCriterion(MSECriterion):
    def __init__(self, nClasses: int) -> None:
        super().__init__()
        self.nClasses = nClasses
        self.simplex = torch.zeros(nClasses, nClasses)
        self.simplex[:, :-1] = _simplex(nClasses - 1)
        self._target = torch.zeros(nClasses)

    def getPredictions(self, input: Tensor) -> Tensor:
        return torch.mm(input, self.simplex.t())

    def getTopPrediction(self, input: Tensor) -> Tensor:
        return self.getPredictions(input).argmax(-1).view(-1)


def _simplex(n: int) -> Tensor:
    """Return the vertices of a regular n-simplex as rows, with center 0 and circumradius 1."""
    corners = torch.zeros(n + 1, n)
    for k in range(n):
        corners[k, k] = math.sqrt(1 - float(corners[k, :k].square().sum()))
        corners[k + 1 :, k] = (corners[k, k] ** 2 - 1 - 1 / n) / corners[k, k]
    return corners


class MultiCriterion(Criterion):
    def __init__(self) -> None:
        super().__init__()
        self.criterions: list[Any] = []
        self.weights: Any = []

    def add(self, criterion: Any, weight: float = 1) -> Any:
        self.criterions.append(criterion)
        self.weights = [*self.weights, weight]
        return self


class ParallelCriterion(Criterion):
    def __init__(self, repeatTarget: bool = False) -> None:
        super().__init__()
        self.criterions: list[Any] = []
        self.weights: list[float] = []
        self.gradInput = []
        self.repeatTarget = repeatTarget

    def add(self, criterion: Any, weight: float = 1) -> Any:
        self.criterions.append(criterion)
        self.weights.append(weight)
        return self
