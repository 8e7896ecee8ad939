"""Seed the generators from which a model draws: PyTorch's, and those of its Lua layers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


def manual_seed(modules: Iterable[nn.Module], seed: int) -> None:
    """Seed PyTorch's generator and the generators of the Lua layers among ``modules``."""
    torch.manual_seed(seed)
    for bridge in _bridges(modules):
        bridge.manual_seed(seed)


def _bridges(modules: Iterable[nn.Module]) -> list[Any]:
    """Return the Lua states that run layers among ``modules``."""
    found = (getattr(m, "bridge", None) for m in modules)
    return list({id(bridge): bridge for bridge in found if bridge is not None}.values())


def lua_generator(module: nn.Module) -> Any:
    """Return the generator that Lua layers of a module share with Python; None if there is none, or are several."""
    bridges = _bridges(module.modules())
    return bridges[0].generator if len(bridges) == 1 else None
