"""Convolutions. Each is one forward function, linear in its weights; gradients come by PyTorch.

A forward takes (input, weight, bias or None, *geometry) and accepts single samples and batches alike. Work buffers that
THNN keeps (finput, columns, ones) are left alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from dpnn_bridge.lua.tensor import Tensor, TorchError
from dpnn_bridge.lua.thnn.registry import kernel, pull_back

Forward = Callable[..., torch.Tensor]


def _batched(x: torch.Tensor, dims: int) -> tuple[torch.Tensor, bool]:
    """With a batch dimension, and whether it was added."""
    if x.dim() == dims:
        return x, False
    if x.dim() != dims - 1:
        raise TorchError(f"{dims - 1}D or {dims}D (batch mode) tensor expected for input, but got {list(x.shape)}")
    return x.unsqueeze(0), True


def _declare(
    name: str,
    forward: Forward,
    buffers: tuple[int, int, int],
    geometry: int,
    keep_weight: bool = False,
    backward: Forward | None = None,
) -> None:
    """The three kernels of a layer.

    Args:
        buffers: how many work buffers follow the parameters in updateOutput, updateGradInput, accGradParameters.
        geometry: how many numbers describe the layer.
        keep_weight: updateGradInput gets the bias as well (the Map layers).
        backward: the forward that updateGradInput inverts, where it is another one.
    """
    for_output, for_input, for_parameters = buffers

    def numbers(args: tuple[Any, ...], skip: int) -> list[Any]:
        return [int(v) if isinstance(v, float) else v for v in args[skip : skip + geometry]]

    @kernel(f"{name}_updateOutput")
    def update_output(input: Tensor, output: Tensor, weight: Tensor, bias: Tensor | None, *args: Any) -> None:
        b = None if bias is None else bias.t
        output.assign(forward(input.t, weight.t, b, *_views(args[:for_output]), *numbers(args, for_output)))

    @kernel(f"{name}_updateGradInput")
    def update_grad_input(input: Tensor, grad_output: Tensor, grad_input: Tensor, weight: Tensor, *args: Any) -> None:
        skip = for_input + keep_weight
        extra = _views(args[keep_weight:skip])
        options = numbers(args, skip)
        run = backward or forward
        (g,) = pull_back(lambda x: run(x, weight.t, None, *extra, *options), [input.t], grad_output.t)
        grad_input.assign(g)

    @kernel(f"{name}_accGradParameters")
    def acc_grad_parameters(
        input: Tensor, grad_output: Tensor, grad_weight: Tensor, grad_bias: Tensor | None, *args: Any
    ) -> None:
        extra, options = _views(args[:for_parameters]), numbers(args, for_parameters)
        scale = args[for_parameters + geometry] if len(args) > for_parameters + geometry else 1
        leaves = [torch.zeros_like(grad_weight.t)]
        if grad_bias is not None:
            leaves.append(torch.zeros_like(grad_bias.t))
        gradients = pull_back(lambda w, b=None: forward(input.t, w, b, *extra, *options), leaves, grad_output.t)
        grad_weight.t.add_(gradients[0], alpha=scale)
        if grad_bias is not None:
            grad_bias.t.add_(gradients[1], alpha=scale)


def _views(tensors: tuple[Any, ...]) -> list[Tensor]:
    return list(tensors)


def _plain(forward: Forward) -> Forward:
    """Ignore the work buffers, which are tensors; the rest are numbers."""

    def run(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, *args: Any) -> torch.Tensor:
        return forward(x, w, b, *[a for a in args if not isinstance(a, Tensor)])

    return run


# ---- planes


def _conv2d(
    x: torch.Tensor,
    w: torch.Tensor,
    b: torch.Tensor | None,
    kw: int,
    kh: int,
    dw: int,
    dh: int,
    pw: int,
    ph: int,
    dil_w: int = 1,
    dil_h: int = 1,
) -> torch.Tensor:
    w = w.reshape(w.shape[0], -1, kh, kw)
    x, single = _batched(x, 4)
    if x.shape[1] != w.shape[1]:
        raise TorchError(f"Need input of dimension {4 - single} and input.size[{1 - single}] == {w.shape[1]}")
    if x.shape[2] + 2 * ph < dil_h * (kh - 1) + 1 or x.shape[3] + 2 * pw < dil_w * (kw - 1) + 1:
        raise TorchError(f"Given input size: {list(x.shape[1:])}. Calculated output size is too small")
    y = F.conv2d(x, w, b, (dh, dw), (ph, pw), (dil_h, dil_w))
    return y.squeeze(0) if single else y


def _full_conv2d(
    x: torch.Tensor,
    w: torch.Tensor,
    b: torch.Tensor | None,
    kw: int,
    kh: int,
    dw: int,
    dh: int,
    pw: int,
    ph: int,
    adj_w: int = 0,
    adj_h: int = 0,
) -> torch.Tensor:
    x, single = _batched(x, 4)
    y = F.conv_transpose2d(x, w, b, (dh, dw), (ph, pw), (adj_h, adj_w))
    return y.squeeze(0) if single else y


def _depth_wise_swapped(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, *geometry: int) -> torch.Tensor:
    """THNN takes height for width here (not in updateGradInput), so that it reads a plane's rows as columns long."""
    return _depth_wise(x.reshape(*x.shape[:-2], x.shape[-1], x.shape[-2]), w, b, *geometry)


def _depth_wise(
    x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, kw: int, kh: int, dw: int, dh: int, pw: int, ph: int
) -> torch.Tensor:
    """Weight nOutput x nInput x kH x kW: every input plane has its own nOutput kernels."""
    x, single = _batched(x, 4)
    w = w.reshape(w.shape[0], -1, kh, kw)
    kernels = w.transpose(0, 1).reshape(-1, 1, kh, kw)
    biases = None if b is None else b.reshape(w.shape[0], -1).t().reshape(-1)
    y = F.conv2d(x, kernels, biases, (dh, dw), (ph, pw), groups=x.shape[1])
    return y.squeeze(0) if single else y


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
    """A kernel of its own at each place: weight oH x oW x nOutput x nInput x kH x kW (or flattened)."""
    x, single = _batched(x, 4)
    patches = F.unfold(x, (kh, kw), padding=(ph, pw), stride=(dh, dw))
    planes = w.numel() // (out_h * out_w * patches.shape[1])
    kernels = w.reshape(out_h * out_w, planes, patches.shape[1])
    y = torch.einsum("lpk,nkl->npl", kernels, patches).reshape(len(x), planes, out_h, out_w)
    if b is not None:
        y = y + b.reshape(1, planes, out_h, out_w)
    return y.squeeze(0) if single else y


_declare("SpatialConvolutionMM", _plain(_conv2d), (2, 2, 2), 6)
_declare("SpatialDilatedConvolution", _plain(_conv2d), (2, 1, 2), 8)
_declare("SpatialFullConvolution", _plain(_full_conv2d), (2, 1, 2), 8)
_declare("SpatialDepthWiseConvolution", _plain(_depth_wise_swapped), (2, 2, 2), 6, backward=_plain(_depth_wise))
_declare("SpatialConvolutionLocal", _plain(_local), (2, 2, 2), 10)


# ---- planes joined by a table of connections (from, to), 1-based


def _dense(w: torch.Tensor, table: Tensor, rows: int, columns: int, from_first: bool) -> torch.Tensor:
    """One kernel per connection -> kernels rows x columns; connections that repeat add up."""
    pairs = table.t.long() - 1
    source, to = pairs[:, 0], pairs[:, 1]
    place = source * columns + to if from_first else to * columns + source
    flat = w.new_zeros(rows * columns, *w.shape[1:]).index_add(0, place, w)
    return flat.reshape(rows, columns, *w.shape[1:])


def _map(
    x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, table: Tensor, n_in: int, n_out: int, dw: int, dh: int
) -> torch.Tensor:
    x, single = _batched(x, 4)
    y = F.conv2d(x[:, :n_in], _dense(w, table, n_out, n_in, False), b, (dh, dw))
    return y.squeeze(0) if single else y


def _full_map(
    x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, table: Tensor, n_in: int, n_out: int, dw: int, dh: int
) -> torch.Tensor:
    x, single = _batched(x, 4)
    y = F.conv_transpose2d(x[:, :n_in], _dense(w, table, n_in, n_out, True), b, (dh, dw))
    return y.squeeze(0) if single else y


_declare("SpatialConvolutionMap", _map, (1, 1, 1), 4, keep_weight=True)
_declare("SpatialFullConvolutionMap", _full_map, (1, 1, 1), 4, keep_weight=True)


# ---- volumes


def _conv3d(
    x: torch.Tensor,
    w: torch.Tensor,
    b: torch.Tensor | None,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    pad: tuple[int, ...],
    dilation: tuple[int, ...] = (1, 1, 1),
) -> torch.Tensor:
    """All sizes as (T, H, W)."""
    x, single = _batched(x, 5)
    y = F.conv3d(x, w.reshape(w.shape[0], -1, *size), b, stride, pad, dilation)
    return y.squeeze(0) if single else y


def _thw(values: tuple[int, ...]) -> tuple[int, int, int]:
    """THNN lists T, W, H; PyTorch T, H, W."""
    t, w, h = values
    return t, h, w


def _volumetric(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, *n: int) -> torch.Tensor:
    return _conv3d(x, w, b, tuple(w.shape[2:]), _thw(n[0:3]), _thw(n[3:6]))


def _volumetric_mm(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, *n: int) -> torch.Tensor:
    return _conv3d(x, w, b, _thw(n[0:3]), _thw(n[3:6]), _thw(n[6:9]))


def _volumetric_dilated(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, *n: int) -> torch.Tensor:
    return _conv3d(x, w, b, _thw(n[0:3]), _thw(n[3:6]), _thw(n[6:9]), _thw(n[9:12]))


def _volumetric_full(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, *n: int) -> torch.Tensor:
    x, single = _batched(x, 5)
    y = F.conv_transpose3d(x, w, b, _thw(n[0:3]), _thw(n[3:6]), _thw(n[6:9]))
    return y.squeeze(0) if single else y


_declare("VolumetricConvolution", _plain(_volumetric), (2, 1, 2), 6)
_declare("VolumetricConvolutionMM", _plain(_volumetric_mm), (1, 2, 1), 9)
_declare("VolumetricDilatedConvolution", _plain(_volumetric_dilated), (2, 1, 2), 12)
_declare("VolumetricFullConvolution", _plain(_volumetric_full), (2, 2, 2), 9)


# ---- sequences: frames x features


def _temporal(
    x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, kw: int, dw: int, _in: int = 0, _out: int = 0
) -> torch.Tensor:
    """Weight nOutput x (kW * nInput), one row over kW frames laid end to end."""
    x, single = _batched(x, 3)
    if x.shape[1] < kw:
        raise TorchError(f"input sequence smaller than kernel size, but got {x.shape[1]} frames, kernel {kw}")
    frames = x.unfold(1, kw, dw).transpose(2, 3).flatten(2)
    y = F.linear(frames, w, b)
    return y.squeeze(0) if single else y


def _row(
    x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, kw: int, dw: int, pad: int, feature_first: bool
) -> torch.Tensor:
    """Each feature convolved along time on its own; THNN reads no padding although it counts it."""
    x, single = _batched(x, 3)
    x = x if feature_first else x.transpose(1, 2)
    y = F.conv1d(F.pad(x, (0, 2 * pad)), w.reshape(-1, 1, kw), b, dw, groups=x.shape[1])
    y = y if feature_first else y.transpose(1, 2)
    return y.squeeze(0) if single else y


@kernel("TemporalConvolution_updateOutput")
def temporal(input: Tensor, output: Tensor, weight: Tensor, bias: Tensor, kw: float, dw: float, *_: float) -> None:
    output.assign(_temporal(input.t, weight.t, bias.t, int(kw), int(dw)))


@kernel("TemporalConvolution_updateGradInput")
def temporal_gradient(
    input: Tensor, grad_output: Tensor, grad_input: Tensor, weight: Tensor, kw: float, dw: float
) -> None:
    (g,) = pull_back(lambda x: _temporal(x, weight.t, None, int(kw), int(dw)), [input.t], grad_output.t)
    grad_input.assign(g)


@kernel("TemporalConvolution_accGradParameters")
def temporal_parameters(
    input: Tensor, grad_output: Tensor, grad_weight: Tensor, grad_bias: Tensor, kw: float, dw: float, scale: float = 1
) -> None:
    leaves = [torch.zeros_like(grad_weight.t), torch.zeros_like(grad_bias.t)]
    w, b = pull_back(lambda w, b: _temporal(input.t, w, b, int(kw), int(dw)), leaves, grad_output.t)
    grad_weight.t.add_(w, alpha=scale)
    grad_bias.t.add_(b, alpha=scale)


_declare("TemporalRowConvolution", _plain(_row), (2, 2, 2), 4)


# ---- subsampling: a weight and a bias per plane, applied to the sum over a window


def _sub2d(
    x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, kw: int, kh: int, dw: int, dh: int
) -> torch.Tensor:
    x, single = _batched(x, 4)
    w = w.reshape(-1)[
        : x.shape[1]
    ]  # files of 2011 hold a number for each element of the window; the first ones are read
    y = F.avg_pool2d(x, (kh, kw), (dh, dw)) * (kw * kh) * w.reshape(1, -1, 1, 1)
    y = y if b is None else y + b.reshape(1, -1, 1, 1)
    return y.squeeze(0) if single else y


def _sub1d(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, kw: int, dw: int, _in: int = 0) -> torch.Tensor:
    x, single = _batched(x, 3)
    y = x.unfold(1, kw, dw).sum(-1) * w
    y = y if b is None else y + b
    return y.squeeze(0) if single else y


_declare("SpatialSubSampling", _sub2d, (0, 0, 0), 4)


@kernel("TemporalSubSampling_updateOutput")
def temporal_sub(input: Tensor, output: Tensor, weight: Tensor, bias: Tensor, kw: float, dw: float, *_: float) -> None:
    output.assign(_sub1d(input.t, weight.t, bias.t, int(kw), int(dw)))


@kernel("TemporalSubSampling_updateGradInput")
def temporal_sub_gradient(
    input: Tensor, grad_output: Tensor, grad_input: Tensor, weight: Tensor, kw: float, dw: float
) -> None:
    (g,) = pull_back(lambda x: _sub1d(x, weight.t, None, int(kw), int(dw)), [input.t], grad_output.t)
    grad_input.assign(g)


@kernel("TemporalSubSampling_accGradParameters")
def temporal_sub_parameters(
    input: Tensor, grad_output: Tensor, grad_weight: Tensor, grad_bias: Tensor, kw: float, dw: float, scale: float = 1
) -> None:
    leaves = [torch.zeros_like(grad_weight.t), torch.zeros_like(grad_bias.t)]
    w, b = pull_back(lambda w, b: _sub1d(input.t, w, b, int(kw), int(dw)), leaves, grad_output.t)
    grad_weight.t.add_(w, alpha=scale)
    grad_bias.t.add_(b, alpha=scale)
