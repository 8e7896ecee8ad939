"""Replace strides that kernels of PyTorch process wrongly."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def with_contiguous_strides(tensor: Tensor) -> Tensor:
    """Return ``tensor`` with the strides of a new contiguous tensor, and give its gradient such strides too."""
    return tensor.reshape(-1).view(tensor.shape)


def guard_volumes(module: nn.Module) -> nn.Module:
    """Make a 3-D pooling accept single samples with non-contiguous strides or gradients.

    PyTorch processes :math:`(C, T, H, W)` as a batch of images and raises an error for its memory format. The strides
    are replaced in hooks, so that the type of the module does not change.
    """
    module.register_forward_pre_hook(plain_volume)
    module.register_forward_hook(plain_gradient)
    return module


def plain_volume(module: nn.Module, args: tuple[Any, ...]) -> Any:
    """Implement the forward pre-hook of :func:`guard_volumes`."""
    return (with_contiguous_strides(args[0]), *args[1:]) if isinstance(args[0], Tensor) and args[0].dim() == 4 else None


def plain_gradient(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    """Implement the forward hook of :func:`guard_volumes`."""
    return with_contiguous_strides(output) if isinstance(output, Tensor) and output.dim() == 4 else None
