"""Kernels of average pooling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from dpnn_bridge.lua.tensor import Tensor, TorchError
from dpnn_bridge.lua.thnn.pooling import check_pads
from dpnn_bridge.lua.thnn.registry import batched, kernel, reordered
from dpnn_bridge.lua.thnn.windows import averages_with_last, last_windows, without_last


def _check_nothing(*_: Any) -> None:
    pass


def _average(
    name: str,
    operator: str,
    space: int,
    geometry: Callable[..., tuple[Any, ...]],
    check: Callable[..., None] = _check_nothing,
) -> None:
    """Register kernels that call PyTorch's ``operator`` and ``operator_backward``.

    Args:
        name: name of the layer.
        operator: name in ``torch.ops.aten``; the function is called as ``operator(x, *geometry)``.
        space: number of spatial dimensions.
        geometry: converts THNN's arguments to those of ``operator``.
        check: raises an error for an unsupported input or arguments.
    """
    forward, backward = (getattr(torch.ops.aten, operator + suffix) for suffix in ("", "_backward"))

    def partial_windows(x: torch.Tensor, *options: Any) -> list[int]:
        """Return the result of :func:`last_windows` for the input; for adaptive layers, -1 for each dimension."""
        if len(options) < 4:  # an adaptive layer
            return [-1] * space
        size, stride, pad, ceil, *_ = options
        return last_windows(x.shape[2:], size, stride, pad, (1,) * space, ceil)

    @kernel(f"{name}_updateOutput")
    def update_output(input: Tensor, output: Tensor, *numbers: Any) -> None:
        batch, single = batched(input.t, space)
        check(batch, *numbers)
        try:
            y = forward(batch, *geometry(*numbers))
        except RuntimeError as error:
            raise TorchError(f"Given input size: {input.shape_text}. {error}") from None
        y = averages_with_last(y, partial_windows(batch, *geometry(*numbers)))
        output.assign(y[0] if single else y)

    @kernel(f"{name}_updateGradInput")
    def update_grad_input(input: Tensor, grad_output: Tensor, grad_input: Tensor, *numbers: Any) -> None:
        x, g = batched(input.t, space)[0], batched(grad_output.t, space)[0]
        check(x, *numbers)
        g = g[: len(x)]  # THNN ignores further samples
        if g.shape[:2] != x.shape[:2]:  # PyTorch does not check this for adaptive layers, and crashes
            raise TorchError(f"gradOutput has shape {grad_output.shape_text}, which does not fit {input.shape_text}")
        try:
            result = backward(without_last(g, partial_windows(x, *geometry(*numbers))), x, *geometry(*numbers))
        except RuntimeError as error:
            raise TorchError(f"Given gradOutput size: {grad_output.shape_text}. {error}") from None
        grad_input.assign(result.reshape(input.size))


def _average2d(*n: Any) -> tuple[Any, ...]:
    size, stride, pad = (reordered(n[k : k + 2]) for k in (0, 2, 4))
    check_pads(size, pad)
    return size, stride, pad, n[6], n[7], None


def _average3d(*n: Any) -> tuple[Any, ...]:
    size, stride = reordered(n[0:3]), reordered(n[3:6])
    if len(n) == 6:  # older versions of nn have neither padding, ceil_mode nor count_include_pad
        n = (*n, 0, 0, 0, False, True)
    pad = reordered(n[6:9])
    check_pads(size, pad)
    return size, stride, pad, n[9], n[10], None


def _check_volume(x: torch.Tensor, *n: Any) -> None:
    size = reordered(n[0:3])
    if any(m < k for m, k in zip(x.shape[2:], size, strict=True)):
        raise TorchError(f"input image {list(x.shape[2:])} smaller than kernel size {list(size)}")


_average("SpatialAveragePooling", "avg_pool2d", 2, _average2d)
_average("VolumetricAveragePooling", "avg_pool3d", 3, _average3d, _check_volume)
# updateGradInput has no arguments: the output size is that of the gradient
_average("SpatialAdaptiveAveragePooling", "_adaptive_avg_pool2d", 2, lambda *n: (reordered(n),) if n else ())
