"""Implement ``load_lua`` with ``torch.nn`` modules, as in dpnn_bridge 0.1."""

from __future__ import annotations

from typing import Any

from dpnn_bridge.base.graph import is_module
from dpnn_bridge.conversion import registry
from dpnn_bridge.conversion.options import Options
from dpnn_bridge.conversion.torch_context import TorchConversion
from dpnn_bridge.objects import LuaFunction, LuaObject, LuaStorage, LuaTable, LuaTensor


class TorchNN:
    """Converter of the Lua values of one file to Python values and modules. Each object is converted once."""

    def __init__(self, unknown_classes: bool) -> None:
        self.unknown_classes = unknown_classes
        self.context = TorchConversion(Options(allow_unsupported=unknown_classes))
        self.done: dict[int, Any] = {}

    def value(self, root: Any) -> Any:
        value = self._value(root, ())
        self.context.finish()
        return value

    def _value(self, value: Any, path: tuple[Any, ...]) -> Any:
        if not isinstance(value, (LuaTable, LuaObject, LuaTensor, LuaStorage, LuaFunction)):
            return value
        if id(value) not in self.done:
            if isinstance(value, LuaTable):
                return self._table(value, path)
            self.done[id(value)] = self._object(value, path)
        return self.done[id(value)]

    def _table(self, table: LuaTable, path: tuple[Any, ...]) -> Any:
        array = table.as_list()
        if len(array) == len(table):
            listed: list[Any] = []
            self.done[id(table)] = listed
            listed.extend(self._value(v, (*path, i)) for i, v in enumerate(array, 1))
            return listed
        entries: dict[Any, Any] = {}
        self.done[id(table)] = entries
        for key, value in table.items():
            name = self._value(key, path)
            entries[key if isinstance(name, (list, dict)) else name] = self._value(value, (*path, key))
        return entries

    def _object(self, value: LuaObject | LuaTensor | LuaStorage | LuaFunction, path: tuple[Any, ...]) -> Any:
        if isinstance(value, (LuaTensor, LuaStorage)):
            return value.torch()
        if isinstance(value, LuaFunction):
            return value
        if registry.find(value) or (is_module(value) and not self.unknown_classes):
            return self.context.to_torch(value, *path)
        return value
