"""Compute the poolings that ``torch.onnx`` exports incorrectly with other operations.

It ignores ``divisor_override``. Of an adaptive average pooling, it exports windows that are right only for input sizes
with some remainders.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

#: function -> number of pooled dimensions
_POOLINGS: dict[Any, int] = {F.avg_pool2d: 2, F.avg_pool3d: 3}
_ADAPTIVE: dict[Any, int] = {F.adaptive_avg_pool1d: 1, F.adaptive_avg_pool2d: 2, F.adaptive_avg_pool3d: 3}


def _arguments(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> None:
    """Define the signature of both poolings, which are built-in functions without one."""


def _adaptive_arguments(input: Tensor, output_size: Any) -> None:
    """Define the signature of adaptive poolings."""


_SIGNATURE, _ADAPTIVE_SIGNATURE = inspect.signature(_arguments), inspect.signature(_adaptive_arguments)


def _each(value: Any, count: int) -> list[Any]:
    """Return a size for each dimension."""
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return values * count if len(values) == 1 else values


def _missing(size: Any, kernel: int, stride: int, padding: int) -> Any:
    """Return the number of elements behind the padded input that the windows of ``ceil_mode`` contain."""
    padded = size + 2 * padding
    # no window begins behind the input and its left padding; ONNX rounds quotients of negative numbers to zero
    windows = torch.sym_min((padded - kernel + stride - 1) // stride + 1, (size + padding + stride - 1) // stride)
    return torch.sym_max((windows - 1) * stride + kernel - padded, 0)


def _average(pool: Callable[..., Tensor], count: int, given: dict[str, Any]) -> Tensor:
    """Compute the sums as averages over whole windows: zeros replace the elements behind the input."""
    input, divisor = given["input"], given["divisor_override"]
    kernel, padding = _each(given["kernel_size"], count), _each(given["padding"], count)
    stride = _each(given["stride"], count) if given["stride"] else kernel
    if given["ceil_mode"]:
        missing = map(_missing, input.shape[-count:], kernel, stride, padding)
        input = F.pad(input, [n for m in reversed(list(missing)) for n in (0, m)])
    return pool(input, kernel, stride, padding) * (math.prod(kernel) / divisor)


def _window_weights(count: int, size: Any, like: Tensor) -> Tensor:
    """Return a matrix whose product with ``size`` elements contains the averages of ``count`` adaptive windows."""
    window = torch.arange(count, device=like.device)[:, None]
    first, end = window * size // count, ((window + 1) * size + count - 1) // count
    element = torch.arange(size, device=like.device)
    return ((element >= first) & (element < end)).to(like.dtype) / (end - first).to(like.dtype)


def _adaptive_average(input: Tensor, counts: list[int | None]) -> Tensor:
    """Average over the windows of one dimension after the other."""
    for axis, count in zip(range(-len(counts), 0), counts, strict=True):
        if count is not None:
            weights = _window_weights(count, input.shape[axis], input)
            input = (input.movedim(axis, -1) @ weights.mT).movedim(-1, axis)
    return input


class OnnxPoolings(TorchFunctionMode):
    """Replaces the poolings that ``torch.onnx`` exports incorrectly, inside the ``with`` block.

    These are average poolings with ``divisor_override`` and adaptive average poolings of dynamic sizes.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _POOLINGS:
            given = _SIGNATURE.bind(*args, **kwargs)
            given.apply_defaults()
            if given.arguments["divisor_override"] is not None:
                return _average(func, _POOLINGS[func], given.arguments)
        if (count := _ADAPTIVE.get(func)) is not None:
            input, sizes = _ADAPTIVE_SIGNATURE.bind(*args, **kwargs).args
            sizes = _each(sizes, count)
            if any(isinstance(n, torch.SymInt) for n in input.shape[-count:]) and sizes != [1] * count:
                return _adaptive_average(input, sizes)
        return func(*args, **kwargs)
