"""Pooling over time, over features, to a given size, with the p-norm, and over random windows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.faults import OtherVersion
from dpnn_bridge.conversion.fields import Field, Layout
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.lua_values import is_true
from dpnn_bridge.conversion.noise import noise_of
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.kernel_flags import KernelFlags
from dpnn_bridge.modules.nn.run_buffers import RunBuffers
from dpnn_bridge.objects import LuaObject, LuaTensor
from dpnn_bridge.torch7.adaptive_windows import adaptive_maxima, bounds
from dpnn_bridge.torch7.quicksort import positions, sort_positions


# ---------------------------------------------------------------------- over time
@lua_class("nn.TemporalMaxPooling")
class TemporalMaxPooling(nn.MaxPool1d):
    """Max pooling over time.

    Args:
        kernel_size: kernel size k in frames.
        stride: stride s in frames.

    Shape:
        - Input: :math:`(N, T, C)` or :math:`(T, C)`.
        - Output: the input's shape with :math:`\\lfloor (T - k) / s \\rfloor + 1` frames.

    Differs from PyTorch:
        The time dimension precedes the channels.

    Lua:
        ``nn.TemporalMaxPooling(kW, dW)``, TemporalMaxPooling.lua
    """

    def forward(self, input: Tensor) -> Tensor:
        frames = input.transpose(-1, -2)  # torch.export traces the length in F.max_pool1d as a constant
        return torch.max_pool1d_with_indices(frames, self.kernel_size, self.stride)[0].transpose(-1, -2)

    class Lua(LuaClass):
        scalars = {"kW": "kernel_size", "dW": "stride"}
        scratch = ("indices",)


def _descending(values: list[float]) -> list[int]:
    return sort_positions(values, descending=True)


@lua_class("nn.TemporalDynamicKMaxPooling")
class TemporalDynamicKMaxPooling(nn.Module):
    """Returns the k largest values of every channel, in temporal order.

    Args:
        min_k: smallest k.
        factor: k as a fraction of the number of frames, rounded up.

    Shape:
        - Input: :math:`(N, T, C)` or :math:`(T, C)`.
        - Output: the input's shape with :math:`\\max(min\\_k, \\lceil factor \\cdot T \\rceil)` frames.

    Lua:
        ``nn.TemporalDynamicKMaxPooling(minK, factor)``, TemporalDynamicKMaxPooling.lua

    Raises:
        ValueError: there are fewer than k frames.
    """

    def __init__(self, min_k: int, factor: float = 0) -> None:
        super().__init__()
        self.min_k, self.factor = min_k, factor

    def forward(self, input: Tensor) -> Tensor:
        k = max(self.min_k, math.ceil(self.factor * input.shape[-2]))
        if input.shape[-2] < k:
            raise ValueError(f"TemporalDynamicKMaxPooling: expected at least {k} frames, found {tuple(input.shape)}")
        if torch.compiler.is_compiling():  # topk may select other elements among equal values
            kept = input.topk(k, dim=-2).indices
        else:
            kept = positions(input.detach().mT, _descending, descending=True).mT[..., :k, :]
        return input.gather(-2, kept.sort(dim=-2).values)

    class Lua(LuaClass):
        scalars = {"minK": "min_k", "factor": "factor"}
        scratch = ("indices",)


# ---------------------------------------------------------------------- to a given size
_SINGLE_BOUNDS = (
    "Torch7 computes the bounds of the windows of nn.SpatialAdaptiveMaxPooling in single precision, so that some have "
    "one row or column more"
)


def _with_single_bounds(module: nn.AdaptiveMaxPool2d, input: Tensor) -> Tensor:
    x = input if input.dim() == 4 else input[None]
    sizes: Any = module.output_size
    height, width = sizes
    maxima = adaptive_maxima(x, bounds(height, x.shape[2]), bounds(width, x.shape[3]))[0]
    return maxima if input.dim() == 4 else maxima[0]


@lua_class("nn.SpatialAdaptiveMaxPooling")
class SpatialAdaptiveMaxPooling(LuaClass):
    torch_type = nn.AdaptiveMaxPool2d
    scalars = {("H", "W"): "output_size"}
    scratch = ("indices",)
    other_version = OtherVersion(_SINGLE_BOUNDS, _with_single_bounds)


@lua_class("nn.SpatialAdaptiveAveragePooling")
class SpatialAdaptiveAveragePooling(LuaClass):
    torch_type = nn.AdaptiveAvgPool2d
    scalars = {("H", "W"): "output_size"}


# ---------------------------------------------------------------------- with the p-norm
@lua_class("nn.SpatialLPPooling")
class SpatialLPPooling(nn.Sequential):
    """Computes the p-norm of every window.

    Args:
        *modules: Torch7's inner modules: a power, an average pooling, a factor and a root.

    Shape:
        - Input: :math:`(N, C, H, W)` or :math:`(C, H, W)`.
        - Output: the input's shape with the pooled height and width.

    Lua:
        ``nn.SpatialLPPooling(nInputPlane, pnorm, kW, kH, dW, dH)``, SpatialLPPooling.lua
    """

    class Lua(LuaClass):
        container = True


@lua_class("nn.FeatureLPPooling")
class FeatureLPPooling(nn.Module):
    """Computes the p-norm of windows of neighboring features.

    Args:
        width: number of features in a window.
        stride: distance between windows.
        power: order p of the norm.
        batch_mode: whether the features are the second dimension; False: the first.

    Shape:
        - Input: :math:`(N, C, *)` or :math:`(C, *)`.
        - Output: the input's shape with :math:`\\lfloor (C - width) / stride \\rfloor + 1` features.

    Differs from PyTorch:
        The norm is computed without absolute values, so odd powers of negative values are negative. Where the output is
        0, the gradient is 0.

    Lua:
        ``nn.FeatureLPPooling(width, stride, power, batch_mode)``, FeatureLPPooling.lua
    """

    def __init__(self, width: int, stride: int, power: float, batch_mode: bool) -> None:
        super().__init__()
        self.width, self.stride, self.power, self.batch_mode = width, stride, power, batch_mode

    def forward(self, input: Tensor) -> Tensor:
        total = input.unfold(1 if self.batch_mode else 0, self.width, self.stride).pow(self.power).sum(-1)
        zero = total == 0
        return total.masked_fill(zero, 1).pow(1 / self.power).masked_fill(zero, 0)

    class Lua(KernelFlags):
        kernel_flags = ("batch_mode",)
        scalars = ("width", "stride", "power", "batch_mode")
        defaults = {"batch_mode": False}


# ---------------------------------------------------------------------- over random windows
class FixedFractionalMaxPool2d(RunBuffers, nn.FractionalMaxPool2d):
    """Fractional max pooling with fixed random windows.

    Args:
        kernel_size, output_size, output_ratio: as in :class:`torch.nn.FractionalMaxPool2d`.

    Shape:
        - Input: :math:`(N, C, H, W)` or :math:`(C, H, W)`.
        - Output: the input's shape with the pooled height and width.

    Differs from PyTorch:
        New windows are drawn only if N or C differs from the previous input.

    Lua:
        ``nn.SpatialFractionalMaxPooling(...):fixPoolingRegions()``, SpatialFractionalMaxPooling.lua
    """

    run_buffers = ("_random_samples",)

    def forward(self, input: Tensor) -> Tensor:
        keep_samples(self, input, 2)
        return super().forward(input)


class FixedFractionalMaxPool3d(RunBuffers, nn.FractionalMaxPool3d):
    """Fractional max pooling of volumes with fixed random windows.

    Args:
        kernel_size, output_size, output_ratio: as in :class:`torch.nn.FractionalMaxPool3d`.

    Shape:
        - Input: :math:`(N, C, H, W, T)` or :math:`(C, H, W, T)`.
        - Output: the input's shape with the pooled H, W and T.

    Differs from PyTorch:
        New windows are drawn only if N or C differs from the previous input.

    Lua:
        ``nn.VolumetricFractionalMaxPooling(...):fixPoolingRegions()``, VolumetricFractionalMaxPooling.lua
    """

    run_buffers = ("_random_samples",)

    def forward(self, input: Tensor) -> Tensor:
        keep_samples(self, input, 3)
        return super().forward(input)


def keep_samples(module: Any, input: Tensor, dims: int) -> None:
    """Draw new windows, unless the current ones have the input's batch size and number of channels."""
    batch = (*([1] if input.dim() == dims + 1 else []), *input.shape[:-dims])
    samples = module._random_samples
    if samples is None or samples.shape[:2] != batch:
        module._random_samples = torch.rand_like(input.new_empty(*batch, dims))


def reversed_samples(samples: Tensor, module: nn.Module) -> Tensor:
    """Reorder window samples from Torch7's T, W, H to the order of the input's dimensions."""
    return samples.flip(-1)


class FractionalMaxPooling(LuaClass):
    """Base class of the mappings. If ``newRandomPool`` is true, Torch7 keeps the windows of the first forward pass."""

    scratch = ("indices",)
    #: suffixes of the fields of each dimension, in the order of the input's dimensions
    dims: str
    #: PyTorch's function
    function: Callable[..., Tensor]
    #: field of the random numbers that define the windows
    samples: Field

    @classmethod
    def build(cls, obj: LuaObject, ctx: TorchContext) -> nn.Module:
        fixed = is_true(obj.get("newRandomPool"))
        prefix = "ratio" if obj.get("ratioW") is not None else "out"
        size = tuple(obj[f"{prefix}{d}"] for d in cls.dims)
        module = cls.torch_type[fixed](
            kernel_size=tuple(obj[f"poolSize{d}"] for d in cls.dims),
            output_size=size if prefix == "out" else None,
            output_ratio=size if prefix == "ratio" else None,
        )
        samples = obj.get("randomSamples")
        if fixed and isinstance(samples, LuaTensor) and samples.size:
            module._random_samples = samples.torch()
        return module

    @classmethod
    def fields_of(cls, module: nn.Module) -> dict[str, Field]:
        return {"randomSamples": cls.samples} if module._random_samples is not None else {}

    @classmethod
    def handled(cls, module: nn.Module) -> set[str]:
        names = {f"{prefix}{d}" for prefix in ("poolSize", "ratio", "out") for d in cls.dims}
        return super().handled(module) | names | {"randomSamples", "newRandomPool"}

    @classmethod
    def to_lua(cls, module: Any, ctx: LuaContext) -> dict[str, Any]:
        prefix, size = ("ratio", module.output_ratio) if module.output_ratio else ("out", module.output_size)
        return {
            **super().to_lua(module, ctx),
            **{f"poolSize{d}": n for d, n in zip(cls.dims, module.kernel_size, strict=True)},
            **{f"{prefix}{d}": n for d, n in zip(cls.dims, size, strict=True)},
            "newRandomPool": isinstance(module, cls.torch_type[1]),
        }

    @classmethod
    def replay(cls, module: nn.Module, after: LuaObject) -> Callable[..., Any] | None:
        def forward(input: Tensor) -> Tensor:
            samples = noise_of(after, "randomSamples", input)
            samples = cls.samples.layout.to_torch(samples, module) if cls.samples.layout else samples
            if isinstance(module, cls.torch_type[1]):
                module._random_samples = samples
            return cls.function(
                input, module.kernel_size, module.output_size, module.output_ratio, _random_samples=samples
            )

        return forward


@lua_class("nn.SpatialFractionalMaxPooling")
class SpatialFractionalMaxPooling(FractionalMaxPooling):
    torch_type = (nn.FractionalMaxPool2d, FixedFractionalMaxPool2d)
    dims: ClassVar[str] = "HW"
    function = staticmethod(F.fractional_max_pool2d)
    samples: ClassVar[Field] = Field("_random_samples")


@lua_class("nn.VolumetricFractionalMaxPooling")
class VolumetricFractionalMaxPooling(FractionalMaxPooling):
    """Time is the last dimension, after height and width."""

    torch_type = (nn.FractionalMaxPool3d, FixedFractionalMaxPool3d)
    dims: ClassVar[str] = "HWT"
    function = staticmethod(F.fractional_max_pool3d)
    samples: ClassVar[Field] = Field("_random_samples", Layout(reversed_samples, reversed_samples))
