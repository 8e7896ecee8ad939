"""Convert Lua objects to PyTorch modules (:func:`to_torch`) and back (:func:`to_lua`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dpnn_bridge.base.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
    from dpnn_bridge.conversion.convert import convert_object, to_lua, to_torch
    from dpnn_bridge.conversion.fields import Field, Layout
    from dpnn_bridge.conversion.lua_class import LuaClass
    from dpnn_bridge.conversion.lua_values import Convertible
    from dpnn_bridge.conversion.options import Options
    from dpnn_bridge.conversion.report import Report

__all__ = [
    "Convertible",
    "Field",
    "Layout",
    "LuaClass",
    "LuaContext",
    "Options",
    "Report",
    "TorchContext",
    "convert_object",
    "to_lua",
    "to_torch",
]

_MODULES = {
    **dict.fromkeys(("LuaContext", "TorchContext"), "conversion.contexts"),
    **dict.fromkeys(("convert_object", "to_lua", "to_torch"), "conversion.convert"),
    **dict.fromkeys(("Field", "Layout"), "conversion.fields"),
    "LuaClass": "conversion.lua_class",
    "Convertible": "conversion.lua_values",
    "Options": "conversion.options",
    "Report": "conversion.report",
}

__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
