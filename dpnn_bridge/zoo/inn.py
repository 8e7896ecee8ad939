"""Layers of imagine-nn (``inn.*``), and deepmask's copy of ``inn.ConstAffine``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.contexts import LuaContext
from dpnn_bridge.conversion.lua_class import LuaClass, empty_table
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.container import Concat
from dpnn_bridge.modules.nn.local_normalization import LocalResponseNorm
from dpnn_bridge.objects import LuaObject, LuaTensor


@lua_class("inn.ConstAffine", "nn.SpatialConstDiagonal")
class ConstAffine(nn.Module):
    """Scales and shifts each channel by constants: a frozen batch normalization.

    Args:
        num_features: number of channels.

    Shape:
        - Input, output: :math:`(N, C)` or :math:`(N, C, H, W)`.

    Attributes:
        a: factors, a buffer of shape :math:`(C)`.
        b: summands, a buffer of shape :math:`(C)`.

    Lua:
        ``inn.ConstAffine(nOutputPlane)``, imagine-nn ConstAffine.lua; ``nn.SpatialConstDiagonal(n)``, deepmask
        SpatialConstDiagonal.lua
    """

    a: Tensor
    b: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.register_buffer("a", torch.ones(num_features))
        self.register_buffer("b", torch.zeros(num_features))

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() not in (2, 4):
            raise ValueError(f"ConstAffine takes (N, C) or (N, C, H, W), found {tuple(input.shape)}")
        shape = (-1,) + (1,) * (input.dim() - 2)
        return input * self.a.view(shape) + self.b.view(shape)

    def extra_repr(self) -> str:
        return f"{self.a.numel()}"

    class Lua(LuaClass):
        tensors = ("a", "b")
        constants = {"inplace": False}

        @classmethod
        def arguments(cls, obj: LuaObject, ctx: Any) -> dict[str, Any]:
            return {"num_features": obj["a"].size}


@lua_class("inn.MeanSubtraction")
class MeanSubtraction(nn.Module):
    """Subtracts a mean image. The input gets no gradient, as Torch7's ``backward`` returns an empty tensor.

    Args:
        mean: the image, :math:`(C, H, W)`, a buffer.

    Shape:
        - Input, output: :math:`(N, C, H, W)` or :math:`(C, H, W)`.

    Lua:
        ``inn.MeanSubtraction(mean)``, imagine-nn MeanSubtraction.lua
    """

    mean: Tensor

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)

    def forward(self, input: Tensor) -> Tensor:
        return input.detach() - self.mean

    class Lua(LuaClass):
        tensors = ("mean",)
        tensor_args = ("mean",)

        @classmethod
        def upgrade(cls, obj: LuaObject) -> LuaObject:
            """Reduce the mean to one image. After a call, Torch7's module has it expanded to the size of the batch."""
            mean = obj["mean"]
            if mean.ndim != 4:
                return obj
            image = LuaTensor(mean.class_name, mean.shape[1:], mean.stride[1:], mean.offset, mean.storage)
            return obj.changed(mean=image)


@lua_class("inn.SpatialCrossResponseNormalization")
class SpatialCrossResponseNormalization(LocalResponseNorm.Lua):
    """Another name of ``nn.SpatialCrossMapLRN``."""

    import_only = True


@lua_class("inn.SpatialSameResponseNormalization")
class SpatialSameResponseNormalization(LuaClass):
    """A Sequential of stock layers that computes x / (1 + alpha * mean of x² in a window) ** beta."""

    torch_type = nn.Sequential
    import_only = True
    container = True

    @classmethod
    def upgrade(cls, obj: LuaObject) -> LuaObject:
        """Upgrade files of 2015, in which the field ``modules`` is an ``nn.Sequential``."""
        inner = obj.get("modules")
        return obj.changed(modules=inner["modules"]) if isinstance(inner, LuaObject) else obj


@lua_class("inn.SpatialPyramidPooling")
class SpatialPyramidPooling(Concat):
    """Adaptive max pooling to several sizes; the results are flattened and concatenated.

    Args:
        *modules: one branch for each level of the pyramid.
        dimension: ignored; the results are concatenated along the features.

    Shape:
        - Input: :math:`(N, C, H, W)` or :math:`(C, H, W)`.
        - Output: :math:`(N, F)` or :math:`(F)`.

    Lua:
        ``inn.SpatialPyramidPooling({w, h}, …)``, imagine-nn SpatialPyramidPooling.lua
    """

    def __init__(self, *modules: nn.Module, dimension: int = 2) -> None:
        super().__init__(*modules, dimension=dimension)

    def forward(self, input: Tensor) -> Tensor:
        return torch.cat([module(input) for module in self], input.dim() - 3)

    class Lua(Concat.Lua):
        @classmethod
        def upgrade(cls, obj: LuaObject) -> LuaObject:
            """Upgrade files of 2015, which have the branches in a field ``module``."""
            if "module" not in obj:
                return obj
            return obj.changed(modules=obj["module"]["modules"], dimension=1, module=None, dimd=None)


@lua_class("inn.SpatialStochasticPooling")
class SpatialStochasticPooling(nn.Module):
    """Selects one element of each window with a probability proportional to its value.

    In evaluation, the result is the mean weighted by these probabilities. Windows are cut off at the border.

    Args:
        kernel_size: window (H, W).
        stride: step (H, W).

    Shape:
        - Input: :math:`(N, C, H, W)` or :math:`(C, H, W)`, without negative elements.
        - Output: :math:`(N, C, H_{out}, W_{out})` or :math:`(C, H_{out}, W_{out})`; sizes are rounded up.

    Lua:
        ``inn.SpatialStochasticPooling(kW, kH, dW, dH)``, imagine-nn SpatialStochasticPooling.lua
    """

    def __init__(self, kernel_size: tuple[int, int], stride: tuple[int, int]) -> None:
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride

    def forward(self, input: Tensor) -> Tensor:
        (kH, kW), (dH, dW) = self.kernel_size, self.stride
        missing = [-(size - k) % d for size, k, d in zip(input.shape[-2:], (kH, kW), (dH, dW), strict=True)]
        padded = F.pad(input, (0, missing[1], 0, missing[0]))
        windows = padded.unfold(-2, kH, dH).unfold(-2, kW, dW).flatten(-2)
        if not self.training:
            return windows.square().sum(-1) / (windows.sum(-1) + torch.finfo(torch.float32).tiny)
        mass = windows.detach().cumsum(-1)
        threshold = torch.rand_like(mass[..., -1:]) * mass[..., -1:]
        picked = (mass >= threshold).byte().argmax(-1, keepdim=True)
        return windows.gather(-1, picked).squeeze(-1)

    class Lua(LuaClass):
        scalars = {("kH", "kW"): "kernel_size", ("dH", "dW"): "stride"}
        scratch = ("indices",)
        constants = {"indices": LuaTensor.empty, "padW": 0, "padH": 0, "ceil_mode": True}
        checked_by = "structure"
        test = "test_stochastic_pooling_picks_from_each_window_and_averages_in_evaluation"


@lua_class("inn.ROIPooling")
class ROIPooling(nn.Module):
    """Max pooling of regions of interest.

    Args:
        output_size: rows and columns of the result for each region.
        spatial_scale: size of the feature maps relative to the image that the regions refer to.
        v2: use bins with rounded borders and an exclusive end (files since 2016), otherwise overlapping bins.
        index_base: smallest batch index and smallest coordinate.

    Shape:
        - Input: ``[features, regions]``, :math:`(B, C, H, W)` and :math:`(N, 5)`: batch index, x1, y1, x2, y2.
        - Output: :math:`(N, C, H', W')`; a bin without pixels is 0.

    Lua:
        ``inn.ROIPooling(W, H, spatial_scale)``, imagine-nn ROIPooling.lua and ROIPooling.cu
    """

    def __init__(
        self, output_size: tuple[int, int], spatial_scale: float = 1.0, v2: bool = True, index_base: int = 1
    ) -> None:
        super().__init__()
        self.output_size, self.spatial_scale, self.v2, self.index_base = output_size, spatial_scale, v2, index_base

    def forward(self, input: list[Tensor]) -> Tensor:
        features, regions = input
        (B, C, H, W), (oH, oW) = features.shape, self.output_size
        flat = features.permute(1, 0, 2, 3).reshape(C, B * H * W)
        with torch.no_grad():
            index, empty = self._find_maxima(flat, regions.detach(), H, W)
        pooled = flat.gather(1, index).masked_fill(empty, 0)
        return pooled.view(C, -1, oH, oW).transpose(0, 1)

    def _find_maxima(self, flat: Tensor, regions: Tensor, H: int, W: int) -> tuple[Tensor, Tensor]:
        """Return the position in ``flat`` of each bin's first largest pixel, and a mask of the empty bins."""
        image = (regions[:, 0] - self.index_base).long()
        left, top, right, bottom = round_half_away((regions[:, 1:] - self.index_base) * self.spatial_scale).unbind(1)
        y0, y1 = self._bins(top, bottom, self.output_size[0], H)
        x0, x1 = self._bins(left, right, self.output_size[1], W)
        shape = (regions.shape[0], *self.output_size)
        y0, y1 = (y.unsqueeze(2).expand(shape).flatten() for y in (y0, y1))
        x0, x1 = (x.unsqueeze(1).expand(shape).flatten() for x in (x0, x1))
        start = (image * H * W)[:, None, None].expand(shape).flatten()
        best = torch.full((flat.shape[0], y0.numel()), float("-inf"), dtype=flat.dtype, device=flat.device)
        index = torch.zeros_like(best, dtype=torch.long)
        empty = torch.ones_like(best, dtype=torch.bool)
        rows, columns = (int((b - a).max().clamp(min=0)) if a.numel() else 0 for a, b in ((y0, y1), (x0, x1)))
        for dy in range(rows):
            for dx in range(columns):
                y, x = y0 + dy, x0 + dx
                inside = (y < y1) & (x < x1)
                position = torch.where(inside, start + y * W + x, 0)
                value = flat.index_select(1, position)
                better = inside & (value > best)
                best, index, empty = (
                    torch.where(better, value, best),
                    torch.where(better, position, index),
                    empty & ~better,
                )
        return index, empty

    def _bins(self, first: Tensor, last: Tensor, count: int, size: int) -> tuple[Tensor, Tensor]:
        """Return the start and end pixels of the bins of each region along one axis, each (N, count)."""
        extent = (last - first + (0 if self.v2 else 1)).clamp(min=1)
        step = (extent / count)[:, None]
        i = torch.arange(count + 1, dtype=step.dtype, device=step.device)
        begin, end = i[:-1] * step, i[1:] * step
        begin, end = (round_half_away(begin), round_half_away(end)) if self.v2 else (begin.floor(), end.ceil())
        return tuple((first[:, None] + b).clamp(0, size).long() for b in (begin, end))  # type: ignore[return-value]

    class Lua(LuaClass):
        indexed = True
        scalars = {("H", "W"): "output_size", "spatial_scale": "spatial_scale", "v2": "v2"}
        defaults = {"spatial_scale": 1, "v2": False}
        scratch = ("indices", "gradInput_boxes", "gradInput_rois")
        constants = {"indices": LuaTensor.empty, "gradInput": empty_table}
        checked_by = "formula"
        test = "test_computes_what_the_formula_gives"

        @classmethod
        def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
            fields = super().to_lua(module, ctx)
            return fields if fields["v2"] else {k: v for k, v in fields.items() if k != "v2"}


def round_half_away(x: Tensor) -> Tensor:
    """Round halves away from zero, as C's ``round``."""
    integer = x.trunc()  # the sum x + 0.5 may itself be rounded up
    return integer + torch.sign(x) * ((x - integer).abs() >= 0.5)
