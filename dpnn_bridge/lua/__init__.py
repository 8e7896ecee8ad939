"""Run Lua code that was written for Torch7 on PyTorch tensors. Requires the extra ``lua``.

>>> from dpnn_bridge.lua import LuaBridge
>>> LuaBridge().execute("return torch.range(1, 3):sum()")
6
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dpnn_bridge.base.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from dpnn_bridge.lua.bridge import LuaBridge
    from dpnn_bridge.lua.module import LuaCriterion, LuaModule
    from dpnn_bridge.lua.sandboxed_bridge import SandboxedBridge as SandboxedBridge
    from dpnn_bridge.torch7.random import Generator

__all__ = ["Generator", "LuaBridge", "LuaCriterion", "LuaModule"]

_MODULES = {
    "Generator": "torch7.random",
    "LuaBridge": "lua.bridge",
    **dict.fromkeys(("LuaCriterion", "LuaModule"), "lua.module"),
    "SandboxedBridge": "lua.sandboxed_bridge",
}

__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
