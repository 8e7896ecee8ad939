"""Modules that compute each row of a batch by itself, and so run on the rows of all time steps at once."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from dpnn_bridge.modules.nn.activation import LogSoftMax, SoftMax
from dpnn_bridge.modules.nn.dropout import Dropout
from dpnn_bridge.modules.nn.lookup import LookupTable
from dpnn_bridge.modules.rnn.mask import LookupTableMaskZero, MaskZero

#: ``forward`` of such modules; the class of another one has the attribute ``row_wise``
_ROW_WISE = {
    *(kind.forward for kind in (nn.Linear, nn.Sigmoid, nn.Tanh, nn.ReLU, nn.Identity, nn.Softplus)),
    *(kind.forward for kind in (SoftMax, LogSoftMax, LookupTable, LookupTableMaskZero)),
}
_DROPOUT = {nn.Dropout.forward, Dropout.forward}


def is_bare(module: nn.Module) -> bool:
    """Return whether calling a module does nothing beyond the ``forward`` of its class."""
    return not (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
        or torch_module._has_any_global_hook()
    )


def is_row_wise(module: nn.Module) -> bool:
    """Return whether a module, which is called without hooks, computes each row of a batch by itself."""
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
    """Return whether a module multiplies its input by random numbers, and does nothing else."""
    return (
        type(module).forward in _DROPOUT and module.training and is_bare(module) and not getattr(module, "inplace", 0)
    )


def output_of(module: nn.Module, value: Tensor) -> Tensor | None:
    """Return a tensor of the shape and type of a row-wise module's output, on the meta device; None if unknown.

    Args:
        module: the module.
        value: a tensor of the shape and type of its input, on the meta device.
    """
    module = module.module if isinstance(module, MaskZero) else module
    if isinstance(module, nn.Embedding):
        return module.weight.new_empty(*value.shape, module.embedding_dim, device="meta")
    if isinstance(module, nn.Linear):
        return value.new_empty(*value.shape[:-1], module.out_features)
    return value if type(module).forward in _ROW_WISE | _DROPOUT else None


def on_all_rows(module: nn.Module, x: Tensor) -> Tensor:
    """Return the outputs of a row-wise module for inputs :math:`(T, N, *)`, or :math:`(T, *)` of one row each."""
    if isinstance(module, nn.Embedding) or x.dim() == 2:
        return module(x)
    return module(x.flatten(0, 1)).unflatten(0, x.shape[:2])
