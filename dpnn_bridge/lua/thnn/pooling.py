"""Kernels of max pooling and unpooling. Positions of maxima are encoded as in THNN, because Lua code reads them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from dpnn_bridge.lua.tensor import Tensor, TorchError
from dpnn_bridge.lua.thnn.registry import Positions, batched, check_shape, fitted, kernel, pull_back, reordered
from dpnn_bridge.lua.thnn.windows import last_windows, with_last
from dpnn_bridge.torch7.adaptive_windows import adaptive_maxima, bounds


def check_pads(sizes: Sequence[int], pads: Sequence[int]) -> None:
    if any(p > k // 2 for p, k in zip(pads, sizes, strict=True)):
        raise TorchError(f"pad should be smaller than half of kernel size, but got pad = {pads}, kernel = {sizes}")


def _maxima(
    pool: Callable[[torch.Tensor], Sequence[torch.Tensor]], x: torch.Tensor, dtype: torch.dtype | None = None
) -> Sequence[torch.Tensor]:
    """Return the maxima and positions of ``pool(x)`` as in THNN.

    THNN starts with the lowest finite number of ``dtype`` and looks for larger values, so it ignores NaN. A window
    without a larger value has this number as its maximum, and the position -1.
    """
    lowest = torch.finfo(dtype or x.dtype).min
    y, at = pool(x)
    if y.min() > lowest:
        return y, at
    y, at = pool(torch.where(x > lowest, x, -math.inf))
    empty = y <= lowest
    return y.masked_fill(empty, lowest), at.masked_fill(empty, -1)


def _pooled(
    pool: Callable[..., Sequence[torch.Tensor]], input: Tensor, x: torch.Tensor, *geometry: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the maxima and positions of ``pool(x, size, stride, pad, dilation, ceil)`` as in THNN."""
    try:
        y, at = _maxima(lambda x: pool(x, *geometry), x)
    except RuntimeError as error:
        raise TorchError(f"Given input size: {input.shape_text}. {error}") from None
    last = last_windows(x.shape[2:], *geometry)
    return with_last(y, last, torch.finfo(y.dtype).min), with_last(at, last, -1)


def scatter_gradient(grad_input: Tensor, input: Tensor, index: torch.Tensor, grad: torch.Tensor, space: int) -> None:
    """Add each element of ``grad`` to ``grad_input`` at the position of its maximum.

    Args:
        grad_input: the result, which gets the size of ``input``.
        input: the input of the layer.
        index: positions in the flattened channel; -1: no maximum.
        grad: gradient of the maxima.
        space: number of spatial dimensions.
    """
    shape = input.size
    flat = grad.reshape(*grad.shape[: grad.dim() - space], -1)
    result = flat.new_zeros(*flat.shape[:-1], math.prod(shape[len(shape) - space :]))
    index = index.reshape(flat.shape)
    if index.min() < 0:
        flat, index = flat.masked_fill(index < 0, 0), index.clamp(min=0)
    result.scatter_add_(-1, index, flat)
    grad_input.assign(result.reshape(shape))


def positions(indices: Tensor) -> torch.Tensor:
    """Return positions as integers; older versions of nn store them in a tensor of the input's type."""
    return indices.t.long()


def _gradient(input: Tensor, grad_output: Tensor, indices: Tensor, space: int) -> torch.Tensor:
    """Return gradOutput with the sizes of the positions of the maxima; ``space``: number of spatial dimensions."""
    return fitted(grad_output.t, indices.size, input.dim == space + 1)


# ---- 2-D: positions are 1-based within the channel


def _max2d(input: Tensor, output: Tensor, indices: Tensor, numbers: Sequence[Any], dilation: Sequence[Any]) -> None:
    x, single = batched(input.t, 2)
    size, stride, pad = (reordered(numbers[n : n + 2]) for n in (0, 2, 4))
    check_pads(size, pad)
    geometry = (size, stride, pad, reordered(dilation), numbers[-1])
    y, at = _pooled(torch.ops.aten.max_pool2d_with_indices, input, x, *geometry)
    output.assign(y[0] if single else y)
    indices.assign((at[0] if single else at) + 1)


def _max2d_gradient(input: Tensor, grad_output: Tensor, grad_input: Tensor, indices: Positions, *_: Any) -> None:
    scatter_gradient(grad_input, input, positions(indices) - 1, _gradient(input, grad_output, indices, 2), 2)


@kernel("SpatialMaxPooling_updateOutput")
def spatial_max(input: Tensor, output: Tensor, indices: Positions, *numbers: Any) -> None:
    _max2d(input, output, indices, numbers, (1, 1))


@kernel("SpatialDilatedMaxPooling_updateOutput")
def spatial_dilated_max(input: Tensor, output: Tensor, indices: Positions, *numbers: Any) -> None:
    _max2d(input, output, indices, (*numbers[:6], numbers[8]), numbers[6:8])


kernel("SpatialMaxPooling_updateGradInput")(_max2d_gradient)
kernel("SpatialDilatedMaxPooling_updateGradInput")(_max2d_gradient)


def _unpool(input: Tensor, output: Tensor, indices: Tensor, index: torch.Tensor, sizes: tuple[int, ...]) -> None:
    check_shape(input, indices, "input indices")
    x, single = batched(input.t, len(sizes))
    count = math.prod(sizes)
    if bool(((index < 0) | (index >= count)).any()):
        raise TorchError(f"found an invalid max index (output volumes are of size {'x'.join(map(str, sizes))})")
    flat = x.flatten(2)
    y = flat.new_zeros(*flat.shape[:2], count).scatter_(2, index.reshape(flat.shape), flat)
    y = y.reshape(*x.shape[:2], *sizes)
    output.assign(y[0] if single else y)


def _unpool_gradient(
    input: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    indices: Tensor,
    index: torch.Tensor,
    sizes: tuple[int, ...],
) -> None:
    check_shape(input, indices, "input indices")
    if grad_output.size[-len(sizes) :] != sizes:
        actual, expected = "x".join(map(str, grad_output.size[-len(sizes) :])), "x".join(map(str, sizes))
        raise TorchError(f"Inconsistent gradOutput size. output: {expected}, gradOutput: {actual}")
    g, _ = batched(grad_output.t, len(sizes))
    flat = g.flatten(2)
    grad_input.assign(flat.gather(2, index.reshape(*flat.shape[:2], -1)).reshape(input.size))


@kernel("SpatialMaxUnpooling_updateOutput")
def spatial_unpool(input: Tensor, output: Tensor, indices: Positions, width: float, height: float) -> None:
    _unpool(input, output, indices, positions(indices) - 1, (int(height), int(width)))


@kernel("SpatialMaxUnpooling_updateGradInput")
def spatial_unpool_gradient(
    input: Tensor, grad_output: Tensor, grad_input: Tensor, indices: Positions, *n: float
) -> None:
    sizes = int(n[1]), int(n[0])
    _unpool_gradient(input, grad_output, grad_input, indices, positions(indices) - 1, sizes)


# ---- adaptive: positions (row, column) are 1-based within the window
@kernel("SpatialAdaptiveMaxPooling_updateOutput")
def adaptive_max(input: Tensor, output: Tensor, indices: Positions, width: float, height: float) -> None:
    x, single = batched(input.t, 2)
    rows, columns = bounds(int(height), x.shape[2]), bounds(int(width), x.shape[3])
    y, at = _maxima(lambda x: adaptive_maxima(x, rows, columns), x, torch.float32)
    both = torch.stack([at // x.shape[3] - rows[0][:, None] + 1, at % x.shape[3] - columns[0] + 1])
    output.assign(y[0] if single else y)
    indices.assign(both[:, 0] if single else both)


@kernel("SpatialAdaptiveMaxPooling_updateGradInput")
def adaptive_max_gradient(input: Tensor, grad_output: Tensor, grad_input: Tensor, indices: Positions) -> None:
    height, width = grad_output.size[-2:]
    grad = grad_output.t[: input.size[0]]  # THNN ignores further samples
    rows = positions(indices)[0] - 1 + bounds(height, input.size[-2])[0][:, None]
    columns = positions(indices)[1] - 1 + bounds(width, input.size[-1])[0]
    scatter_gradient(grad_input, input, rows * input.size[-1] + columns, grad, 2)


# ---- 3-D: positions are 0-based within the window, one byte each for time, row, column


def _window_starts(sizes: Sequence[int], stride: Sequence[int], pad: Sequence[int]) -> list[torch.Tensor]:
    starts = []
    for d, (n, s, p) in enumerate(zip(sizes, stride, pad, strict=True)):
        shape = [-1 if k == d else 1 for k in range(3)]
        starts.append((torch.arange(n) * s - p).reshape(shape))
    return starts


def _pack(at: torch.Tensor, plane: Sequence[int], starts: list[torch.Tensor], dilation: Sequence[int]) -> torch.Tensor:
    t, rest = at // (plane[1] * plane[2]), at % (plane[1] * plane[2])
    parts = (t, rest // plane[2], rest % plane[2])
    z, y, x = ((p - s) // d for p, s, d in zip(parts, starts, dilation, strict=True))
    return z + (y << 8) + (x << 16)


def _unpack(
    packed: torch.Tensor, plane: Sequence[int], starts: list[torch.Tensor], dilation: Sequence[int]
) -> torch.Tensor:
    parts = (packed & 255, (packed >> 8) & 255, (packed >> 16) & 255)
    t, y, x = (p * d + s for p, s, d in zip(parts, starts, dilation, strict=True))
    outside = (t < 0) | (t >= plane[0]) | (y < 0) | (y >= plane[1]) | (x < 0) | (x >= plane[2])
    return torch.where(outside, -1, (t * plane[1] + y) * plane[2] + x)


def _max3d(input: Tensor, output: Tensor, indices: Tensor, n: Sequence[Any], dilation: Sequence[Any]) -> None:
    x, single = batched(input.t, 3)
    size, stride, pad = (reordered(n[k : k + 3]) for k in (0, 3, 6))
    check_pads(size, pad)
    steps = reordered(dilation)
    y, at = _pooled(torch.ops.aten.max_pool3d_with_indices, input, x, size, stride, pad, steps, n[9])
    packed = _pack(at, x.shape[2:], _window_starts(y.shape[2:], stride, pad), steps)
    packed = torch.where(at < 0, 0xFFFFFF, packed)
    output.assign(y[0] if single else y)
    indices.assign(packed[0] if single else packed)


def _max3d_gradient(
    input: Tensor, grad_output: Tensor, grad_input: Tensor, indices: Tensor, n: Sequence[Any], dilation: Sequence[Any]
) -> None:
    grad = _gradient(input, grad_output, indices, 3)
    stride, pad = reordered(n[0:3]), reordered(n[3:6])
    starts = _window_starts(grad.shape[-3:], stride, pad)
    index = _unpack(positions(indices), input.size[-3:], starts, reordered(dilation))
    scatter_gradient(grad_input, input, index, grad, 3)


@kernel("VolumetricMaxPooling_updateOutput")
def volumetric_max(input: Tensor, output: Tensor, indices: Positions, *n: Any) -> None:
    _max3d(input, output, indices, n, (1, 1, 1))


@kernel("VolumetricMaxPooling_updateGradInput")
def volumetric_max_gradient(
    input: Tensor, grad_output: Tensor, grad_input: Tensor, indices: Positions, *n: Any
) -> None:
    geometry = n[3:9] if len(n) > 7 else n[0:6]  # older versions of nn pass stride and padding only
    _max3d_gradient(input, grad_output, grad_input, indices, geometry, (1, 1, 1))


@kernel("VolumetricDilatedMaxPooling_updateOutput")
def volumetric_dilated_max(input: Tensor, output: Tensor, indices: Positions, *n: Any) -> None:
    _max3d(input, output, indices, (*n[:9], n[12]), n[9:12])


@kernel("VolumetricDilatedMaxPooling_updateGradInput")
def volumetric_dilated_max_gradient(
    input: Tensor, grad_output: Tensor, grad_input: Tensor, indices: Positions, *n: Any
) -> None:
    first = 3 if len(n) > 10 else 0
    _max3d_gradient(input, grad_output, grad_input, indices, n[first : first + 6], n[first + 6 : first + 9])


@kernel("VolumetricMaxUnpooling_updateOutput")
def volumetric_unpool(input: Tensor, output: Tensor, indices: Positions, *n: float) -> None:
    _unpool(input, output, indices, *_unpool_positions(input, indices, n))


@kernel("VolumetricMaxUnpooling_updateGradInput")
def volumetric_unpool_gradient(
    input: Tensor, grad_output: Tensor, grad_input: Tensor, indices: Positions, *n: float
) -> None:
    _unpool_gradient(input, grad_output, grad_input, indices, *_unpool_positions(input, indices, n))


def _unpool_positions(input: Tensor, indices: Tensor, n: Sequence[Any]) -> tuple[torch.Tensor, tuple[int, ...]]:
    """Return the positions of the maxima in the flattened output, and the sizes of the output."""
    sizes = reordered(n[0:3])
    starts = _window_starts(input.size[-3:], reordered(n[3:6]), reordered(n[6:9]))
    return _unpack(positions(indices), sizes, starts, (1, 1, 1)), sizes


# ---- 1-D, (frames, features): positions are 0-based within the window


@kernel("TemporalMaxPooling_updateOutput")
def temporal_max(input: Tensor, output: Tensor, indices: Positions, kw: float, dw: float) -> None:
    if input.dim not in (2, 3) or input.size[-2] < kw:
        raise TorchError(f"input sequence smaller than kernel size. Got: {input.shape_text}, Expected: {int(kw)}")
    windows = input.t.unfold(-2, int(kw), int(dw))
    best, at = _maxima(lambda windows: windows.max(-1), windows)
    output.assign(best)
    indices.assign(at)


@kernel("TemporalMaxPooling_updateGradInput")
def temporal_max_gradient(
    input: Tensor, grad_output: Tensor, grad_input: Tensor, indices: Positions, kw: float, dw: float
) -> None:
    grad = _gradient(input, grad_output, indices, 1)
    index = positions(indices)  # -1: no maximum
    frames = index.clamp(min=0) + (torch.arange(indices.size[-2]) * int(dw))[:, None]
    gradient = grad.masked_fill(index < 0, 0)
    grad_input.assign(torch.zeros_like(input.t).scatter_add_(-2, frames, gradient))


# ---- Lp pooling over features


@kernel("FeatureLPPooling_updateOutput")
def feature_lp(input: Tensor, output: Tensor, power: float, width: float, stride: float, batch: bool) -> None:
    if not 2 <= width <= 16 or not 1 <= stride <= 4:
        raise TorchError("width must be between 2 - 16 and stride between 1 - 4")
    windows = input.t.unfold(1 if batch else 0, int(width), int(stride))
    windows = windows.double()  # as in C, where powers do not overflow
    output.assign(torch.pow(torch.pow(windows, power).sum(-1), 1 / power))


@kernel("FeatureLPPooling_updateGradInput")
def feature_lp_gradient(
    grad_output: Tensor,
    input: Tensor,
    output: Tensor,
    grad_input: Tensor,
    power: float,
    width: float,
    stride: float,
    batch: bool,
) -> None:
    dim = 1 if batch else 0
    windows = input.t.unfold(dim, int(width), int(stride))
    y = output.t.unsqueeze(-1)
    grad = grad_output.t.reshape(output.size).unsqueeze(-1)
    window_gradient = torch.where(y == 0, 0.0, torch.pow(windows / y, power - 1)) * grad
    (g,) = pull_back(lambda x: x.unfold(dim, int(width), int(stride)), [input.t], window_gradient)
    grad_input.assign(g)
