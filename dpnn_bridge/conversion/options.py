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
        index_base: first index of modules whose inputs or outputs are indices: 1, as in Lua, or 0.
        inplace: whether modules with the field ``inplace`` in the file may overwrite their inputs.
        gradients: whether to load gradients, such as ``gradWeight``, into ``.grad``.
        allow_unsupported: whether to create a :class:`Placeholder` for an object of an unknown class or an object that
            cannot be built; ``"unknown"``: only for an object of an unknown class.
        fallback: function ``fallback(obj, ctx)`` for objects of unknown classes, with the :class:`TorchContext`;
            returns a module or None.
        overrides: function that returns, for the name of a Lua class, whether ``fallback`` precedes the mapping.
        knows: function that returns, for the name of a Lua class, whether ``fallback`` supports the class.
        pending: whether large parameters stay in the file, see :mod:`~dpnn_bridge.conversion.deferred`.
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
