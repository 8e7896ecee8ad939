"""Read Torch7 checkpoints, convert them to PyTorch modules and verify the result.

>>> import dpnn_bridge
>>> model = dpnn_bridge.load("model.t7")          # doctest: +SKIP
>>> dpnn_bridge.convert("model.t7", "model.pt")   # doctest: +SKIP

The names below are the public API. They are imported at first use, so that command line help does not load PyTorch.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from dpnn_bridge.base.lazy_exports import lazy_exports
from dpnn_bridge.base.moved import MovedModules

if TYPE_CHECKING:
    from dpnn_bridge import errors, optim, parity, training
    from dpnn_bridge.base.version import __version__
    from dpnn_bridge.checkpoint import Checkpoint, load_checkpoint
    from dpnn_bridge.conversion import to_lua, to_torch
    from dpnn_bridge.conversion.lua_class import LuaClass
    from dpnn_bridge.conversion.places import lua_names, lua_paths, model_at
    from dpnn_bridge.conversion.registry import lua_class
    from dpnn_bridge.converting import convert
    from dpnn_bridge.files import load, save, write_t7
    from dpnn_bridge.legacy.loading import load_lua
    from dpnn_bridge.loaders.t7_reader import read_t7
    from dpnn_bridge.porting.api import port
    from dpnn_bridge.training.flat_vector import load_flat

_HOMES = {
    "Checkpoint": "checkpoint",
    "LuaClass": "conversion.lua_class",
    "__version__": "base.version",
    "convert": "converting",
    "errors": ".",
    "load": "files",
    "load_checkpoint": "checkpoint",
    "load_flat": "training.flat_vector",
    "load_lua": "legacy.loading",
    "lua_class": "conversion.registry",
    "lua_names": "conversion.places",
    "lua_paths": "conversion.places",
    "model_at": "conversion.places",
    "optim": ".",
    "parity": ".",
    "port": "porting.api",
    "read_t7": "loaders.t7_reader",
    "save": "files",
    "to_lua": "conversion",
    "to_torch": "conversion",
    "training": ".",
    "write_t7": "files",
}

__all__ = [
    "Checkpoint",
    "LuaClass",
    "__version__",
    "convert",
    "errors",
    "load",
    "load_checkpoint",
    "load_flat",
    "load_lua",
    "lua_class",
    "lua_names",
    "lua_paths",
    "model_at",
    "optim",
    "parity",
    "port",
    "read_t7",
    "save",
    "to_lua",
    "to_torch",
    "training",
    "write_t7",
]

sys.meta_path.insert(0, MovedModules())
__getattr__, __dir__ = lazy_exports(__name__, _HOMES)
