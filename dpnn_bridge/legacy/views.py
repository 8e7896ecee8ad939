"""Provide parameters and buffers as views of an object's tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.base.storage import storage_id
from dpnn_bridge.conversion.sharing import Sharing
from dpnn_bridge.conversion.ties import Site
from dpnn_bridge.objects import LuaTensor


class Views(Sharing):
    """Strategy for shared parameters: every parameter is a separate view of the object's tensor.

    Tensors that share memory in Lua share memory here. Each parameter has its own gradient, as in Torch7.

    Attributes:
        shared: :func:`storage_id` of the storages that parameters and buffers view.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shared: set[int] = set()

    def assign(
        self,
        site: Site,
        tensor: LuaTensor,
        gradient: Any,
        arrange: Callable[[Tensor], Tensor],
        shape: torch.Size | None,
    ) -> int:
        original = tensor.torch()
        value = arrange(original)
        if storage_id(value) == storage_id(original):
            self.shared.add(storage_id(original))
        if site.leaf in site.owner._parameters:
            site.owner._parameters[site.leaf] = nn.Parameter(value, requires_grad=value.is_floating_point())
        else:
            site.owner._buffers[site.leaf] = value
        return 0

    def tie(self, roots: Iterable[nn.Module]) -> None:
        """Do nothing, because overlapping parameters already share memory."""
