"""Protect PyTorch's kernels from strides that they handle wrongly."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def plain_strides(tensor: Tensor) -> Tensor:
    """Return ``tensor`` with the strides of a new tensor, and do the same for its gradient."""
    return tensor.reshape(-1).view(tensor.shape)


def guard_volumes(module: nn.Module) -> nn.Module:
    """Let a volumetric pooling take a single sample whose strides, or whose gradient's, are not those of a new tensor.

    PyTorch takes :math:`(C, T, H, W)` for a batch of images and refuses its "memory format". Hooks do it, so that the
    module stays torch's own.
    """
    module.register_forward_pre_hook(plain_volume)
    module.register_forward_hook(plain_gradient)
    return module


def plain_volume(module: nn.Module, args: tuple[Any, ...]) -> Any:
    """Implement the forward pre-hook of :func:`guard_volumes`."""
    return (plain_strides(args[0]), *args[1:]) if isinstance(args[0], Tensor) and args[0].dim() == 4 else None


def plain_gradient(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    """Implement the forward hook of :func:`guard_volumes`."""
    return plain_strides(output) if isinstance(output, Tensor) and output.dim() == 4 else None
