"""Select the simplest of several Lua classes that can represent a module."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from dpnn_bridge.conversion.lua_class import LuaClass


class OneOfSeveral(LuaClass):
    """One of several Lua classes of a torch type, which differ in the options that they have fields for.

    Attributes:
        plain: options of the torch type -> the value with which a class without a field for it computes the same; of
            a tuple every element has it.
        extra_option: the option that a plainer class lacks; modules with its plain value are of the plainer class.
    """

    plain: ClassVar[dict[str, Any]] = {}
    extra_option: ClassVar[str] = ""

    @classmethod
    def represents(cls, module: nn.Module) -> bool:
        used = {name for name, value in cls.plain.items() if not _has(module, name, value)}
        return used <= set(cls.scalars.values()) and cls.extra_option in {"", *used}


def _has(module: nn.Module, name: str, value: Any) -> bool:
    found = getattr(module, name, value)
    return all(v == value for v in found) if isinstance(found, tuple) else found == value
