"""Convolutions: configurations of PyTorch's convolution, and forward functions with gradients from autograd.

Both take (input, weight, …, *geometry) and accept single samples and batches. THNN's work buffers (finput, columns,
ones) are not changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from dpnn_bridge.lua.tensor import Tensor, TorchError
from dpnn_bridge.lua.thnn.registry import KERNELS, batched, kernel, pull_back, reordered

Forward = Callable[..., torch.Tensor]


def _check_planes(x: torch.Tensor, planes: int) -> None:
    """Raise unless a batch has so many input planes, which dimension 1 counts."""
    if x.shape[1] != planes:
        raise TorchError(f"Need input of dimension {x.dim()} and input.size[1] == {planes}, but got: {list(x.shape)}")


class _Derived:
    """A layer that is one forward function, of (batch, weight, bias or None, *options); PyTorch derives the gradients.

    Args:
        forward: that function.
        space: dimensions of a plane.
        for_input: the forward that updateGradInput inverts, where it is another one.
    """

    def __init__(self, forward: Forward, space: int, for_input: Forward | None = None) -> None:
        self._forward, self._for_input, self._space = forward, for_input or forward, space

    def output(self, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, *options: Any) -> torch.Tensor:
        return self._of_batch(self._forward, x, w, b, *options)

    def grad_input(self, x: torch.Tensor, g: torch.Tensor, w: torch.Tensor, *options: Any) -> torch.Tensor:
        return pull_back(lambda x: self._of_batch(self._for_input, x, w, None, *options), [x], g)[0]

    def grad_parameters(
        self, x: torch.Tensor, g: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, *options: Any
    ) -> Sequence[torch.Tensor]:
        """Return the gradients of parameters in the shapes of ``w`` and, if there is one, ``b``."""
        leaves = [torch.zeros_like(p) for p in (w, b) if p is not None]
        return pull_back(lambda w, b=None: self.output(x, w, b, *options), leaves, g)

    def _of_batch(self, forward: Forward, x: torch.Tensor, *others: Any) -> torch.Tensor:
        batch, single = batched(x, self._space)
        y = forward(batch, *others)
        return y.squeeze(0) if single else y


class _Convolution:
    """A layer that is PyTorch's convolution, forward and backward.

    Args:
        plan: of (input, weight, *geometry); the weight as the convolution takes it, then stride, padding, dilation,
            whether it is transposed, padding of the output.
        space: dimensions of a plane.
    """

    def __init__(self, plan: Callable[..., tuple[Any, ...]], space: int) -> None:
        self._plan, self._space = plan, space

    def output(self, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, *options: Any) -> torch.Tensor:
        batch, single = batched(x, self._space)
        kernel, stride, pad, dilation, transposed, extra = self._plan(x, w, *options)
        y = torch.convolution(batch, kernel, b, stride, pad, dilation, transposed, extra, 1)
        return y.squeeze(0) if single else y

    def grad_input(self, x: torch.Tensor, g: torch.Tensor, w: torch.Tensor, *options: Any) -> torch.Tensor:
        return self._gradients(x, g, w, (True, False, False), options)[0].reshape(x.shape)

    def grad_parameters(
        self, x: torch.Tensor, g: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, *options: Any
    ) -> Sequence[torch.Tensor]:
        gradients = self._gradients(x, g, w, (False, True, b is not None), options)
        return gradients[1].reshape(w.shape), gradients[2]

    def _gradients(
        self, x: torch.Tensor, g: torch.Tensor, w: torch.Tensor, wanted: tuple[bool, ...], options: tuple[Any, ...]
    ) -> Any:
        batch, _ = batched(x, self._space)
        kernel, stride, pad, dilation, transposed, extra = self._plan(x, w, *options)
        shape = [len(batch), kernel.shape[1 if transposed else 0]]
        for n, k, s, p, d, e in zip(batch.shape[2:], kernel.shape[2:], stride, pad, dilation, extra, strict=True):
            reach = d * (k - 1) + 1
            shape.append((n - 1) * s - 2 * p + reach + e if transposed else (n + 2 * p - reach) // s + 1)
        if g.numel() != math.prod(shape):
            raise TorchError(f"gradOutput has {list(g.shape)} elements, the output is {shape}")
        how = (stride, pad, dilation, transposed, extra, 1)
        return torch.ops.aten.convolution_backward(g.reshape(shape), batch, kernel, [shape[1]], *how, wanted)


def _declare(
    name: str, layer: _Derived | _Convolution, buffers: tuple[int, int, int], geometry: int, table: bool = False
) -> None:
    """Register the three kernels of a layer.

    Args:
        buffers: how many work buffers follow the parameters in updateOutput, updateGradInput, accGradParameters.
        geometry: how many numbers describe the layer.
        table: the buffer of the Map layers is their table of connections, and updateGradInput gets the bias as well.
    """
    for_output, for_input, for_parameters = buffers

    def options(args: tuple[Any, ...], skip: int) -> list[Any]:
        numbers = [int(v) if isinstance(v, float) else v for v in args[skip : skip + geometry]]
        return [args[skip - 1], *numbers] if table else numbers

    @kernel(f"{name}_updateOutput")
    def update_output(input: Tensor, output: Tensor, weight: Tensor, bias: Tensor | None, *args: Any) -> None:
        b = None if bias is None else bias.t
        output.assign(layer.output(input.t, weight.t, b, *options(args, for_output)))

    @kernel(f"{name}_updateGradInput")
    def update_grad_input(input: Tensor, grad_output: Tensor, grad_input: Tensor, weight: Tensor, *args: Any) -> None:
        numbers = options(args, for_input + table)
        grad_input.assign(layer.grad_input(input.t, grad_output.t, weight.t, *numbers))

    @kernel(f"{name}_accGradParameters")
    def acc_grad_parameters(
        input: Tensor, grad_output: Tensor, grad_weight: Tensor, grad_bias: Tensor | None, *args: Any
    ) -> None:
        numbers = options(args, for_parameters)
        scale = args[for_parameters + geometry] if len(args) > for_parameters + geometry else 1
        w, b = grad_weight.t, None if grad_bias is None else grad_bias.t
        gradients = layer.grad_parameters(input.t, grad_output.t, w, b, *numbers)
        w.add_(gradients[0], alpha=scale)
        if b is not None:
            b.add_(gradients[1], alpha=scale)


# ---- planes


def _conv2d(
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
    planes, height, width = x.shape[-3:]
    if planes != w.shape[1]:
        raise TorchError(f"Need input of dimension {x.dim()} and input.size[{x.dim() - 3}] == {w.shape[1]}")
    if height + 2 * ph < dil_h * (kh - 1) + 1 or width + 2 * pw < dil_w * (kw - 1) + 1:
        raise TorchError(f"Given input size: {[planes, height, width]}. Calculated output size is too small")
    return w, (dh, dw), (ph, pw), (dil_h, dil_w), False, (0, 0)


def _full_conv2d(
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


def _depth_wise_swapped(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, *geometry: int) -> torch.Tensor:
    """Exchange height and width as THNN does in updateOutput, but not in updateGradInput."""
    return _depth_wise(x.reshape(*x.shape[:-2], x.shape[-1], x.shape[-2]), w, b, *geometry)


def _depth_wise(
    x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, kw: int, kh: int, dw: int, dh: int, pw: int, ph: int
) -> torch.Tensor:
    """Convolve with weight nOutput x nInput x kH x kW: every input plane has its own nOutput kernels."""
    w = w.reshape(w.shape[0], -1, kh, kw)
    _check_planes(x, w.shape[1])
    kernels = w.transpose(0, 1).reshape(-1, 1, kh, kw)
    biases = None if b is None else b.reshape(w.shape[0], -1).t().reshape(-1)
    return F.conv2d(x, kernels, biases, (dh, dw), (ph, pw), groups=x.shape[1])


def _unfold_weight(name: str, at: int) -> None:
    """Have a kernel leave its weight nOutput x nInput x kH x kW, as THNN's do."""
    code = KERNELS[name]

    def run(*args: Any) -> None:
        weight, kw, kh = args[at], int(args[6]), int(args[7])
        if weight.dim == 2:
            weight.resize((weight.size[0], weight.size[1] // (kw * kh), kh, kw))
        code(*args)

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
    """Convolve with one kernel per position: weight oH x oW x nOutput x nInput x kH x kW (or flattened)."""
    _check_planes(x, math.prod(w.shape[3:] if w.dim() == 6 else w.shape[-1:]) // (kh * kw))
    patches = F.unfold(x, (kh, kw), padding=(ph, pw), stride=(dh, dw))
    planes = w.numel() // (out_h * out_w * patches.shape[1])
    kernels = w.reshape(out_h * out_w, planes, patches.shape[1])
    y = torch.einsum("lpk,nkl->npl", kernels, patches).reshape(len(x), planes, out_h, out_w)
    return y if b is None else y + b.reshape(1, planes, out_h, out_w)


_declare("SpatialConvolutionMM", _Convolution(_conv2d, 2), (2, 2, 2), 6)
_declare("SpatialDilatedConvolution", _Convolution(_conv2d, 2), (2, 1, 2), 8)
_declare("SpatialFullConvolution", _Convolution(_full_conv2d, 2), (2, 1, 2), 8)
_declare("SpatialDepthWiseConvolution", _Derived(_depth_wise_swapped, 2, for_input=_depth_wise), (2, 2, 2), 6)
for _name, _at in (("updateOutput", 2), ("updateGradInput", 3), ("accGradParameters", 2)):
    _unfold_weight(f"SpatialDepthWiseConvolution_{_name}", _at)
_declare("SpatialConvolutionLocal", _Derived(_local, 2), (2, 2, 2), 10)


# ---- planes joined by a table of connections (from, to), 1-based


def _dense(w: torch.Tensor, table: Tensor, rows: int, columns: int, from_first: bool) -> torch.Tensor:
    """Convert one kernel per connection to kernels rows x columns; connections that repeat add up."""
    pairs = table.t.long() - 1
    source, to = pairs[:, 0], pairs[:, 1]
    place = source * columns + to if from_first else to * columns + source
    flat = w.new_zeros(rows * columns, *w.shape[1:]).index_add(0, place, w)
    return flat.reshape(rows, columns, *w.shape[1:])


def _map(
    x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, table: Tensor, n_in: int, n_out: int, dw: int, dh: int
) -> torch.Tensor:
    return F.conv2d(x[:, :n_in], _dense(w, table, n_out, n_in, False), b, (dh, dw))


def _full_map(
    x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, table: Tensor, n_in: int, n_out: int, dw: int, dh: int
) -> torch.Tensor:
    return F.conv_transpose2d(x[:, :n_in], _dense(w, table, n_in, n_out, True), b, (dh, dw))


_declare("SpatialConvolutionMap", _Derived(_map, 2), (1, 1, 1), 4, table=True)
_declare("SpatialFullConvolutionMap", _Derived(_full_map, 2), (1, 1, 1), 4, table=True)


# ---- volumes


_ONES, _ZEROS = (1, 1, 1), (0, 0, 0)


def _volumetric(_x: torch.Tensor, w: torch.Tensor, *n: int) -> tuple[Any, ...]:
    return w, reordered(n[0:3]), reordered(n[3:6]), _ONES, False, _ZEROS


def _volumetric_mm(_x: torch.Tensor, w: torch.Tensor, *n: int) -> tuple[Any, ...]:
    return w.reshape(w.shape[0], -1, *reordered(n[0:3])), reordered(n[3:6]), reordered(n[6:9]), _ONES, False, _ZEROS


def _volumetric_dilated(_x: torch.Tensor, w: torch.Tensor, *n: int) -> tuple[Any, ...]:
    return (
        w.reshape(w.shape[0], -1, *reordered(n[0:3])),
        reordered(n[3:6]),
        reordered(n[6:9]),
        reordered(n[9:12]),
        False,
        _ZEROS,
    )


def _volumetric_full(_x: torch.Tensor, w: torch.Tensor, *n: int) -> tuple[Any, ...]:
    return w, reordered(n[0:3]), reordered(n[3:6]), _ONES, True, reordered(n[6:9])


_declare("VolumetricConvolution", _Convolution(_volumetric, 3), (2, 1, 2), 6)
_declare("VolumetricConvolutionMM", _Convolution(_volumetric_mm, 3), (1, 2, 1), 9)
_declare("VolumetricDilatedConvolution", _Convolution(_volumetric_dilated, 3), (2, 1, 2), 12)
_declare("VolumetricFullConvolution", _Convolution(_volumetric_full, 3), (2, 2, 2), 9)


# ---- sequences: frames x features


def _temporal(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, kw: int, dw: int) -> torch.Tensor:
    """Convolve with weight nOutput x (kW * nInput), one row over kW concatenated frames."""
    if x.shape[1] < kw:
        raise TorchError(f"input sequence smaller than kernel size, but got {x.shape[1]} frames, kernel {kw}")
    frames = x.unfold(1, kw, dw).transpose(2, 3).flatten(2)
    return F.linear(frames, w, b)


def _row(
    x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, kw: int, dw: int, pad: int, feature_first: bool
) -> torch.Tensor:
    """Convolve each feature along time on its own; THNN reads no padding although it counts it."""
    x = x if feature_first else x.transpose(1, 2)
    _check_planes(x, w.numel() // kw)
    y = F.conv1d(F.pad(x, (0, 2 * pad)), w.reshape(-1, 1, kw), b, dw, groups=x.shape[1])
    return y if feature_first else y.transpose(1, 2)


_declare("TemporalConvolution", _Derived(_temporal, 1), (0, 0, 0), 2)
_declare("TemporalRowConvolution", _Derived(_row, 1), (2, 2, 2), 4)


# ---- subsampling: a weight and a bias per plane, applied to the sum over a window


def _sub2d(
    x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, kw: int, kh: int, dw: int, dh: int
) -> torch.Tensor:
    if x.shape[1] > w.numel():
        raise TorchError("bad argument #2 (invalid number of input planes)")
    w = w.reshape(-1)[: x.shape[1]]  # files of 2011 contain one for each element of the window; the first ones are read
    y = F.avg_pool2d(x, (kh, kw), (dh, dw)) * (kw * kh) * w.reshape(1, -1, 1, 1)
    return y if b is None else y + b.reshape(1, -1, 1, 1)


def _sub1d(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, kw: int, dw: int) -> torch.Tensor:
    if x.shape[2] != w.numel():
        raise TorchError(f"bad argument #2 (invalid input frame size.  Got: {x.shape[2]}, Expected: {w.numel()})")
    y = x.unfold(1, kw, dw).sum(-1) * w
    return y if b is None else y + b


_declare("SpatialSubSampling", _Derived(_sub2d, 2), (0, 0, 0), 4)
_declare("TemporalSubSampling", _Derived(_sub1d, 1), (0, 0, 0), 2)
