"""Describe the content of a file that is not a module."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dpnn_bridge.base.display import printable, shortened
from dpnn_bridge.base.graph import MAX_DEPTH, dict_items, format_path
from dpnn_bridge.base.suffixes import TORCH7
from dpnn_bridge.objects import LuaFunction, LuaObject, LuaStorage, LuaTable, LuaTensor

#: keys under which training scripts name the file of the model
NAMES_A_FILE = ("modelFile", "model_file", "modelPath", "model_path", "netFile", "checkpointFile", "weightsFile")
#: entries of a table that a message lists
LISTED = 6


def without_module(root: Any, source: str = "") -> str:
    """Return the message for a file without a module: its content, a file that it names, and the next step."""
    named = named_file(root)
    if named is not None:
        place, name = named
        beside = Path(source).parent / name.replace("\\", "/").rpartition("/")[2]
        where = f"{beside}, which exists" if source and os.path.isfile(beside) else "that file"
        named_as = f"{place} = {shortened(name)!r}"
        return f"{source}: the file holds no module but names another file, {named_as}: convert {where}."
    message = f"{source}: the file holds no module but {description(root)}."
    if isinstance(root, (LuaTable, LuaTensor, LuaObject)):
        message += " As data it converts to .npz, .safetensors, .json or .pt."
    if _holds_vectors(root):
        message += (
            " If that is a flat parameter vector, build the module and fill it with "
            "dpnn_bridge.load_flat(module, vector)."
        )
    return message


def named_file(root: Any) -> tuple[str, str] | None:
    """Return key and name if a table refers to a model file: ``("modelFile", "model_5.t7")`` of a ``latest.t7``."""
    if not isinstance(root, (LuaTable, LuaObject)):
        return None
    texts = [(k, v) for k, v in root.items() if isinstance(k, str) and isinstance(v, str)]
    known = [(k, v) for k, v in texts if k in NAMES_A_FILE]
    known += [(k, v) for k, v in texts if "model" in k.lower() and v.endswith(TORCH7)]
    return next(((format_path([k]), v) for k, v in known), None)


def description(value: Any) -> str:
    """Return one line about a value: its kind and, of a table or an object, its first entries."""
    if not isinstance(value, (LuaTable, LuaObject)):
        return _kind(value)
    fields = value.fields if isinstance(value, LuaObject) else value
    listed = [f"{format_path([k])} ({_kind(v)})" for k, v in list(fields.items())[:LISTED]]
    rest = ", …" if len(fields) > LISTED else ""
    return f"{_kind(value)}: {', '.join(listed)}{rest}" if listed else _kind(value)


def _kind(value: Any) -> str:
    if isinstance(value, LuaTensor):
        return f"{value.class_name} {'x'.join(map(str, value.shape)) or 'empty'}"
    if isinstance(value, LuaStorage):
        return f"{value.class_name} of {value.size}"
    if isinstance(value, LuaObject):
        return f"an object of class {printable(value.class_name)}"
    if isinstance(value, LuaTable):
        return f"a table of {len(value)}"
    if isinstance(value, LuaFunction):
        return "a function"
    kinds = {str: "a string", bool: "a boolean", int: "a number", float: "a number", type(None): "nil"}
    return kinds.get(type(value), f"a {type(value).__name__}")


def _holds_vectors(root: Any) -> bool:
    values = [root, *root.values()] if isinstance(root, LuaTable) else [root]
    return any(isinstance(v, LuaTensor) and len(v.shape) <= 1 and v.dtype.kind == "f" for v in values)


def surroundings(root: Any) -> Any:
    """Return the other entries of a checkpoint table as plain data: options, vocabulary, mean, losses.

    Tables become lists or dicts and tensors torch tensors. Objects, functions and tensors of more than
    :data:`LARGEST_KEPT` elements (optimizer states) are left out. None when the file is a module alone.
    """
    if not isinstance(root, LuaTable):
        return None
    return _Surroundings().plain(root)


#: elements of a tensor that is still kept beside the model
LARGEST_KEPT = 100_000
#: how often the elements of a storage are kept, in different views
MAX_VIEWS = 4


class _Surroundings:
    """Converts tables to plain data; shared tables stay shared."""

    def __init__(self) -> None:
        self._open: set[int] = set()
        self._done: dict[int, Any] = {}
        self._shown: dict[int, int] = {}

    def plain(self, value: Any) -> Any:
        if not isinstance(value, (LuaTable, LuaTensor)):
            return value if isinstance(value, (bool, int, float, str)) else None
        if id(value) not in self._done:
            if id(value) in self._open or len(self._open) >= MAX_DEPTH:
                return None
            self._open.add(id(value))
            self._done[id(value)] = self._tensor(value) if isinstance(value, LuaTensor) else self._table(value)
            self._open.discard(id(value))
        return self._done[id(value)]

    def _tensor(self, value: LuaTensor) -> Any:
        if value.size and value.storage is not None:
            shown = self._shown[id(value.storage)] = self._shown.get(id(value.storage), 0) + value.size
            if value.size > LARGEST_KEPT or shown > MAX_VIEWS * value.storage.size:
                return None
        return value.torch().clone()

    def _table(self, table: LuaTable) -> Any:
        items = {k: self.plain(v) for k, v in dict_items(table) if isinstance(k, (bool, int, float, str))}
        items = {k: v for k, v in items.items() if v is not None}
        is_array = not any(isinstance(k, bool) for k in items) and list(items) == list(range(1, len(items) + 1))
        return list(items.values()) if items and is_array else items
