"""Modules that process each row of a batch independently, and can therefore run on all time steps together."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from dpnn_bridge.modules.nn.activation import LogSoftMax, SoftMax
from dpnn_bridge.modules.nn.dropout import Dropout
from dpnn_bridge.modules.nn.lookup import LookupTable
from dpnn_bridge.modules.rnn.mask import LookupTableMaskZero, MaskZero

#: ``forward`` of these modules; other classes declare it with the attribute ``row_wise``
_ROW_WISE = {
    *(cls.forward for cls in (nn.Linear, nn.Sigmoid, nn.Tanh, nn.ReLU, nn.Identity, nn.Softplus)),
    *(cls.forward for cls in (SoftMax, LogSoftMax, LookupTable, LookupTableMaskZero)),
}
_DROPOUT = {nn.Dropout.forward, Dropout.forward}


def is_bare(module: nn.Module) -> bool:
    """Return whether calling a module only runs the ``forward`` of its class, without hooks."""
    return not (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
        or torch_module._has_any_global_hook()
    )


def is_row_wise(module: nn.Module) -> bool:
    """Return whether a module has no hooks and processes each row of a batch independently."""
    forward = type(module).forward
    if not is_bare(module):
        return False
    if isinstance(module, MaskZero) and forward is MaskZero.forward:
        return module.input_dims == 1 and is_row_wise(module.module)
    if isinstance(module, nn.Embedding) and (module.max_norm is not None or module.scale_grad_by_freq):
        return False
    if forward in _DROPOUT and (module.training or getattr(module, "stochastic_inference", False)):
        return False
    known = forward in _ROW_WISE or forward in _DROPOUT or getattr(module, "row_wise", False)
    return known and not getattr(module, "inplace", False)


def is_random(module: nn.Module) -> bool:
    """Return whether a module only multiplies its input by random numbers."""
    return (
        type(module).forward in _DROPOUT and module.training and is_bare(module) and not getattr(module, "inplace", 0)
    )


def output_of(module: nn.Module, value: Tensor) -> Tensor | None:
    """Return a meta tensor with the shape and dtype of a row-wise module's output; None if these are unknown.

    Args:
        module: the module.
        value: meta tensor with the shape and dtype of the module's input.
    """
    module = module.module if isinstance(module, MaskZero) else module
    if isinstance(module, nn.Embedding):
        return module.weight.new_empty(*value.shape, module.embedding_dim, device="meta")
    if isinstance(module, nn.Linear):
        return value.new_empty(*value.shape[:-1], module.out_features)
    return value if type(module).forward in _ROW_WISE | _DROPOUT else None


def on_all_rows(module: nn.Module, x: Tensor) -> Tensor:
    """Compute a row-wise module for inputs :math:`(T, N, *)`, or :math:`(T, *)` with one row per time step."""
    if isinstance(module, nn.Embedding) or x.dim() == 2:
        return module(x)
    if x.dim() == 4 and isinstance(module, (SoftMax, LogSoftMax)):  # of three dimensions, they use the first
        return torch.stack([module(step) for step in x])
    return module(x.flatten(0, 1)).unflatten(0, x.shape[:2])
