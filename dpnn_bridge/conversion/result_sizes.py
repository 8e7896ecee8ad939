"""Compute the sizes of the results of convolutions, poolings and other operations from their arguments.

PyTorch's meta device computes these sizes too, but it imports SymPy, which takes most of the time of a small command.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor


def _convolution(
    value: Tensor,
    weight: Tensor,
    _bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Tensor:
    windows = _windows(value.shape[2:], weight.shape[2:], stride, padding, dilation)
    if transposed:
        added = of_each_dim(output_padding, len(weight.shape[2:]))
        size = [(n - 1) * s - 2 * p + d * (k - 1) + a + 1 for (n, k, s, p, d), a in zip(windows, added, strict=True)]
        return _meta(value, (len(value), weight.shape[1] * groups, *size))
    return _meta(
        value, (len(value), len(weight), *((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in windows))
    )


def _max_pooling(
    count: int,
    value: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> tuple[Tensor, Tensor]:
    output = _pooling(count, value, kernel, stride, padding, dilation, ceil_mode)
    return output, _meta(output, output.shape, torch.int64)


def _average_pooling(
    count: int,
    value: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    *_: Any,
) -> Tensor:
    return _pooling(count, value, kernel, stride, padding, (1,), ceil_mode)


def _pooling(
    count: int,
    value: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> Tensor:
    size = []
    for n, k, s, p, d in _windows(value.shape[-count:], kernel, stride or kernel, padding, dilation):
        length = (n + 2 * p - d * (k - 1) - 1 + (s - 1 if ceil_mode else 0)) // s + 1
        size.append(length - (ceil_mode and (length - 1) * s >= n + p))  # no window starts in the padding
    return _meta(value, (*value.shape[:-count], *size))


def _windows(dims: Sequence[int], *others: Sequence[int]) -> list[tuple[int, ...]]:
    """Return length, kernel, stride, padding and dilation of each dimension."""
    return list(zip(dims, *(of_each_dim(other, len(dims)) for other in others), strict=True))


def of_each_dim(values: Sequence[int], count: int) -> Sequence[int]:
    """Return an argument of a window, such as its stride, with one number for each of ``count`` dimensions."""
    return list(values) * count if len(values) == 1 else values


def _meta(like: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    return torch.empty(shape, dtype=dtype or like.dtype, device="meta")


def _convolution_backward(
    gradient: Tensor, value: Tensor, weight: Tensor, bias: Sequence[int] | None, *others: Any
) -> tuple[Tensor | None, ...]:
    sizes = value.shape, weight.shape, bias or ()
    return tuple(_meta(gradient, size) if needed else None for size, needed in zip(sizes, others[-1], strict=True))


def _as_input(_gradient: Tensor, value: Tensor, *_: Any) -> Tensor:
    return _meta(value, value.shape)


def _recurrent_layer(value: Tensor, weight: Tensor, recurrent: Tensor, *others: Any) -> tuple[Tensor, ...]:
    """Return the sizes of the results of ``mkldnn_rnn_layer``; the last one is for the backward pass."""
    steps, count = math.prod(value.shape[:2]), recurrent.shape[1]
    state = _meta(value, (value.shape[1], count))
    # measured: at most 16 numbers for each input or output of a step, whichever are more, in blocks of 16
    workspace = steps * 16 * -(-max(weight.shape[1], count) // 16) * 16 if others[-1] else 0
    return _meta(value, (*value.shape[:2], count)), state, state, _meta(value, (workspace,))


def _embedding_backward(gradient: Tensor, _indices: Tensor, count: int, *_: Any) -> Tensor:
    return _meta(gradient, (count, gradient.shape[-1]))


def _bag_backward(
    gradient: Tensor, indices: Tensor, _1: Tensor, _2: Tensor, _3: Tensor, _4: Tensor, count: int, *others: Any
) -> Tensor:
    is_sparse = others[2]
    return _meta(gradient, (len(indices) if is_sparse else count, gradient.shape[-1]))


def _ctc_loss(scores: Tensor, _targets: Tensor, _input_lengths: Any, lengths: Any, *_: Any) -> tuple[Tensor, ...]:
    count, batch = scores.shape[:2]
    loss = _meta(scores, (batch,))
    return loss, _meta(scores, (batch, count, 2 * max(map(int, lengths), default=0) + 1))


def _positions(value: Tensor) -> Tensor:
    return _meta(value, (value.numel(), value.dim()), torch.int64)


#: name of an operation -> function of its arguments that returns meta tensors with the sizes of its results
RESULTS: dict[str, Callable[..., Any]] = {
    "convolution": _convolution,
    "convolution_backward": _convolution_backward,
    "mkldnn_rnn_layer": _recurrent_layer,
    "embedding_dense_backward": _embedding_backward,
    "_embedding_bag_backward": _bag_backward,
    "nonzero": _positions,
    "_ctc_loss": _ctc_loss,
}
for _count in (2, 3):
    RESULTS[f"max_pool{_count}d_with_indices"] = partial(_max_pooling, _count)
    RESULTS[f"avg_pool{_count}d"] = partial(_average_pooling, _count)
    RESULTS[f"max_pool{_count}d_with_indices_backward"] = RESULTS[f"avg_pool{_count}d_backward"] = _as_input
