"""Spatial layers of nnx: normalization, per-pixel classifiers, colors, graphs and matching."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.contexts import LuaContext
from dpnn_bridge.conversion.lua_class import LuaClass, ParameterSite, WithoutParameters
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.objects import LuaObject, LuaTensor
from dpnn_bridge.torch7.gradient import with_gradient_of


@lua_class("nn.SpatialNormalization")
class SpatialNormalization(nn.Module):
    """Subtracts the local mean and divides by the local standard deviation, or by a threshold if this is larger.

    Args:
        convo: computes the weighted mean of a neighborhood over all channels; pixels outside the image are 0.
        convostd: computes the weighted mean of squares over such a neighborhood.
        sqrt: square root with gradient 0 at 0.
        threshold: smallest divisor; None: the mean standard deviation of the image, at least 0.001.

    Shape:
        - Input: :math:`(C, H, W)` or :math:`(H, W)`.
        - Output: :math:`(C, H, W)`.

    Lua:
        ``nn.SpatialNormalization(nInputPlane, kernel, threshold)``, nnx SpatialNormalization.lua
    """

    fx_leaf = True

    def __init__(self, convo: nn.Module, convostd: nn.Module, sqrt: nn.Module, threshold: float | None = None) -> None:
        super().__init__()
        self.convo, self.convostd = convo.requires_grad_(False), convostd.requires_grad_(False)
        self.sqrt, self.threshold = sqrt, threshold

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() == 2:
            input = input.unsqueeze(0)
        border = self.convo(torch.ones_like(input))
        centered = input - self.convo(input) / border
        deviation = self.sqrt(self.convostd(centered * centered)) / border
        if self.threshold is not None:
            threshold = torch.full_like(deviation, self.threshold)
        else:
            threshold = deviation.detach().mean().clamp(min=1e-3).expand_as(deviation)
        return centered / torch.where(deviation > threshold, deviation, threshold)

    class Lua(WithoutParameters):
        members = {"convo": "convo", "convostd": "convostd", "sqrtMod": "sqrt"}
        scalars = {"fixedThres": "threshold"}
        defaults = {"fixedThres": None}

        @classmethod
        def matches(cls, obj: LuaObject) -> bool:
            return "meanDiviseMod" in obj  # one of several inner layers, which a module created in PyTorch lacks

        scratch = (
            "inConvo",
            "inMean",
            "inputZeroMean",
            "inputZeroMeanSq",
            "inConvoVar",
            "inVar",
            "inStdDev",
            "inStdDevNotUnit",
            "stdDev",
            "thstd",
            "input",
        )


@lua_class("nn.SpatialLinear")
class SpatialLinear(LuaClass):
    """A 1x1 convolution of one image."""

    torch_type = nn.Conv2d
    scalars = {"fanin": "in_channels", "fanout": "out_channels"}
    tensors = ("weight", "bias")
    constant_kwargs = {"kernel_size": 1}
    import_only = True  # convolutions created in PyTorch are exported as nn.SpatialConvolution


@lua_class("nn.SpatialClassifier")
class SpatialClassifier(nn.Module):
    """Applies a module for vectors to every pixel.

    Args:
        classifier: module with input :math:`(H W, K)`, one row per pixel.
        spatial_output: return an image; False: return one row per pixel.

    Shape:
        - Input: :math:`(K, H, W)`.
        - Output: :math:`(N, H, W)` or :math:`(H W, N)`.

    Lua:
        ``nn.SpatialClassifier(classifier)``, nnx SpatialClassifier.lua
    """

    def __init__(self, classifier: nn.Module, spatial_output: bool = True) -> None:
        super().__init__()
        self.classifier, self.spatial_output = classifier, spatial_output

    def forward(self, input: Tensor) -> Tensor:
        output = self.classifier(input.flatten(1).t())
        return output.t().unflatten(1, input.shape[1:]) if self.spatial_output else output

    class Lua(WithoutParameters):
        members = ("classifier",)
        scalars = {"spatialOutput": "spatial_output"}
        scratch = (
            "inputF",
            "inputT",
            "outputF",
            "outputT",
            "gradOutputF",
            "gradOutputT",
            "gradInputF",
            "gradInputT",
        )
        constants = dict.fromkeys(scratch, LuaTensor.empty)

        @classmethod
        def stepped(
            cls, module: SpatialClassifier, inner: Callable[[nn.Module], Iterator[ParameterSite]]
        ) -> Iterator[ParameterSite]:
            """Yield the parameters of the classifier, which Torch7's ``parameters()`` does not return."""
            return inner(module.classifier)


@lua_class("nn.SpatialColorTransform")
class SpatialColorTransform(nn.Module):
    """Converts an image to another color space with a matrix.

    Args:
        transform: name of the transform, such as ``rgb2yuv``.
        linear: 1x1 convolution with the matrix, or None for nonlinear transforms, which Torch7 cannot run.

    Shape:
        - Input: :math:`(3, H, W)`.
        - Output: :math:`(3, H, W)`, or :math:`(1, H, W)` for ``rgb2y``.

    Raises:
        ConversionError: the transform is not linear. Torch7 crashes too: it swaps arguments of a function.

    Lua:
        ``nn.SpatialColorTransform(transform)``, nnx SpatialColorTransform.lua
    """

    def __init__(self, transform: str, linear: nn.Module | None = None) -> None:
        super().__init__()
        self.transform, self.linear = transform, linear

    def forward(self, input: Tensor) -> Tensor:
        if self.linear is None:
            raise ConversionError(
                f"the transform {self.transform} does not run in Torch7 either; use yuv2rgb, rgb2yuv or rgb2y",
                class_name="nn.SpatialColorTransform",
            )
        return self.linear(input)

    class Lua(WithoutParameters):
        computed_fields = ("islinear",)
        members = ("linear",)
        scalars = ("transform",)

        @classmethod
        def to_lua(cls, module: SpatialColorTransform, ctx: LuaContext) -> dict[str, Any]:
            return {**super().to_lua(module, ctx), "islinear": module.linear is not None}


@lua_class("nn.SpatialGraph")
class SpatialGraph(nn.Module):
    """Computes the distance of every pixel to its right and to its lower neighbor.

    Args:
        dist: distance, 0 for Euclidean, 1 for cosine.
        normalize: divide the Euclidean distance by the square root of C, or the dot product by the norms.

    Shape:
        - Input: :math:`(C, H, W)`.
        - Output: :math:`(2, H, W)`; the last column of the first and the last row of the second channel are 0.

    Differs from PyTorch:
        As in nnx's C code, where ``1/2`` is an integer division, the gradient of the normalized cosine distance has
        powers of the norms with exponent 0 instead of 1/2.

    Lua:
        ``nn.SpatialGraph{dist=, normalize=}``, nnx SpatialGraph.lua, generic/SpatialGraph.c
    """

    def __init__(self, dist: int = 0, normalize: int = 1) -> None:
        super().__init__()
        self.dist, self.normalize = dist, normalize

    def forward(self, input: Tensor) -> Tensor:
        right = self._distance(input[:, :, :-1], input[:, :, 1:])
        below = self._distance(input[:, :-1], input[:, 1:])
        return torch.stack([F.pad(right, (0, 1)), F.pad(below, (0, 0, 0, 1))])

    def _distance(self, a: Tensor, b: Tensor) -> Tensor:
        if self.dist == 0:
            distance = torch.linalg.vector_norm(a - b, dim=0)
            return distance / len(a) ** 0.5 if self.normalize else distance
        a, b = a + 1e-12, b + 1e-12
        product = (a * b).sum(0)
        if not self.normalize:
            return len(a) - product
        aa, bb = a.square().sum(0), b.square().sum(0)
        value = 1 - product / (aa.sqrt() * bb.sqrt())
        slope_a, slope_b = (product / (aa + 1e-12)).detach(), (product / (bb + 1e-12)).detach()
        return with_gradient_of(value, (slope_a * aa + slope_b * bb) / 2 - product / (1 + 1e-12))

    class Lua(LuaClass):
        scalars = ("dist", "normalize")
        constants = {"connex": 4}


@lua_class("nn.SpatialMatching")
class SpatialMatching(nn.Module):
    """Computes squared distances of every pixel of one image to the pixels of a window of another image.

    Args:
        window: height and width of the window.
        full_output: center the window on the pixel; the distance to positions outside the image is 1e30. False: the
            window starts at the pixel, and the second image must be larger.

    Shape:
        - Input: ``[first, second]``, :math:`(C, H, W)` each.
        - Output: :math:`(H, W, H_{window}, W_{window})`.

    Lua:
        ``nn.SpatialMatching(maxh, maxw, full_output)``, nnx SpatialMatching.lua
    """

    def __init__(self, window: tuple[int, int], full_output: bool = False) -> None:
        super().__init__()
        self.window, self.full_output = window, full_output

    def forward(self, input: list[Tensor]) -> Tensor:
        first, second = input
        _, H, W = first.shape
        if not self.full_output:
            return self._distance(first, second[:, : H + self.window[0] - 1, : W + self.window[1] - 1])
        (top, left), (bottom, right) = zip(*(((n + 1) // 2 - 1, n // 2) for n in self.window), strict=True)
        pads = (left, right, top, bottom)
        inside = self._windows(F.pad(torch.ones_like(second[:1, :H, :W]), pads))[0] > 0
        return self._distance(first, F.pad(second[:, :H, :W], pads)).masked_fill(~inside, 1e30)

    def _windows(self, image: Tensor) -> Tensor:
        return image.unfold(1, self.window[0], 1).unfold(2, self.window[1], 1)

    def _distance(self, first: Tensor, second: Tensor) -> Tensor:
        return (first[..., None, None] - self._windows(second)).square().sum(0)

    class Lua(LuaClass):
        scalars = {("maxh", "maxw"): "window", "full_output": "full_output"}
        scratch = ("gradInput1", "gradInput2")
        constants = dict.fromkeys(scratch, LuaTensor.empty)


@lua_class("nn.SpatialRadialMatching")
class SpatialRadialMatching(nn.Module):
    """Computes squared distances of every pixel of one image to the pixels at and below it in another image.

    Args:
        window: number of rows of the second image for each pixel.

    Shape:
        - Input: ``[first, second]``, :math:`(C, H, W)` and :math:`(C, H + window - 1, W)` or more.
        - Output: :math:`(H, W, window)`.

    Lua:
        ``nn.SpatialRadialMatching(maxh)``, nnx SpatialRadialMatching.lua
    """

    def __init__(self, window: int) -> None:
        super().__init__()
        self.window = window

    def forward(self, input: list[Tensor]) -> Tensor:
        first, second = input
        rows = second[:, : first.shape[1] + self.window - 1].unfold(1, self.window, 1)
        return (first[..., None] - rows).square().sum(0)

    class Lua(LuaClass):
        scalars = {"maxh": "window"}
        scratch = ("gradInput1", "gradInput2")
        constants = dict.fromkeys(scratch, LuaTensor.empty)
