"""Select the simplest of several Lua classes that can represent a module."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from dpnn_bridge.conversion.lua_class import LuaClass


class SimplestClass(LuaClass):
    """Base class of the mappings of several Lua classes to one type of PyTorch, each with fields for some options.

    Attributes:
        neutral: the value of each option that Lua classes without a field for the option implement. A tuple has this
            value if all its elements have it.
        extra_option: an option of this Lua class that a simpler class lacks. A module with the neutral value is
            exported as the simpler class.
    """

    neutral: ClassVar[dict[str, Any]] = {}
    extra_option: ClassVar[str] = ""

    @classmethod
    def represents(cls, module: nn.Module) -> bool:
        used = {name for name, value in cls.neutral.items() if not _has(module, name, value)}
        return used <= set(cls.scalars.values()) and cls.extra_option in {"", *used}


def _has(module: nn.Module, name: str, value: Any) -> bool:
    actual = getattr(module, name, value)
    return all(v == value for v in actual) if isinstance(actual, tuple) else actual == value
