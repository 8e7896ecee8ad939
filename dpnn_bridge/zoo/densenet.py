"""DenseNet's memory-efficient layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.contexts import LuaContext
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.objects import LuaObject


@lua_class("nn.DenseConnectLayerCustom")
class DenseConnectLayerCustom(nn.Sequential):
    """Computes new feature maps from the concatenation of all earlier feature maps.

    Args:
        net1: normalization and activation.
        net2: the convolutions.

    Shape:
        - Input: :math:`(N, C, H, W)`, or a list of tensors of this shape with any number of channels.
        - Output: the list with the new feature maps appended.

    Differs from Torch7:
        Torch7 recomputes the first part in the backward pass to save memory (``optMemory`` 4); use
        :func:`torch.utils.checkpoint.checkpoint` for that.

    Lua:
        ``nn.DenseConnectLayerCustom(nChannels, opt)``, DenseNet models/DenseConnectLayer.lua
    """

    fx_leaf = True

    def __init__(self, net1: nn.Module, net2: nn.Module) -> None:
        super().__init__(net1, net2)

    def forward(self, input: Tensor | list[Tensor]) -> list[Tensor]:  # type: ignore[override]
        maps = list(input) if isinstance(input, (list, tuple)) else [input]
        return [*maps, super().forward(torch.cat(maps, 1))]

    class Lua(LuaClass):
        """``net1`` and ``net2`` are the two ``modules``."""

        computed_fields = ("net1", "net2")
        container = True
        scratch = ("input_c", "saved_bn_running_mean", "saved_bn_running_var")

        @classmethod
        def matches(cls, obj: LuaObject) -> bool:
            return "net2" in obj

        @classmethod
        def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
            fields = super().to_lua(module, ctx)
            fields["net1"], fields["net2"] = fields["modules"].as_list()
            return fields
