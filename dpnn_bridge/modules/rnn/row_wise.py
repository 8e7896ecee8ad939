"""Modules that compute each row of a batch by itself, and so run on the rows of all time steps at once."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from dpnn_bridge.modules.nn.activation import LogSoftMax, SoftMax
from dpnn_bridge.modules.nn.lookup import LookupTable
from dpnn_bridge.modules.rnn.mask import LookupTableMaskZero, MaskZero

#: ``forward`` of such modules; the class of another one has the attribute ``row_wise``
_ROW_WISE = {
    *(kind.forward for kind in (nn.Linear, nn.Sigmoid, nn.Tanh, nn.ReLU, nn.Identity, nn.Softplus)),
    *(kind.forward for kind in (SoftMax, LogSoftMax, LookupTable, LookupTableMaskZero)),
}


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
    return (forward in _ROW_WISE or getattr(module, "row_wise", False)) and not getattr(module, "inplace", False)


def on_all_rows(module: nn.Module, x: Tensor) -> Tensor:
    """Return the outputs of a row-wise module for inputs :math:`(T, N, *)`, or :math:`(T, *)` of one row each."""
    if isinstance(module, nn.Embedding) or x.dim() == 2:
        return module(x)
    return module(x.flatten(0, 1)).unflatten(0, x.shape[:2])
