"""dpnn's Module interface as functions over any ``torch.nn.Module``."""

from __future__ import annotations

from torch import Tensor, nn

from dpnn_bridge import registry


def parameters(module: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Parameters and their gradients as Torch7's ``module:parameters()`` lists them.

    A module that occurs twice is listed twice. Tensors have Lua's shape and arrangement and are detached views of the
    torch parameters where the arrangement allows a view; a parameter without gradient gives zeros.

    Args:
        module: any module; submodules that no Lua class describes contribute their own parameters in order.

    Returns:
        ``(params, grads)``, two lists of the same length.
    """
    fields = list(registry.spec_of(module).parameters(module))
    params = [registry.lua_value(owner, name, spec) for owner, name, spec in fields]
    grads = [registry.lua_value(owner, name, spec, gradient=True) for owner, name, spec in fields]
    return params, grads
