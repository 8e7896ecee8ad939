"""Kernels of upsampling and padding, and of nnx's SpatialReSampling and SpatialMatching."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from dpnn_bridge.lua.tensor import Tensor, TorchError
from dpnn_bridge.lua.thnn.registry import batched, fitted, kernel, pull_back


def _padding(name: str, mode: str, space: int) -> None:
    def run(x: torch.Tensor, *pads: int) -> torch.Tensor:
        batch, single = batched(x, space)
        try:
            y = F.pad(batch, pads, mode=mode)
        except (RuntimeError, NotImplementedError) as error:
            raise TorchError(str(error)) from None
        return y[0] if single else y

    @kernel(f"{name}_updateOutput")
    def update_output(input: Tensor, output: Tensor, *pads: float) -> None:
        output.assign(run(input.t, *map(int, pads)))

    @kernel(f"{name}_updateGradInput")
    def update_grad_input(input: Tensor, grad_output: Tensor, grad_input: Tensor, *pads: float) -> None:
        (g,) = pull_back(lambda x: run(x, *map(int, pads)), [input.t], grad_output.t)
        grad_input.assign(g)


_padding("SpatialReflectionPadding", "reflect", 2)
_padding("SpatialReplicationPadding", "replicate", 2)
_padding("VolumetricReplicationPadding", "replicate", 3)


def _nearest(name: str, space: int) -> None:
    def run(x: torch.Tensor, scale: float) -> torch.Tensor:
        if int(scale) <= 1:
            raise TorchError(f"bad argument #4 (scale_factor must be greater than 1, but got: {int(scale)})")
        for d in range(x.dim() - space, x.dim()):
            x = x.repeat_interleave(int(scale), d)
        return x

    @kernel(f"{name}_updateOutput")
    def update_output(input: Tensor, output: Tensor, scale: float) -> None:
        output.assign(run(input.t, scale))

    @kernel(f"{name}_updateGradInput")
    def update_grad_input(input: Tensor, grad_output: Tensor, grad_input: Tensor, scale: float) -> None:
        (g,) = pull_back(lambda x: run(x, scale), [input.t], grad_output.t, fitted)
        grad_input.assign(g)


_nearest("SpatialUpSamplingNearest", 2)
_nearest("VolumetricUpSamplingNearest", 3)


def _along(x: torch.Tensor, d: int, count: int) -> torch.Tensor:
    """Interpolate one dimension with aligned corners; positions are computed in single precision."""
    size = x.shape[d]
    ratio = torch.tensor((size - 1) / (count - 1) if count > 1 else 0.0, dtype=torch.float32)
    positions = ratio * torch.arange(count, dtype=torch.float32)
    low = positions.long()
    part = (positions - low).to(x.dtype).reshape(-1, *[1] * (x.dim() - d - 1))
    return (1 - part) * x.index_select(d, low) + part * x.index_select(d, torch.clamp(low + 1, max=size - 1))


def _interpolate(x: torch.Tensor, sizes: tuple[int, ...]) -> torch.Tensor:
    first = x.dim() - len(sizes)
    if tuple(x.shape[first:]) == sizes:
        return x * 1
    for d in reversed(range(first, x.dim())):
        x = _along(x, d, sizes[d - first])
    return x


def _linear(name: str, space: int) -> None:
    @kernel(f"{name}_updateOutput")
    def update_output(input: Tensor, output: Tensor, *sizes: Any) -> None:
        output.assign(_interpolate(input.t, tuple(int(s) for s in sizes)))

    @kernel(f"{name}_updateGradInput")
    def update_grad_input(grad_output: Tensor, grad_input: Tensor, *sizes: Any) -> None:
        """Compute the gradient; ``sizes`` are batch size, channels, input sizes and output sizes."""
        numbers = [int(s) for s in sizes]
        shape, target = numbers[: 2 + space], tuple(numbers[2 + space :])
        zeros = torch.zeros(shape, dtype=grad_output.t.dtype)
        (g,) = pull_back(lambda x: _interpolate(x, target), [zeros], grad_output.t, fitted)
        grad_input.assign(g)


_linear("SpatialUpSamplingBilinear", 2)
_linear("VolumetricUpSamplingTrilinear", 3)


# ---- nnx.SpatialReSampling: bilinear, with positions and weights in single precision


def _resample(x: torch.Tensor, width: int, height: int) -> torch.Tensor:
    def neighbours(size: int, count: int) -> tuple[torch.Tensor, ...]:
        """Return, for each of ``count`` output positions, the indices and weights of its two neighbours."""
        ratio = torch.tensor(float(size - 1), dtype=torch.float32) / max(count - 1, 0)
        positions = torch.nan_to_num(ratio * torch.arange(count, dtype=torch.float32))
        low = torch.floor(positions)
        return low.long(), torch.clamp(low.long() + 1, max=size - 1), low + 1 - positions, positions - low

    top, bottom, top_weight, bottom_weight = neighbours(x.shape[-2], height)
    left, right, left_weight, right_weight = neighbours(x.shape[-1], width)
    result = x.new_zeros(*x.shape[:-2], height, width, dtype=torch.float64)
    for rows, vertical in ((top, top_weight), (bottom, bottom_weight)):
        for columns, horizontal in ((left, left_weight), (right, right_weight)):
            weight = horizontal[None, :] * vertical[:, None]
            result = result + x[..., rows[:, None], columns[None, :]].double() * weight
    return result.to(x.dtype)


@kernel("SpatialReSampling_updateOutput")
def resample(input: Tensor, output: Tensor, width: float, height: float) -> None:
    output.assign(_resample(input.t, int(width), int(height)))


@kernel("SpatialReSampling_updateGradInput")
def resample_gradient(input: Tensor, grad_output: Tensor, grad_input: Tensor, *_: float) -> None:
    height, width = grad_output.size[-2:]  # which may differ from the settings of the layer
    (g,) = pull_back(lambda x: _resample(x, width, height), [input.t], grad_output.t)
    grad_input.assign(g)


# ---- nnx.SpatialMatching: distances between each pixel and a window of another image, with sums in C's order

_Part = tuple[slice, slice, slice]


def _window(first: torch.Tensor, window: tuple[int, int], full: bool) -> Iterator[tuple[int, int, _Part, _Part]]:
    """Yield each position (row, column) in the window, and the parts of both images that are compared at it."""
    corner = [(n + 1) // 2 - 1 if full else 0 for n in window]
    for i, j in itertools.product(*map(range, window)):
        own, other = [slice(None)], [slice(None)]
        for at, middle, n in zip((i, j), corner, first.shape[1:], strict=True):
            step = at - middle
            start, stop = (max(0, -step), min(n, n - step)) if full else (0, n)
            own.append(slice(start, max(start, stop)))
            other.append(slice(start + step, max(start, stop) + step))
        yield i, j, (own[0], own[1], own[2]), (other[0], other[1], other[2])


@kernel("SpatialMatching_updateOutput")
def match(first: Tensor, second: Tensor, output: Tensor, height: float, width: float, full: bool) -> None:
    """Compute squared distances; 1e30 where the window extends beyond the image."""
    a, b, window = first.t, second.t, (int(height), int(width))
    result = a.new_full((*a.shape[1:], *window), 1e30)
    for i, j, near, far in _window(a, window, full):
        squares = (a[near] - b[far]).square()
        result[(*near[1:], i, j)] = sum(squares[1:], squares[0])
    output.assign(result)


@kernel("SpatialMatching_updateGradInput")
def match_gradient(
    first: Tensor,
    second: Tensor,
    grad_output: Tensor,
    grad_first: Tensor,
    grad_second: Tensor,
    height: float,
    width: float,
    full: bool,
) -> None:
    a, b, g = first.t, second.t, grad_output.t.reshape(*first.size[1:], int(height), int(width))
    to_a, to_b, steps = torch.zeros_like(a), torch.zeros_like(b), []
    for i, j, near, far in _window(a, (int(height), int(width)), full):
        slope = 2 * (a[near] - b[far]) * g[(*near[1:], i, j)]
        to_a[near] += slope
        steps.append((far, slope))
    for far, slope in reversed(steps):  # the order of the pixels of the first image in C
        to_b[far] -= slope
    grad_first.assign(to_a)
    grad_second.assign(to_b)
