"""Residual blocks whose branch may be skipped in training (yueatsprograms/Stochastic_Depth)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from dpnn_bridge.conversion.contexts import LuaContext
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.objects import LuaObject
from dpnn_bridge.torch7.gradient import with_gradient_of


@lua_class("nn.ResidualDrop")
class ResidualDrop(nn.Sequential):
    """A residual block whose branch is skipped while its gate is closed.

    Args:
        net: the residual branch.
        skip: the skip connection.
        death_rate: probability of a closed gate in training; evaluation scales the residual by ``1 - death_rate``.
        gate: whether the branch is used in training. The training script draws the gate for every batch.

    Shape:
        - Input: input of both branches.
        - Output: sum of the outputs of both branches.

    Differs from PyTorch:
        As in Torch7, in evaluation the gradient of the branch is not scaled, and the branch gets no gradient while the
        gate is closed.

    Lua:
        ``nn.ResidualDrop(deathRate, nChannels, nOutChannels, stride)``, Stochastic_Depth ResidualDrop.lua
    """

    def __init__(self, net: nn.Module, skip: nn.Module, death_rate: float, gate: bool = True) -> None:
        super().__init__(net, skip)
        self.death_rate, self.gate = death_rate, gate

    def forward(self, input: Tensor) -> Tensor:
        net, skip = self
        if self.training:
            return skip(input) + net(input) if self.gate else skip(input)
        residual = net(input)
        scaled = residual * (1 - self.death_rate)
        return skip(input) + (with_gradient_of(scaled, residual) if self.gate else scaled.detach())

    class Lua(LuaClass):
        computed_fields = ("net", "skip")
        container = True
        scalars = {"deathRate": "death_rate", "gate": "gate"}
        defaults = {"gate": True}

        @classmethod
        def matches(cls, obj: LuaObject) -> bool:
            return "deathRate" in obj

        @classmethod
        def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
            fields = super().to_lua(module, ctx)
            fields["net"], fields["skip"] = fields["modules"].as_list()
            return fields
