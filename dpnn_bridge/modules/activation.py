"""Element-wise transfer functions and the softmax family."""

from __future__ import annotations

from typing import Any

from torch import nn

from dpnn_bridge.convert import TorchContext
from dpnn_bridge.objects import LuaObject
from dpnn_bridge.registry import LuaClass, lua_class


class Inplace(LuaClass):
    """A layer with Torch7's ``inplace`` flag, which is obeyed only when the caller asks (``inplace=True``)."""

    @classmethod
    def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
        return {**super().arguments(obj, ctx), "inplace": ctx.options.inplace and obj.get("inplace") is True}


@lua_class("nn.ReLU", "cudnn.ReLU")
class ReLU(Inplace):
    torch_type = nn.ReLU
    constants = {"threshold": 0, "val": 0, "inplace": False}


@lua_class("nn.Tanh", "cudnn.Tanh")
class Tanh(LuaClass):
    torch_type = nn.Tanh
