"""Kernels of fractional max pooling, with windows at random positions. Indices are 1-based within the channel."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from dpnn_bridge.lua.tensor import Tensor, TorchError
from dpnn_bridge.lua.thnn.pooling import positions, scatter_gradient
from dpnn_bridge.lua.thnn.registry import Positions, batched, kernel


def _intervals(samples: torch.Tensor, size: int, count: int, pool: int) -> torch.Tensor:
    """Return the start of each of ``count`` windows along a dimension, for each random number in ``samples``."""
    alpha = samples.new_tensor(float(size - pool)) / samples.new_tensor(float(count - 1))
    steps = torch.arange(count, dtype=samples.dtype)
    starts = ((steps + samples[..., None]) * alpha).long() - (samples[..., None] * alpha).long()
    starts[..., -1] = size - pool
    return starts


def _fractional(
    input: Tensor, output: Tensor, indices: Tensor, samples: Tensor, counts: Sequence[int], pools: Sequence[int]
) -> None:
    """Compute fractional max pooling.

    Args:
        input: the input.
        output: gets the maxima.
        indices: gets their positions.
        samples: random numbers between 0 and 1, per channel and dimension, in reverse order of the dimensions.
        counts: number of windows per dimension.
        pools: size of the windows per dimension.
    """
    space = len(counts)
    x, single = batched(input.t, space)
    plane = x.shape[2:]
    if any(c + p - 1 >= n for c, p, n in zip(counts, pools, plane, strict=True)):
        raise TorchError(f"pool size {list(pools)} too large relative to input {list(plane)}")
    noise = samples.t.reshape(*x.shape[:2], space)
    index = torch.zeros(*x.shape[:2], *[1] * (2 * space), dtype=torch.int64)
    for d in range(space):
        starts = _intervals(noise[..., space - 1 - d], plane[d], counts[d], pools[d])
        shape = [*x.shape[:2], *[1] * (2 * space)]
        shape[2 + d], shape[2 + space + d] = counts[d], pools[d]
        inside = (starts[..., None] + torch.arange(pools[d])).reshape(shape)
        index = index + inside * math.prod(plane[d + 1 :])
    windows = index.flatten(2 + space).flatten(2, 1 + space)
    values = x.flatten(2).gather(2, windows.flatten(2)).reshape(windows.shape)
    values = values.masked_fill(values.isnan(), -math.inf)  # THNN ignores NaN
    if bool((values == -math.inf).all(-1).any()):
        raise TorchError("Assertion `maxVal != -THInf' failed: all elements of a window are NaN or -infinity")
    best = values.argmax(-1, keepdim=True)
    y = values.gather(-1, best).reshape(*x.shape[:2], *counts)
    at = windows.gather(-1, best).reshape(y.shape) + 1
    output.assign(y[0] if single else y)
    indices.assign(at[0] if single else at)


@kernel("SpatialFractionalMaxPooling_updateOutput")
def spatial_fractional(
    input: Tensor, output: Tensor, ow: float, oh: float, pw: float, ph: float, indices: Positions, samples: Tensor
) -> None:
    _fractional(input, output, indices, samples, (int(oh), int(ow)), (int(ph), int(pw)))


@kernel("SpatialFractionalMaxPooling_updateGradInput")
def spatial_fractional_gradient(
    input: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    ow: float,
    oh: float,
    pw: float,
    ph: float,
    indices: Positions,
) -> None:
    scatter_gradient(grad_input, input, positions(indices) - 1, grad_output.t.reshape(indices.size), 2)


@kernel("VolumetricFractionalMaxPooling_updateOutput")
def volumetric_fractional(
    input: Tensor,
    output: Tensor,
    ot: float,
    ow: float,
    oh: float,
    pt: float,
    pw: float,
    ph: float,
    indices: Positions,
    samples: Tensor,
) -> None:
    counts, pools = (int(oh), int(ow), int(ot)), (int(ph), int(pw), int(pt))
    _fractional(input, output, indices, samples, counts, pools)


@kernel("VolumetricFractionalMaxPooling_updateGradInput")
def volumetric_fractional_gradient(
    input: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    ot: float,
    ow: float,
    oh: float,
    pt: float,
    pw: float,
    ph: float,
    indices: Positions,
) -> None:
    scatter_gradient(grad_input, input, positions(indices) - 1, grad_output.t, 3)
