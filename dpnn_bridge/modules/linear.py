"""Linear maps and element-wise affine layers."""

from __future__ import annotations

from typing import Any

from torch import nn

from dpnn_bridge.convert import TorchContext
from dpnn_bridge.objects import LuaObject
from dpnn_bridge.registry import LuaClass, lua_class


@lua_class("nn.Linear")
class Linear(LuaClass):
    torch_type = nn.Linear
    tensors = {"weight": "weight", "bias": "bias"}
    scratch = ("addBuffer",)

    @classmethod
    def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
        out_features, in_features = obj["weight"].shape
        return {
            "in_features": in_features,
            "out_features": out_features,
            "bias": obj.get("bias") is not None,
            "device": "meta",
        }
