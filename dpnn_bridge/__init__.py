"""dpnn_bridge: the way out of Torch7.

>>> import dpnn_bridge
>>> model = dpnn_bridge.load("model.t7")          # doctest: +SKIP
>>> dpnn_bridge.convert("model.t7", "model.pt")   # doctest: +SKIP
"""

from __future__ import annotations

from dpnn_bridge import errors, training
from dpnn_bridge.convert import to_lua, to_torch
from dpnn_bridge.files import convert, load, save
from dpnn_bridge.loaders.t7_reader import read_t7
from dpnn_bridge.loaders.t7_writer import write_t7
from dpnn_bridge.registry import LuaClass, lua_class

__all__ = [
    "LuaClass",
    "convert",
    "errors",
    "load",
    "lua_class",
    "read_t7",
    "save",
    "to_lua",
    "to_torch",
    "training",
    "write_t7",
]
