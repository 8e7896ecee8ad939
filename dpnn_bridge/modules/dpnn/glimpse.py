"""Crops of images: SpatialGlimpse, SpatialUniformCrop, and the SpatialReSampling that they use."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.faults import Fault
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.indices import must_check_ranges
from dpnn_bridge.modules.nn.upsampling import scaled_size
from dpnn_bridge.modules.nnx.resampling import bilinear
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor
from dpnn_bridge.torch7.gradient import zero_gradient


@lua_class("nn.SpatialReSampling")
class SpatialReSampling(nn.Module):
    r"""Bilinear resampling with aligned corners.

    Args:
        owidth, oheight: output size.
        rwidth, rheight: ratio of output size to input size, if no output size is given; the product is truncated.

    Shape:
        - Input: :math:`(N, C, H, W)` or :math:`(C, H, W)`.
        - Output: :math:`(N, C, H', W')` or :math:`(C, H', W')`.

    Raises:
        ValueError: an output size is less than 2; Torch7's source positions would be NaN.

    Lua:
        ``nn.SpatialReSampling{rwidth=, rheight=, owidth=, oheight=}``, nnx SpatialReSampling.lua. In Torch7 the first
        forward pass fixes the output size; here a ratio applies to each input.

    Differs from PyTorch:
        Equals :func:`torch.nn.functional.interpolate` with ``align_corners=True``, except that source positions and
        interpolation weights are computed in float32 for every dtype.
    """

    def __init__(
        self,
        owidth: int | None = None,
        oheight: int | None = None,
        rwidth: float | None = None,
        rheight: float | None = None,
    ) -> None:
        super().__init__()
        self.owidth, self.oheight, self.rwidth, self.rheight = owidth, oheight, rwidth, rheight

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() not in (3, 4):
            raise ValueError(f"SpatialReSampling: expected shape (N, C, H, W) or (C, H, W), found {tuple(input.shape)}")
        height = self._size("height", self.oheight, self.rheight, input.shape[-2])
        width = self._size("width", self.owidth, self.rwidth, input.shape[-1])
        return resampled(input, height, width)

    @staticmethod
    def _size(name: str, size: float | None, ratio: float | None, old: int) -> int:
        if size is None and ratio is None:
            raise ValueError(f"SpatialReSampling requires o{name} or r{name}")
        return int(size) if size is not None else scaled_size(old, ratio)  # type: ignore[arg-type]

    class Lua(LuaClass):
        scalars = ("owidth", "oheight", "rwidth", "rheight")
        defaults = {"owidth": None, "oheight": None, "rwidth": None, "rheight": None}


def resampled(input: Tensor, height: int, width: int) -> Tensor:
    """Resample the last two dimensions of ``input``, with the result of :class:`SpatialReSampling`."""
    if height < 2 or width < 2:
        raise ValueError(f"cannot resample to {height} x {width}: height and width must be at least 2")
    if input.dtype == torch.float64:  # Torch7 computes positions and weights in float32
        output = bilinear(input.reshape(-1, *input.shape[-2:], 1), height, width)
    else:
        samples = input.reshape(-1, 1, *input.shape[-2:])  # channels as samples: up to ten times faster
        output = F.interpolate(samples, (height, width), mode="bilinear", align_corners=True)
    return output.reshape(*input.shape[:-2], height, width)


@lua_class("nn.SpatialGlimpse")
class SpatialGlimpse(nn.Module):
    r"""Crops windows of increasing size around a location of an image and resizes all of them to the smallest size.

    Window d has size :math:`g_d = \text{size} \cdot \text{scale}^d`; the image is padded with zeros so that half of a
    window may lie outside. The gradient of the location is zero.

    Args:
        size: height and width of the output, or one number for both.
        depth: number of windows.
        scale: ratio of a window's size to the size of the previous window.
        pooling: resizing method, ``"average"`` (average pooling, scale 2 only) or ``"bilinear"``
            (:class:`SpatialReSampling`). Default: average for scale 2, else bilinear.

    Shape:
        - Input: ``[image, location]`` with :math:`(N, C, H, W)` and :math:`(N, 2)`, or :math:`(C, H, W)` and
          :math:`(2)`. A location is (y, x) between (-1, -1), top left, and (1, 1), bottom right; further
          rows and columns of the locations are ignored.
        - Output: :math:`(N, \text{depth} \cdot C, \text{size}_0, \text{size}_1)`, without N for a single image.

    Examples:
        >>> image, location = torch.zeros(4, 1, 28, 28), torch.zeros(4, 2)
        >>> SpatialGlimpse(8, depth=3)([image, location]).shape
        torch.Size([4, 3, 8, 8])

    Lua:
        ``nn.SpatialGlimpse(size, depth, scale)``, SpatialGlimpse.lua. A fractional window size is truncated only where
        it is used, as in dpnn of 2016; dpnn of 2017 truncates it at each depth. Models of 2015 resize bilinearly at
        every scale.

    References:
        Mnih et al., Recurrent Models of Visual Attention, https://arxiv.org/abs/1406.6247
    """

    def __init__(
        self, size: int | tuple[int, int], depth: int = 3, scale: float = 2, pooling: str | None = None
    ) -> None:
        super().__init__()
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        self.depth, self.scale = depth, scale
        self.pooling = pooling or ("average" if scale == 2 else "bilinear")
        if self.pooling not in ("average", "bilinear"):
            raise ValueError(f"SpatialGlimpse: expected pooling 'average' or 'bilinear', found {pooling!r}")

    def forward(self, input: list[Tensor]) -> Tensor:
        image, location = input[0], input[1]
        single = image.dim() == 3
        image = image.unsqueeze(0) if single else image
        location = location.unsqueeze(0) if location.dim() == 1 else location
        if image.dim() != 4 or location.dim() != 2 or len(location) < len(image) or location.shape[1] < 2:
            shapes = [tuple(t.shape) for t in input[:2]]
            raise ValueError(
                f"SpatialGlimpse: expected shapes [(N, C, H, W), (N, 2)] or [(C, H, W), (2)], found {shapes}"
            )
        location = (location[: len(image), :2].detach().double() + 1) / 2  # as Torch7, ignore further elements
        windows, size = [], (float(self.size[0]), float(self.size[1]))
        for depth in range(self.depth):
            if depth > 0:
                size = (size[0] * self.scale, size[1] * self.scale)
            windows.append(self._resized(self._window(image, location, size), depth))
        output = zero_gradient(torch.cat(windows, 1), input[1])
        return output.squeeze(0) if single else output

    @staticmethod
    def _window(image: Tensor, location: Tensor, size: tuple[float, float]) -> Tensor:
        """Crop the windows of one depth, at full resolution, with zeros outside the image."""
        clamped: list[Tensor] = []
        outside: list[Tensor] = []
        square = image.shape[2] == image.shape[3] and size[0] == size[1]  # compute rows and columns together
        for axes in [slice(2)] if square else [slice(1), slice(1, 2)]:
            length, g = image.shape[2:][axes][0], size[axes][0]
            pad = math.floor((g - 1) / 2)
            last = length + 2 * pad - g
            if last < 0:
                raise ValueError(
                    f"SpatialGlimpse: a window of {size} pixels exceeds the padded image of shape {tuple(image.shape)}"
                )
            first = (location[:, axes] * last).clamp(0, last).long()
            position = first.unsqueeze(2) + torch.arange(-pad, int(g) - pad, device=image.device)
            inside = position.clamp(0, length - 1)
            clamped += inside.unbind(1)
            outside += (position != inside).unbind(1)
        window = pixels(image, *clamped)
        return window.masked_fill_((outside[0].unsqueeze(2) | outside[1].unsqueeze(1)).unsqueeze(1), 0)

    def _resized(self, window: Tensor, depth: int) -> Tensor:
        height, width = self.size
        if depth == 0 or tuple(window.shape[2:]) == self.size:
            return window
        if self.pooling == "average":
            return F.avg_pool2d(window, (window.shape[2] // height, window.shape[3] // width))
        return resampled(window, height, width)

    class Lua(LuaClass):
        scalars = {("height", "width"): "size", "depth": "depth", "scale": "scale"}

        @classmethod
        def upgrade(cls, obj: LuaObject) -> LuaObject:
            if "height" in obj:
                return obj
            return obj.changed(height=obj["size"], width=obj["size"])

        @classmethod
        def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
            average = obj["module"].class_name.endswith(("SpatialAveragePooling", "AvgPool2d"))  # as Lua, in a .pt file
            return {**super().arguments(obj, ctx), "pooling": "average" if average else "bilinear"}

        @classmethod
        def to_lua(cls, module: SpatialGlimpse, ctx: LuaContext) -> dict[str, Any]:
            fields = super().to_lua(module, ctx)
            if record_of(module) is None:
                height, width = module.size
                average = module.pooling == "average"
                resize = nn.AvgPool2d(2, 2) if average else SpatialReSampling(oheight=height, owidth=width)
                fields["module"] = ctx.to_lua(resize)
                fields["modules"] = LuaTable.from_list([fields["module"]])
                tensor_class = ctx.type_of(module)
                fields["gradInput"] = LuaTable.from_list([LuaTensor.empty(tensor_class) for _ in range(2)])
            return fields


def cropped(image: Tensor, top: Tensor, left: Tensor, height: int, width: int) -> Tensor:
    """Crop a window from each image of a batch (N, C, H, W); ``top`` and ``left`` of shape (N) are its position."""
    rows = top[:, None] + torch.arange(height, device=image.device)
    columns = left[:, None] + torch.arange(width, device=image.device)
    return pixels(image, rows, columns)


def pixels(image: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Select pixels at rows (N, h) and columns (N, w) from each image of a batch (N, C, H, W)."""
    index = torch.add(columns.unsqueeze(1), rows.unsqueeze(2), alpha=image.shape[3]).flatten(1)
    gathered = image.flatten(2).gather(2, index.unsqueeze(1).expand(-1, image.shape[1], -1))
    return gathered.unflatten(2, (rows.shape[1], columns.shape[1]))


@lua_class("nn.SpatialUniformCrop")
class SpatialUniformCrop(nn.Module):
    r"""Crops a window of each image: at a random position in training mode, at the center in evaluation mode.

    Args:
        oheight, owidth: size of the window; the width defaults to the height.
        scale: range of a random factor of the window's size in training mode; the window is then resampled to
            ``oheight`` x ``owidth``. None: the factor is 1.

    Shape:
        - Input: :math:`(N, C, H, W)` or :math:`(C, H, W)`.
        - Output: :math:`(N, C, H', W')` or :math:`(C, H', W')`.

    Raises:
        ValueError: the image is too small for the window, or, in evaluation mode, not larger than the window.

    Lua:
        ``nn.SpatialUniformCrop(oheight, owidth, scale)``, SpatialUniformCrop.lua. As in Torch7, a random window never
        starts at the last possible row or column, and a central window starts one pixel before the center if image and
        window differ by an even size.
    """

    def __init__(self, oheight: int, owidth: int | None = None, scale: tuple[float, float] | None = None) -> None:
        super().__init__()
        self.oheight, self.owidth, self.scale = oheight, oheight if owidth is None else owidth, scale

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() == 3:
            return self.forward(input.unsqueeze(0)).squeeze(0)
        height, width = input.shape[2:]
        if not self.training:
            top, left = math.ceil((height - self.oheight) / 2), math.ceil((width - self.owidth) / 2)
            if top < 1 or left < 1:
                raise ValueError(
                    "SpatialUniformCrop: in evaluation mode, as in Torch7, expected images larger than "
                    f"{self.oheight} x {self.owidth}, found {tuple(input.shape)}"
                )
            return input[:, :, top - 1 : top - 1 + self.oheight, left - 1 : left - 1 + self.owidth]
        if height < self.oheight or width < self.owidth:
            raise ValueError(
                f"SpatialUniformCrop: expected images of at least {self.oheight} x {self.owidth}, "
                f"found {tuple(input.shape)}"
            )
        n, device = len(input), input.device
        if self.scale is None:
            top = _random_positions(n, height - self.oheight, device)
            return self.at(input, top, _random_positions(n, width - self.owidth, device))
        scales = torch.empty(n, dtype=torch.float64, device=device).uniform_(*self.scale)
        top = _random_positions(n, height - (scales * self.oheight).ceil(), device)
        left = _random_positions(n, width - (scales * self.owidth).ceil(), device)
        return self.scaled(input, scales, top, left)

    def at(self, input: Tensor, top: Tensor, left: Tensor) -> Tensor:
        """Crop windows at the given positions, counted from 1."""
        return cropped(input, top - 1, left - 1, self.oheight, self.owidth)

    def scaled(self, input: Tensor, scales: Tensor, top: Tensor, left: Tensor) -> Tensor:
        """Crop windows of the given scales, at Torch7's positions for the random numbers ``top`` and ``left``."""
        height, width = input.shape[2:]
        rows, columns = (scales * self.oheight).ceil(), (scales * self.owidth).ceil()
        y = (height / 2 - (height - rows) / 2 + top).ceil() - (rows / 2).ceil()
        x = (width / 2 - (height - columns) / 2 + left).ceil() - (columns / 2).ceil()  # Torch7 has iH here as well
        y0, y1, fy = _neighbors(y.clamp(min=1) - 1, rows, self.oheight)
        x0, x1, fx = _neighbors(x.clamp(min=1) - 1, columns, self.owidth)
        if must_check_ranges(y1) and (int(y1.max()) >= height or int(x1.max()) >= width):
            raise ValueError(f"a window of scale {self.scale} lies outside the image of shape {tuple(input.shape)}")

        def weighted(rows: Tensor, columns: Tensor, weight: Tensor) -> Tensor:
            return pixels(input, rows, columns) * weight.to(input.dtype)[:, None]

        fy, fx = fy[:, :, None], fx[:, None, :]
        top_half = weighted(y0, x0, (1 - fx) * (1 - fy)) + weighted(y0, x1, fx * (1 - fy))
        return top_half + weighted(y1, x0, (1 - fx) * fy) + weighted(y1, x1, fx * fy)

    class Lua(LuaClass):
        faults = (
            Fault(
                ("gradInput", "gradParams", "backward"),
                "in evaluation mode, Torch7's backward pass uses the windows of an earlier training pass",
                mode="eval",
            ),
        )
        scalars = ("oheight", "owidth")
        scratch = ("coord", "scales")

        @classmethod
        def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
            scale = obj.get("scale")
            if isinstance(scale, LuaTable):
                scale = (scale.get("min", scale.get(1)), scale.get("max", scale.get(2)))
            return {**super().arguments(obj, ctx), "scale": scale}

        @classmethod
        def to_lua(cls, module: SpatialUniformCrop, ctx: LuaContext) -> dict[str, Any]:
            fields = super().to_lua(module, ctx)
            if record_of(module) is None and module.scale is not None:
                fields["scale"] = LuaTable.from_list(module.scale)
                fields["scaler"] = ctx.to_lua(SpatialReSampling(owidth=module.owidth, oheight=module.oheight))
            return fields

        @classmethod
        def replay(cls, module: SpatialUniformCrop, after: LuaObject) -> Callable[[Tensor], Tensor] | None:
            coord, scales = after.get("coord"), after.get("scales")
            if not module.training or not isinstance(coord, LuaTensor):
                return None

            def forward(input: Tensor) -> Tensor:
                batch = input.unsqueeze(0) if input.dim() == 3 else input
                top, left = coord.torch().to(input.device).long().unbind(1)
                if isinstance(scales, LuaTensor):
                    output = module.scaled(batch, scales.torch().to(input.device).double(), top, left)
                else:
                    output = module.at(batch, top, left)
                return output.squeeze(0) if input.dim() == 3 else output

            return forward


def _random_positions(n: int, largest: float | Tensor, device: torch.device) -> Tensor:
    """Draw ``n`` random positions from 1 to ``largest``."""
    uniform = torch.rand(n, dtype=torch.float64, device=device)
    return (0.01 + uniform * (largest - 0.01)).ceil().long()


def _neighbors(first: Tensor, size: Tensor, new_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the source pixels before and after each new pixel, and its distance from the pixel before.

    Args:
        first: first source pixel of each sample, of shape (N).
        size: number of source pixels of each sample, of shape (N).
        new_size: number of new pixels.
    """
    ratio = (size - 1).float()[:, None] / (new_size - 1)
    position = ratio * torch.arange(new_size, dtype=torch.float32, device=size.device)
    before = position.floor()
    last = size.long()[:, None] - 1
    start = first.long()[:, None]
    return start + before.long(), start + torch.minimum(before.long() + 1, last), position - before
