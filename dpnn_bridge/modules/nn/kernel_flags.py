"""Flags for which the number 0 is false."""

from __future__ import annotations

from typing import Any, ClassVar

from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.objects import LuaObject


class KernelFlags(LuaClass):
    """Base class of mappings with flags that Torch7's C functions test. Lua tests other flags, and 0 is true in Lua.

    Attributes:
        kernel_flags: the Lua fields.
    """

    kernel_flags: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def scalar(cls, obj: LuaObject, name: str) -> Any:
        value = super().scalar(obj, name)
        return bool(value) if name in cls.kernel_flags else value
