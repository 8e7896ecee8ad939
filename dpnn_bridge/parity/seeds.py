"""Seed the generators from which a model draws: PyTorch's, and those of its Lua layers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from dpnn_bridge.conversion.placeholder import Placeholder


def manual_seed(modules: Iterable[nn.Module], seed: int) -> None:
    """Seed PyTorch's generator and the generators of the Lua layers among ``modules``."""
    torch.manual_seed(seed)
    for bridge in _bridges(modules):
        bridge.manual_seed(seed)


def bridge_of(module: nn.Module) -> Any:
    """Return the Lua state that runs a layer; None for a layer of PyTorch."""
    return getattr(module, "bridge", None) if isinstance(module, Placeholder) else None


def _bridges(modules: Iterable[nn.Module]) -> list[Any]:
    """Return the Lua states that run layers among ``modules``."""
    return list({id(bridge): bridge for m in modules if (bridge := bridge_of(m)) is not None}.values())


def lua_generator(module: nn.Module) -> Any:
    """Return the generator that Lua layers of a module share with Python; None if there is none, or are several."""
    bridges = _bridges(module.modules())
    return bridges[0].generator if len(bridges) == 1 else None
