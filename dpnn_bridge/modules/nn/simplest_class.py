"""Select the simplest of several Lua classes that can represent a module."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from dpnn_bridge.conversion.lua_class import LuaClass


class SimplestClass(LuaClass):
    """Base of several Lua classes of one torch type. Each class has fields for some options of that type.

    Attributes:
        neutral: the value of each option at which a class without a field for the option computes the same. In a
            tuple every element must have this value.
        extra_option: an option that a simpler class lacks. A module with the neutral value is exported as the simpler
            class.
    """

    neutral: ClassVar[dict[str, Any]] = {}
    extra_option: ClassVar[str] = ""

    @classmethod
    def represents(cls, module: nn.Module) -> bool:
        used = {name for name, value in cls.neutral.items() if not _has(module, name, value)}
        return used <= set(cls.scalars.values()) and cls.extra_option in {"", *used}


def _has(module: nn.Module, name: str, value: Any) -> bool:
    found = getattr(module, name, value)
    return all(v == value for v in found) if isinstance(found, tuple) else found == value
