"""Declare the kernels of convolutions and subsampling, with the classes of :mod:`dpnn_bridge.lua.thnn.layer`.

Functions ``_plan_…`` are arguments ``plan`` of :class:`~dpnn_bridge.lua.thnn.layer.Convolution`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

from dpnn_bridge.lua.tensor import Tensor, TorchError
from dpnn_bridge.lua.thnn.layer import Convolution, Derived, Unfolded, declare, extended, overhang
from dpnn_bridge.lua.thnn.registry import KERNELS, reordered


def _check_planes(x: torch.Tensor, planes: int) -> None:
    """Raise an error unless the batch has ``planes`` channels."""
    if x.shape[1] != planes:
        raise TorchError(f"Need input of dimension {x.dim()} and input.size[1] == {planes}, but got: {list(x.shape)}")


# ---- 2-D


def _plan_conv2d(
    x: torch.Tensor,
    w: torch.Tensor,
    kw: int,
    kh: int,
    dw: int,
    dh: int,
    pw: int,
    ph: int,
    dil_w: int = 1,
    dil_h: int = 1,
) -> tuple[Any, ...]:
    w = w.reshape(w.shape[0], -1, kh, kw)
    _check_planes(x, w.shape[1])
    return w, (dh, dw), (ph, pw), (dil_h, dil_w), False, (0, 0)


def _plan_full_conv2d(
    _x: torch.Tensor,
    w: torch.Tensor,
    _kw: int,
    _kh: int,
    dw: int,
    dh: int,
    pw: int,
    ph: int,
    adj_w: int = 0,
    adj_h: int = 0,
) -> tuple[Any, ...]:
    return w, (dh, dw), (ph, pw), (1, 1), True, (adj_h, adj_w)


def _depth_wise_swapped(
    x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, kw: int, kh: int, dw: int, dh: int, pw: int, ph: int
) -> torch.Tensor:
    """Convolve after reading the memory of each H x W channel as W x H, as THNN does in updateOutput only."""
    overhang(x, w.reshape(w.shape[0], -1, kh, kw), (dh, dw), (ph, pw))  # raises an error if there is no window
    return _depth_wise(x.reshape(*x.shape[:-2], x.shape[-1], x.shape[-2]), w, b, kw, kh, dw, dh, pw, ph)


def _depth_wise(
    x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, kw: int, kh: int, dw: int, dh: int, pw: int, ph: int
) -> torch.Tensor:
    """Convolve each input channel with its own nOutput kernels; the weight is nOutput x nInput x kH x kW."""
    w = w.reshape(w.shape[0], -1, kh, kw)
    _check_planes(x, w.shape[1])
    kernels = w.transpose(0, 1).reshape(-1, 1, kh, kw)
    biases = None if b is None else b.reshape(w.shape[0], -1).t().reshape(-1)
    if ph or pw:  # without padding, THNN would read beyond the input; here conv2d raises an error
        x = extended(x, w, (dh, dw), (ph, pw), (1, 1))
    return F.conv2d(x, kernels, biases, (dh, dw), (ph, pw), groups=x.shape[1])


def _unfold_weight(name: str, at: int) -> None:
    """Let a THNN function resize its weight, argument ``at``, to nOutput x nInput x kH x kW, as THNN does."""
    code = KERNELS[name]

    def run(*args: Any) -> None:
        weight, kw, kh = args[at], int(args[6]), int(args[7])
        if weight.dim == 2:
            weight.resize((weight.size[0], weight.size[1] // (kw * kh), kh, kw))
        code(*args)

    KERNELS[name] = run


def _transpose_result(name: str, at: int) -> None:
    """Let a kernel of TemporalRowConvolution return its result, argument ``at``, as THNN does: as a transposed view.

    The frames are adjacent in memory, unless the features are the first dimension.
    """
    code = KERNELS[name]

    def run(*args: Any) -> None:
        code(*args)
        result, feature_first = args[at], args[9]
        if not feature_first:
            values, (*_, frames, features) = result.t.clone(), result.size
            result.resize(result.size, (frames * features, 1, frames)[-result.dim :])
            result.write(values)

    KERNELS[name] = run


def _local(
    x: torch.Tensor,
    w: torch.Tensor,
    b: torch.Tensor | None,
    kw: int,
    kh: int,
    dw: int,
    dh: int,
    pw: int,
    ph: int,
    _in_w: int,
    _in_h: int,
    out_w: int,
    out_h: int,
) -> torch.Tensor:
    """Convolve with a kernel per output position; the weight is oH x oW x nOutput x nInput x kH x kW or flattened."""
    _check_planes(x, math.prod(w.shape[3:] if w.dim() == 6 else w.shape[-1:]) // (kh * kw))
    patches = F.unfold(x, (kh, kw), padding=(ph, pw), stride=(dh, dw))
    planes = w.numel() // (out_h * out_w * patches.shape[1])
    kernels = w.reshape(out_h * out_w, planes, patches.shape[1])
    y = torch.einsum("lpk,nkl->npl", kernels, patches).reshape(len(x), planes, out_h, out_w)
    return y if b is None else y + b.reshape(1, planes, out_h, out_w)


declare("SpatialConvolutionMM", Unfolded(_plan_conv2d, 2), (2, 2, 2), 6)
declare("SpatialDilatedConvolution", Convolution(_plan_conv2d, 2), (2, 1, 2), 8)
declare("SpatialFullConvolution", Convolution(_plan_full_conv2d, 2), (2, 1, 2), 8)
_swapped = Derived(_depth_wise_swapped, 2, for_input=_depth_wise, checks=True)
declare("SpatialDepthWiseConvolution", _swapped, (2, 2, 2), 6)
for _name, _at in (("updateOutput", 2), ("updateGradInput", 3), ("accGradParameters", 2)):
    _unfold_weight(f"SpatialDepthWiseConvolution_{_name}", _at)
declare("SpatialConvolutionLocal", Derived(_local, 2), (2, 2, 2), 10)


# ---- 2-D with a table of connections (input channel, output channel), 1-based


def _dense(w: torch.Tensor, table: Tensor, rows: int, columns: int, rows_are_inputs: bool) -> torch.Tensor:
    """Convert one kernel per connection to a dense weight, rows x columns x ...; repeated connections are summed."""
    pairs = table.t.long() - 1
    source, target = pairs[:, 0], pairs[:, 1]
    index = source * columns + target if rows_are_inputs else target * columns + source
    flat = w.new_zeros(rows * columns, *w.shape[1:]).index_add(0, index, w)
    return flat.reshape(rows, columns, *w.shape[1:])


def _map(
    x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, table: Tensor, n_in: int, n_out: int, dw: int, dh: int
) -> torch.Tensor:
    return F.conv2d(x[:, :n_in], _dense(w, table, n_out, n_in, False), b, (dh, dw))


def _full_map(
    x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, table: Tensor, n_in: int, n_out: int, dw: int, dh: int
) -> torch.Tensor:
    return F.conv_transpose2d(x[:, :n_in], _dense(w, table, n_in, n_out, True), b, (dh, dw))


declare("SpatialConvolutionMap", Derived(_map, 2), (1, 1, 1), 4, table=True)
declare("SpatialFullConvolutionMap", Derived(_full_map, 2, batches=False), (1, 1, 1), 4, table=True)


# ---- 3-D


_ONES, _ZEROS = (1, 1, 1), (0, 0, 0)


def _plan_volumetric(x: torch.Tensor, w: torch.Tensor, *n: int) -> tuple[Any, ...]:
    if any(size < k for size, k in zip(x.shape[2:], w.shape[2:], strict=True)):
        raise TorchError("conv3Dmv : Input image is smaller than kernel")
    return w, reordered(n[0:3]), reordered(n[3:6]), _ONES, False, _ZEROS


def _plan_volumetric_mm(_x: torch.Tensor, w: torch.Tensor, *n: int) -> tuple[Any, ...]:
    return w.reshape(w.shape[0], -1, *reordered(n[0:3])), reordered(n[3:6]), reordered(n[6:9]), _ONES, False, _ZEROS


def _plan_volumetric_dilated(_x: torch.Tensor, w: torch.Tensor, *n: int) -> tuple[Any, ...]:
    return (
        w.reshape(w.shape[0], -1, *reordered(n[0:3])),
        reordered(n[3:6]),
        reordered(n[6:9]),
        reordered(n[9:12]),
        False,
        _ZEROS,
    )


def _plan_volumetric_full(_x: torch.Tensor, w: torch.Tensor, *n: int) -> tuple[Any, ...]:
    return w, reordered(n[0:3]), reordered(n[3:6]), _ONES, True, reordered(n[6:9])


declare("VolumetricConvolution", Convolution(_plan_volumetric, 3), (2, 1, 2), 6)
declare("VolumetricConvolutionMM", Unfolded(_plan_volumetric_mm, 3), (1, 2, 1), 9)
declare("VolumetricDilatedConvolution", Convolution(_plan_volumetric_dilated, 3), (2, 1, 2), 12)
declare("VolumetricFullConvolution", Convolution(_plan_volumetric_full, 3), (2, 2, 2), 9)


# ---- 1-D: frames x features


def _temporal(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, kw: int, dw: int) -> torch.Tensor:
    """Convolve frames; the weight is nOutput x (kW * nInput), for kW concatenated frames."""
    if x.shape[1] < kw:
        raise TorchError(f"input sequence smaller than kernel size, but got {x.shape[1]} frames, kernel {kw}")
    frames = x.unfold(1, kw, dw).transpose(2, 3).flatten(2)
    return F.linear(frames, w, b)


def _row(
    x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, kw: int, dw: int, pad: int, feature_first: bool
) -> torch.Tensor:
    """Convolve each feature along time. THNN counts the padding of both sides, but reads zeros at the end only."""
    x = x if feature_first else x.transpose(1, 2)
    _check_planes(x, w.numel() // kw)
    y = F.conv1d(F.pad(x, (0, 2 * pad)), w.reshape(-1, 1, kw), b, dw, groups=x.shape[1])
    return y if feature_first else y.transpose(1, 2)


declare("TemporalConvolution", Derived(_temporal, 1), (0, 0, 0), 2)
declare("TemporalRowConvolution", Derived(_row, 1, checks=True), (2, 2, 2), 4)
_transpose_result("TemporalRowConvolution_updateOutput", 1)
_transpose_result("TemporalRowConvolution_updateGradInput", 2)


# ---- subsampling: a weight and a bias per channel, applied to the sum over a window


def _sub2d(
    x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, kw: int, kh: int, dw: int, dh: int
) -> torch.Tensor:
    if x.shape[1] > w.numel():
        raise TorchError("bad argument #2 (invalid number of input planes)")
    # files of 2011 have a weight per window element; THNN reads the first numbers in memory
    w = w.reshape(-1)[: x.shape[1]]
    y = F.avg_pool2d(x, (kh, kw), (dh, dw)) * (kw * kh) * w.reshape(1, -1, 1, 1)
    return y if b is None else y + b.reshape(1, -1, 1, 1)


def _sub1d(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, kw: int, dw: int) -> torch.Tensor:
    if x.shape[2] != w.numel():
        raise TorchError(f"bad argument #2 (invalid input frame size.  Got: {x.shape[2]}, Expected: {w.numel()})")
    y = x.unfold(1, kw, dw).sum(-1) * w
    return y if b is None else y + b


declare("SpatialSubSampling", Derived(_sub2d, 2), (0, 0, 0), 4)
declare("TemporalSubSampling", Derived(_sub1d, 1, checks=True, batches=False), (0, 0, 0), 2)
