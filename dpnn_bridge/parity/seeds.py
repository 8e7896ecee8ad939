"""Seed the generators from which a model draws: PyTorch's, and those of its Lua layers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from dpnn_bridge.conversion.placeholder import bridges_of


def manual_seed(modules: Iterable[nn.Module], seed: int) -> None:
    """Seed PyTorch's generator and the generators of the Lua layers among ``modules``."""
    torch.manual_seed(seed)
    for bridge in bridges_of(modules):
        bridge.manual_seed(seed)


def lua_generator(module: nn.Module) -> Any:
    """Return the generator that Lua layers of a module share with Python; None if there is none, or are several."""
    bridges = bridges_of(module.modules())
    return bridges[0].generator if len(bridges) == 1 else None
