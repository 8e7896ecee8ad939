"""Kernels of batch normalization."""

from __future__ import annotations

import torch

from dpnn_bridge.lua.tensor import Tensor, TorchError, square_root
from dpnn_bridge.lua.thnn.registry import kernel


def _per_channel(values: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return values.reshape(1, -1, *[1] * (x.dim() - 2))


def _sums(x: torch.Tensor) -> torch.Tensor:
    """Compute the sum of each channel in double precision, in the order of C's loop."""
    return x.transpose(0, 1).reshape(x.shape[1], -1).double().cumsum(1)[:, -1]


def _inverse(variance: torch.Tensor, eps: float, dtype: torch.dtype) -> torch.Tensor:
    return (1 / square_root(variance.double() + eps)).to(dtype)


def _update_running(running: torch.Tensor, momentum: float, values: torch.Tensor) -> None:
    running.copy_(momentum * values.double() + (1 - momentum) * running.double())


@kernel("BatchNormalization_updateOutput")
def batch_normalization(
    input: Tensor,
    output: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    save_mean: Tensor,
    save_std: Tensor,
    train: bool,
    momentum: float,
    eps: float,
) -> None:
    """Normalize; in training, update the running statistics. ``save_std`` is the inverse standard deviation."""
    x = input.t
    if train:
        n = x.numel() // x.shape[1]
        mean = _sums(x).to(x.dtype) / n
        squares = _sums((x - _per_channel(mean, x)) ** 2)
        inverse = _inverse(squares / n, eps, x.dtype)
        if eps == 0:
            inverse = torch.where(squares == 0, 0.0, inverse)
        save_mean.assign(mean)
        save_std.assign(inverse)
        _update_running(running_mean.t, momentum, mean)
        _update_running(running_var.t, momentum, squares / (n - 1))
    else:
        mean, inverse = running_mean.t, _inverse(running_var.t, eps, x.dtype)
    y = (x - _per_channel(mean, x)) * _per_channel(inverse, x)
    if weight is not None:
        y = y * _per_channel(weight.t, x)
    if bias is not None:
        y = y + _per_channel(bias.t, x)
    output.assign(y)


@kernel("BatchNormalization_backward")
def batch_normalization_backward(
    input: Tensor,
    grad_output: Tensor,
    grad_input: Tensor | None,
    grad_weight: Tensor | None,
    grad_bias: Tensor | None,
    weight: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    save_mean: Tensor,
    save_std: Tensor,
    train: bool,
    scale: float,
    eps: float,
) -> None:
    if input.size != grad_output.size:
        raise TorchError(f"input and gradOutput shapes do not match: {input.shape_text}, {grad_output.shape_text}")
    x, g = input.t, grad_output.t
    n = x.numel() // x.shape[1]
    mean, inverse = (save_mean.t, save_std.t) if train else (running_mean.t, _inverse(running_var.t, eps, x.dtype))
    centred = x - _per_channel(mean, x)
    total, product = _sums(g), _sums(centred * g)
    if grad_input is not None:
        slope = g
        if train:
            share = product.to(x.dtype) * inverse * inverse / n
            slope = (g.double() - _per_channel(total / n, x)) - centred * _per_channel(share, x)
        slope = slope * _per_channel(inverse, x)
        grad_input.assign((slope if weight is None else slope * _per_channel(weight.t, x)).to(x.dtype))
    if grad_weight is not None:
        grad_weight.t.copy_(grad_weight.t.double() + scale * product * inverse)
    if grad_bias is not None:
        grad_bias.t.copy_(grad_bias.t.double() + scale * total)
