"""``load_lua`` as PyTorch had it until 0.4, for code that calls it: tables, tensors, and modules that compute."""

from __future__ import annotations

import os
from typing import Any

from dpnn_bridge.base.boundary import raises
from dpnn_bridge.base.graph import is_module
from dpnn_bridge.conversion import registry
from dpnn_bridge.conversion.options import Options
from dpnn_bridge.conversion.torch_context import TorchContext
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.loaders.t7_reader import read_t7
from dpnn_bridge.objects import LuaFunction, LuaObject, LuaStorage, LuaTable, LuaTensor


@raises(ConversionError, "loading")
def load_lua(
    filename: str | os.PathLike[str],
    unknown_classes: bool = False,
    long_size: int | None = None,
    force_deserialize_classes: bool = True,
) -> Any:
    """Loads a ``.t7`` file as ``torch.utils.serialization.load_lua`` of PyTorch 0.4 did, with its arguments.

    Args:
        filename: the file.
        unknown_classes: objects of unknown classes are returned as :class:`~dpnn_bridge.objects.LuaObject`, whose
            fields ``obj["name"]`` reads, instead of an error.
        long_size: bytes of a C ``long``, 4 or 8; default: found out.
        force_deserialize_classes: without effect, as in PyTorch 0.4.

    Returns:
        Tables with the keys 1, 2, … as lists and other tables as dicts, tensors and storages as torch tensors (CUDA
        tensors on the CPU), modules and criterions as those of :func:`dpnn_bridge.load`. Objects that occur twice in
        the file are one object.

    Raises:
        T7Error: the file cannot be read.
        UnsupportedClassError: it holds objects of unknown classes, and ``unknown_classes`` is False.

    Differs from PyTorch 0.4:
        Modules are those of ``torch.nn`` and train; ``torch.legacy.nn`` is gone. They are called, ``model(x)``;
        ``model.forward(x)`` works as well, ``model.backward`` does not. Strings that are not UTF-8 are kept.
    """
    return _Values(unknown_classes).value(read_t7(filename, long_size=long_size))


class _Values:
    """Turns the values of one file into Python's, each object once."""

    def __init__(self, unknown_classes: bool) -> None:
        self.unknown_classes = unknown_classes
        self.context = TorchContext(Options(allow_unsupported=unknown_classes))
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
