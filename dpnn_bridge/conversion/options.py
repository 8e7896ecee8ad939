"""Define the options for converting a Lua object to a module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypedDict, get_type_hints

from torch import nn

from dpnn_bridge.base.arguments import check_types
from dpnn_bridge.objects import LuaObject


class OptionKeywords(TypedDict, total=False):
    """The fields of :class:`Options` as keyword arguments."""

    index_base: Literal[0, 1]
    inplace: bool
    gradients: bool
    allow_unsupported: bool | Literal["unknown"]
    fallback: Callable[[LuaObject, Any], nn.Module | None] | None
    overrides: Callable[[str], bool] | None
    knows: Callable[[str], bool] | None
    pending: bool


@dataclass
class Options:
    """The options for converting a Lua object to a module.

    Args:
        index_base: 1 as in Lua, or 0, for modules whose inputs or outputs are indices.
        inplace: let modules overwrite their inputs where the file says ``inplace``.
        gradients: put ``gradWeight`` and the like into ``.grad``.
        allow_unsupported: put a :class:`Placeholder` where a class is unknown or an object cannot be built;
            ``"unknown"``: only where a class is unknown.
        fallback: called as ``fallback(obj, ctx)`` with the :class:`TorchContext` for unknown classes; returns a module
            or None.
        overrides: whether ``fallback`` comes before the built-in mapping of a Lua class, by its name.
        knows: whether ``fallback`` has a module for a Lua class, by its name.
        pending: large parameters stay in the file, see :mod:`~dpnn_bridge.conversion.deferred`.
    """

    index_base: Literal[0, 1] = 1
    inplace: bool = False
    gradients: bool = False
    allow_unsupported: bool | Literal["unknown"] = False
    fallback: Callable[[LuaObject, Any], nn.Module | None] | None = None
    overrides: Callable[[str], bool] | None = None
    knows: Callable[[str], bool] | None = None
    pending: bool = False

    def __post_init__(self) -> None:
        check_types("Options", _hints(), vars(self))


@cache
def _hints() -> dict[str, Any]:
    return get_type_hints(Options)
