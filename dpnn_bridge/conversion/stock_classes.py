"""Take a subclass of a layer of PyTorch that computes what the layer computes for that layer."""

from __future__ import annotations

import copy

from torch import nn
from torch.nn.utils import parametrize

from dpnn_bridge.conversion import registry
from dpnn_bridge.conversion.customized import overridden
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.unshared import tensors_of


def with_stock_classes(root: nn.Module) -> nn.Module:
    """Return a model in which layers of a subclass that replaces nothing of a forward are layers of PyTorch.

    What can be written, and how, depends on the class of a layer: ``class Conv(nn.Conv2d)`` with a constructor of its
    own is written, or refused, as :class:`torch.nn.Conv2d` with its options is.

    Returns:
        ``root`` itself where no module is one of a subclass, else a copy that shares all tensors with it.
    """
    if not any(map(stock_class, root.modules())):
        return root
    twin = copy.deepcopy(root, dict(tensors_of(root)))
    for module in twin.modules():
        if (kind := stock_class(module)) is not None:
            module.__class__ = kind
    return twin


def stock_class(module: nn.Module) -> type[nn.Module] | None:
    """Return the class of PyTorch that a module is a subclass of; None if it computes more, or was registered."""
    mro = type(module).__mro__
    base = next((t for t in mro if t.__module__.startswith("torch.nn.modules.") and t is not nn.Module), None)
    if record_of(module) is not None or parametrize.is_parametrized(module) or base in (None, mro[0]):
        return None
    known = overridden(module, (base,)) is not None or any(map(registry.is_registered, mro[: mro.index(base)]))
    return None if known else base
