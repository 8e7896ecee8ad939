"""Combine several models of one file, such as an encoder and a decoder, in one module."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NoReturn

from torch import nn

from dpnn_bridge.base.graph import format_path, parse_path
from dpnn_bridge.checkpoints.find import SEVERAL, matching_key
from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.objects import LuaObject, LuaTable

#: names that a submodule must not have; ``Lua`` is the mapping of :class:`Models`
_ATTRIBUTES = {"", "Lua", *dir(nn.ModuleDict())}


@lua_class(SEVERAL)
class Models(nn.ModuleDict):
    """The models of a file by key, as in ``load(key=…)``: ``models["[1]"]``, ``models["protos.cnn"]``.

    ``to_lua`` and ``write_t7`` restore the table of the file. In names of ``state_dict``, a dot of a key becomes ``/``,
    a slash ``%2F``, and a percent sign before ``2F``, ``25`` or ``00`` becomes ``%25``. A key that is the name of an
    attribute of modules, such as ``train``, is followed by ``%00``.

    Args:
        models: key -> model.

    Lua:
        A table with several modules; it has no Lua class.
    """

    def __getitem__(self, key: str) -> nn.Module:
        return super().__getitem__(_name(key))

    def __setitem__(self, key: str, module: nn.Module) -> None:
        super().__setitem__(_name(key), module)

    def __delitem__(self, key: str) -> None:
        super().__delitem__(_name(key))

    def __contains__(self, key: str) -> bool:
        return super().__contains__(_name(key))

    def __iter__(self) -> Any:
        return iter(self.keys())

    def keys(self) -> Any:
        return [_key(name) for name in self._modules]

    def items(self) -> Any:
        return list(zip(self.keys(), self._modules.values(), strict=True))

    def forward(self, *inputs: Any) -> NoReturn:
        raise TypeError(f"the file contains several models; call one of them by its key: {', '.join(self.keys())}")

    class Lua(LuaClass):
        computed_fields = ("models",)
        checked_by = "structure"
        test = "test_what_is_beside_them_comes_back"

        @classmethod
        def build(cls, obj: LuaObject, ctx: TorchContext) -> nn.Module:
            return Models({key: ctx.to_torch(model, "models", key) for key, model in obj["models"].items()})

        @classmethod
        def to_lua(cls, module: Models, ctx: LuaContext) -> dict[str, Any]:
            models = LuaTable({key: ctx.to_lua(model) for key, model in module.items()})
            record = record_of(module)
            return {"models": models} if record and "table" in record.fields else {"models": models, "table": models}

        @classmethod
        def serialize(cls, obj: LuaObject) -> Any:
            return obj["table"]


def prefix_of(key: str, names: Iterable[str], expected: Iterable[str]) -> str:
    """Return what precedes the names of one model in a file; empty if the file contains one model.

    If the model has no tensors, the file contains other models if each name begins with a key.

    Args:
        key: path of the model, or empty.
        names: names of the tensors in the file, as in the ``state_dict`` of one or of several models.
        expected: names in the ``state_dict`` of the model.
    """
    names, expected = dict.fromkeys(names), list(expected)
    found = matching_key(key, dict.fromkeys(_key(name.partition(".")[0]) for name in names))
    prefix = f"{_name(key if found is None else found)}."
    if not expected:
        is_one_of_several = all(map(_begins_with_key, names))
    else:
        is_one_of_several = sum(f"{prefix}{n}" in names for n in expected) > sum(n in names for n in expected)
    return prefix if key and is_one_of_several else ""


def _begins_with_key(name: str) -> bool:
    """Return whether the name of a tensor begins with a key as :func:`format_path` writes it, unlike ``0.weight``."""
    key, dot, _ = name.partition(".")
    return bool(dot) and format_path(parse_path(_key(key)) or []) == _key(key)


def _name(key: str) -> str:
    """Convert a key to the name of a submodule, which must not contain a dot or be the name of an attribute."""
    name = re.sub("%(?=2F|25|00)", "%25", key).replace("/", "%2F").replace(".", "/")
    return f"{name}%00" if name in _ATTRIBUTES else name


def _key(name: str) -> str:
    """Undo :func:`_name`."""
    return name.removesuffix("%00").replace("/", ".").replace("%2F", "/").replace("%25", "%")
