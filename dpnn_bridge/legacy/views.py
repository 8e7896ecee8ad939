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
    """Makes every parameter a view of the tensor that it comes from, one for each place.

    What shares memory in Lua does so here, and each place has a gradient of its own, as in Torch7.

    Attributes:
        shared: addresses of the memory that parameters and buffers view.
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
        own = tensor.torch()
        value = arrange(own)
        if storage_id(value) == storage_id(own):
            self.shared.add(storage_id(own))
        if site.leaf in site.owner._parameters:
            site.owner._parameters[site.leaf] = nn.Parameter(value, requires_grad=value.is_floating_point())
        else:
            site.owner._buffers[site.leaf] = value
        return 0

    def tie(self, roots: Iterable[nn.Module]) -> None:
        """Do nothing: parameters that overlap already share their memory."""
