"""Replace subclasses of PyTorch layers that do not change the computation by the PyTorch layers."""

from __future__ import annotations

import copy

from torch import nn
from torch.nn.utils import parametrize

from dpnn_bridge.conversion import registry
from dpnn_bridge.conversion.customized import overridden
from dpnn_bridge.conversion.distributed import FSDP
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.unshared import tensors_of


def with_stock_classes(root: nn.Module) -> nn.Module:
    """Return a model in which layers of a subclass that does not change the forward pass are plain PyTorch layers.

    For example, ``class Conv(nn.Conv2d)`` with another constructor is exported like :class:`torch.nn.Conv2d`.

    Returns:
        ``root`` if it contains no such layer, else a copy that shares all tensors with ``root``.
    """
    if not any(map(stock_class, root.modules())):
        return root
    result = copy.deepcopy(root, dict(tensors_of(root)))
    for module in result.modules():
        if (module_class := stock_class(module)) is not None:
            module.__class__ = module_class
    return result


def stock_class(module: nn.Module) -> type[nn.Module] | None:
    """Return the PyTorch class that a module can be replaced by.

    Returns:
        The PyTorch base class of the module's class. None if the module's class is a PyTorch class itself, is
        registered, or changes the computation, and for converted, parametrized or distributed modules.
    """
    mro = type(module).__mro__
    base = next((t for t in mro if t.__module__.startswith("torch.nn.modules.") and t is not nn.Module), None)
    if record_of(module) is not None or parametrize.is_parametrized(module) or base in (None, mro[0]):
        return None
    if type(module).__module__.startswith(FSDP):  # such modules cannot be copied
        return None
    known = overridden(module, (base,)) is not None or any(map(registry.is_registered, mro[: mro.index(base)]))
    return None if known else base
