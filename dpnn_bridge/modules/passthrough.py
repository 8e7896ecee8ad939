"""Layers that hand their input on as it is."""

from __future__ import annotations

from torch import nn

from dpnn_bridge.registry import LuaClass, lua_class


@lua_class("nn.Identity")
class Identity(LuaClass):
    torch_type = nn.Identity
