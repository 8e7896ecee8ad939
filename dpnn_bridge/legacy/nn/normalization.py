"""Normalization over neighboring channels, or over neighboring pixels."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from dpnn_bridge.legacy.module import Module
from dpnn_bridge.legacy.nn.activations import Sqrt, Square, Threshold
from dpnn_bridge.legacy.nn.containers import CDivTable, CSubTable, Sequential
from dpnn_bridge.legacy.nn.convolution import SpatialConvolution, SpatialConvolutionMap
from dpnn_bridge.legacy.nn.shapes import Replicate, SpatialZeroPadding


class SpatialCrossMapLRN(Module):
    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1) -> None:
        super().__init__(size=size, alpha=alpha, beta=beta, k=k)


def _checked(kernel: Tensor | None, name: str) -> Tensor:
    kernel = torch.ones(9, 9) if kernel is None else kernel
    if kernel.dim() not in (1, 2):
        raise ValueError(f"{name} averaging kernel must be 2D or 1D")
    if any(n % 2 == 0 for n in kernel.shape):
        raise ValueError(f"{name} averaging kernel must have ODD dimensions")
    return kernel


def _estimator(planes: int, kernel: Tensor) -> Sequential:
    """Return layers that compute the weighted mean over a neighborhood and all channels, as one channel."""
    height, width = kernel.size(0), kernel.size(-1)
    layers = Sequential().add(SpatialZeroPadding(width // 2, width // 2, height // 2, height // 2))
    if kernel.dim() == 2:
        layers.add(SpatialConvolution(planes, 1, width, height))
        layers.modules[1].weight[0].copy_(kernel)
    else:
        layers.add(SpatialConvolutionMap(SpatialConvolutionMap.maps.oneToOne(planes), height, 1))
        layers.add(SpatialConvolution(planes, 1, 1, height))
        layers.modules[1].weight.copy_(kernel.view(1, -1))
        layers.modules[2].weight[0].copy_(kernel.view(-1, 1))
        layers.modules[2].bias.zero_()
    layers.modules[1].bias.zero_()
    return layers


def _replicate(planes: int) -> Replicate:
    """Return a layer that repeats the single channel of an image or a batch of images."""
    layer = Replicate(planes, 0)
    layer.__dict__["ndim"] = 3
    return layer


class SpatialSubtractiveNormalization(Module):
    def __init__(self, nInputPlane: int = 1, kernel: Tensor | None = None) -> None:
        super().__init__(nInputPlane=nInputPlane)
        self.kernel = _checked(kernel, type(self).__name__)
        self.kernel.div_(self.kernel.sum() * nInputPlane)
        self.meanestimator = _estimator(nInputPlane, self.kernel).add(_replicate(nInputPlane))
        self.subtractor = CSubTable()
        self.divider = CDivTable()
        self.coef = torch.ones(1, 1, 1)


class SpatialDivisiveNormalization(Module):
    def __init__(
        self, nInputPlane: int = 1, kernel: Tensor | None = None, threshold: float = 1e-4, thresval: float | None = None
    ) -> None:
        super().__init__(nInputPlane=nInputPlane)
        self.kernel = _checked(kernel, type(self).__name__)
        self.threshold = threshold
        self.thresval = threshold if thresval is None else thresval
        root = nInputPlane if self.kernel.dim() == 2 else math.sqrt(nInputPlane)
        self.kernel.div_(self.kernel.sum() * root)
        self.meanestimator = _estimator(nInputPlane, self.kernel).add(_replicate(nInputPlane))
        self.stdestimator = _estimator(nInputPlane, self.kernel).add(_replicate(nInputPlane)).add(Sqrt())
        self.stdestimator.modules.insert(0, Square())
        self.normalizer = CDivTable()
        self.divider = CDivTable()
        self.thresholder = Threshold(self.threshold, self.thresval)
        self.coef = torch.ones(1, 1, 1)


class SpatialContrastiveNormalization(Module):
    def __init__(
        self, nInputPlane: int = 1, kernel: Tensor | None = None, threshold: float = 1e-4, thresval: float = 1e-4
    ) -> None:
        super().__init__(nInputPlane=nInputPlane)
        self.kernel = _checked(kernel, type(self).__name__)
        self.threshold = threshold
        self.thresval = thresval or threshold
        self.normalizer: Any = Sequential()
        self.normalizer.add(SpatialSubtractiveNormalization(nInputPlane, self.kernel))
        self.normalizer.add(SpatialDivisiveNormalization(nInputPlane, self.kernel, self.threshold, self.thresval))
