"""dpnn_bridge: the way out of Torch7.

>>> import dpnn_bridge
>>> model = dpnn_bridge.load("model.t7")          # doctest: +SKIP
>>> dpnn_bridge.convert("model.t7", "model.pt")   # doctest: +SKIP

The names below are the public API. They are imported when first used, so that command line help needs no PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpnn_bridge import errors, optim, parity, training
    from dpnn_bridge.conversion import to_lua, to_torch
    from dpnn_bridge.files import convert, load, save, write_t7
    from dpnn_bridge.flat_vector import load_flat
    from dpnn_bridge.loaders.t7_reader import read_t7
    from dpnn_bridge.registry import LuaClass, lua_class

_HOMES = {
    "LuaClass": "registry",
    "convert": "files",
    "errors": "",
    "load": "files",
    "load_flat": "flat_vector",
    "lua_class": "registry",
    "optim": "",
    "parity": "",
    "read_t7": "loaders.t7_reader",
    "save": "files",
    "to_lua": "conversion",
    "to_torch": "conversion",
    "training": "",
    "write_t7": "files",
}

__all__ = [
    "LuaClass",
    "convert",
    "errors",
    "load",
    "load_flat",
    "lua_class",
    "optim",
    "parity",
    "read_t7",
    "save",
    "to_lua",
    "to_torch",
    "training",
    "write_t7",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if not home:
        return importlib.import_module(f"{__name__}.{name}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
