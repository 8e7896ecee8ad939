"""Normalization over neighboring channels and pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.contexts import LuaContext
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.lua_class import LuaClass, ParameterSite
from dpnn_bridge.conversion.lua_values import fresh
from dpnn_bridge.conversion.registry import lua_class, parameters
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor


@lua_class("nn.SpatialCrossMapLRN", "cudnn.SpatialCrossMapLRN", "nn.SpatialCrossLRN")
class LocalResponseNorm(nn.LocalResponseNorm):
    """Local response normalization across channels.

    Args:
        size, alpha, beta, k: as in :class:`torch.nn.LocalResponseNorm`.

    Shape:
        - Input, output: :math:`(N, C, H, W)` or :math:`(C, H, W)`.

    Differs from PyTorch:
        An input with three dimensions is a single image, not a batch of sequences.

    Lua:
        ``nn.SpatialCrossMapLRN(size, alpha, beta, k)``, SpatialCrossMapLRN.lua
    """

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.unsqueeze(0)).squeeze(0) if input.dim() == 3 else super().forward(input)

    class Lua(LuaClass):
        torch_type = nn.LocalResponseNorm
        scalars = ("size", "alpha", "beta", "k")
        defaults = {"alpha": 1e-4, "beta": 0.75, "k": 1}
        scratch = ("scale", "paddedRatio", "accumRatio", "padded", "accum")


class _NeighborhoodNormalization(nn.Module):
    """Base class of subtractive and divisive normalization.

    The estimators are small networks that compute weighted averages. They are never trained. Their outputs have one
    dimension more than the input, of size 1.

    Args:
        meanestimator: computes a weighted average over a neighborhood and all channels; pixels outside the image are 0.
    """

    fx_leaf = True

    def __init__(self, meanestimator: nn.Module) -> None:
        super().__init__()
        self.meanestimator = meanestimator.requires_grad_(False)

    def coverage(self, input: Tensor) -> Tensor:
        """Return the sum of the weights of pixels inside the image, :math:`(C, H, W)`: less than 1 near the edges."""
        ones = input.new_ones(input.shape[-3:])
        with torch.no_grad():
            return self.meanestimator(ones).reshape(ones.shape)


class _EstimatorMapping(LuaClass):
    """Base class of both mappings. Torch7 computes with the estimators, and ignores the field ``kernel``."""

    resets = {"_inpsz": None}
    scratch = ("coef", "ones", "localsums", "adjustedsums", "localstds", "adjustedstds", "thresholdedstds")

    @classmethod
    def parameters(
        cls, module: nn.Module, inner: Callable[[nn.Module], Iterator[ParameterSite]]
    ) -> Iterator[ParameterSite]:
        return iter(())  # Torch7's parameters() does not return the estimators' weights

    @classmethod
    def hidden_parameters(cls, module: nn.Module) -> Iterator[ParameterSite]:
        for estimator in cls.children(module):
            yield from parameters(estimator)


def _pair_layer(class_name: str) -> Callable[[str], LuaObject]:
    """Return a function for ``constants`` that creates a layer with two inputs, whose ``gradInput`` is a table."""
    return lambda tensor_class: fresh(class_name, tensor_class, gradInput=LuaTable())


@lua_class("nn.SpatialSubtractiveNormalization")
class SpatialSubtractiveNormalization(_NeighborhoodNormalization):
    """Subtracts from each pixel the weighted average of its neighborhood.

    Args:
        meanestimator: computes the average; :meth:`coverage` corrects it near the edges.

    Shape:
        - Input, output: :math:`(N, C, H, W)` or :math:`(C, H, W)`.

    Lua:
        ``nn.SpatialSubtractiveNormalization(nInputPlane, kernel)``, SpatialSubtractiveNormalization.lua
    """

    def forward(self, input: Tensor) -> Tensor:
        return input - self.meanestimator(input).reshape(input.shape) / self.coverage(input)

    class Lua(_EstimatorMapping):
        members = ("meanestimator",)
        constants = {
            "coef": LuaTensor.empty,
            "subtractor": _pair_layer("nn.CSubTable"),
            "divider": _pair_layer("nn.CDivTable"),
        }


@lua_class("nn.SpatialDivisiveNormalization")
class SpatialDivisiveNormalization(_NeighborhoodNormalization):
    """Divides each pixel by the weighted root mean square of its neighborhood.

    Args:
        meanestimator: computes the averages of :meth:`coverage`.
        stdestimator: computes root mean squares.
        threshold: root mean squares up to this value are replaced by ``value``.
        value: replacement of small root mean squares.

    Shape:
        - Input, output: :math:`(N, C, H, W)` or :math:`(C, H, W)`.

    Lua:
        ``nn.SpatialDivisiveNormalization(nInputPlane, kernel, threshold, thresval)``, SpatialDivisiveNormalization.lua
    """

    def __init__(
        self,
        meanestimator: nn.Module,
        stdestimator: nn.Module,
        threshold: float = 1e-4,
        value: float = 1e-4,
    ) -> None:
        super().__init__(meanestimator)
        self.stdestimator = stdestimator.requires_grad_(False)
        self.threshold, self.value = threshold, value

    def forward(self, input: Tensor) -> Tensor:
        deviation = self.stdestimator(input).reshape(input.shape) / self.coverage(input)
        return input / F.threshold(deviation, self.threshold, self.value)

    class Lua(_EstimatorMapping):
        members = ("meanestimator", "stdestimator")
        scalars = {"threshold": "threshold", "thresval": "value"}
        defaults = {"threshold": 1e-4, "thresval": 1e-4}
        constants = {"coef": LuaTensor.empty, **dict.fromkeys(("normalizer", "divider"), _pair_layer("nn.CDivTable"))}

        @classmethod
        def to_lua(cls, module: SpatialDivisiveNormalization, ctx: LuaContext) -> dict[str, Any]:
            fields = super().to_lua(module, ctx)
            if record_of(module) is None:
                fields["thresholder"] = ctx.to_lua(nn.Threshold(module.threshold, module.value))
            return fields


@lua_class("nn.SpatialContrastiveNormalization")
class SpatialContrastiveNormalization(nn.Module):
    """Subtractive normalization, followed by divisive normalization.

    Args:
        normalizer: a Sequential of both normalizations.

    Shape:
        - Input, output: :math:`(N, C, H, W)` or :math:`(C, H, W)`.

    Lua:
        ``nn.SpatialContrastiveNormalization(nInputPlane, kernel, threshold, thresval)``,
        SpatialContrastiveNormalization.lua
    """

    def __init__(self, normalizer: nn.Module) -> None:
        super().__init__()
        self.normalizer = normalizer

    def forward(self, input: Tensor) -> Tensor:
        return self.normalizer(input)

    class Lua(LuaClass):
        members = ("normalizer",)
