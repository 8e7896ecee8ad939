"""Batch normalization."""

from __future__ import annotations

import torch

from dpnn_bridge.lua.tensor import Tensor, TorchError
from dpnn_bridge.lua.thnn.registry import kernel


def _per_plane(values: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return values.reshape(1, -1, *[1] * (x.dim() - 2))


def _other_dims(x: torch.Tensor) -> list[int]:
    return [d for d in range(x.dim()) if d != 1]


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
    """save_std holds the inverse of the standard deviation."""
    x = input.t
    if train:
        dims, n = _other_dims(x), x.numel() // x.shape[1]
        mean = (x.double().sum(dims) / n).to(x.dtype)
        squares = ((x - _per_plane(mean, x)) ** 2).double().sum(dims)
        inverse = (1 / torch.sqrt(squares / n + eps)).to(x.dtype)
        if eps == 0:
            inverse = torch.where(squares == 0, 0.0, inverse)
        save_mean.assign(mean)
        save_std.assign(inverse)
        running_mean.t.copy_(momentum * mean + (1 - momentum) * running_mean.t)
        running_var.t.copy_(momentum * squares / (n - 1) + (1 - momentum) * running_var.t)
    else:
        mean, inverse = running_mean.t, 1 / torch.sqrt(running_var.t + eps)
    y = (x - _per_plane(mean, x)) * _per_plane(inverse, x)
    if weight is not None:
        y = y * _per_plane(weight.t, x)
    if bias is not None:
        y = y + _per_plane(bias.t, x)
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
    dims, n = _other_dims(x), x.numel() // x.shape[1]
    mean, inverse = (save_mean.t, save_std.t) if train else (running_mean.t, 1 / torch.sqrt(running_var.t + eps))
    centred = x - _per_plane(mean, x)
    total = g.double().sum(dims)
    product = (centred * g).double().sum(dims)
    if grad_input is not None:
        slope = g
        if train:
            share = (product * inverse * inverse / n).to(x.dtype)
            slope = g - _per_plane((total / n).to(x.dtype), x) - centred * _per_plane(share, x)
        slope = slope * _per_plane(inverse, x)
        grad_input.assign(slope if weight is None else slope * _per_plane(weight.t, x))
    if grad_weight is not None:
        grad_weight.t.add_((scale * product * inverse).to(x.dtype))
    if grad_bias is not None:
        grad_bias.t.add_((scale * total).to(x.dtype))
