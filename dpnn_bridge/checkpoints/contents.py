"""Describe the content of a file that is not a module, and convert it to Python data."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dpnn_bridge.base.display import printable, shortened
from dpnn_bridge.base.graph import MAX_DEPTH, dict_items, format_path
from dpnn_bridge.base.suffixes import TORCH7
from dpnn_bridge.objects import LuaFunction, LuaObject, LuaStorage, LuaTable, LuaTensor

#: keys under which training scripts store the path of a model file
MODEL_FILE_KEYS = ("modelFile", "model_file", "modelPath", "model_path", "netFile", "checkpointFile", "weightsFile")
#: maximum number of entries of a table in a message
LISTED = 6


def without_module(root: Any, source: str) -> str:
    """Return the error message for a file without a module, with its content or a path of a model file, and advice."""
    named = named_file(root)
    if named is not None:
        key, name = named
        local = Path(source).parent / name.replace("\\", "/").rpartition("/")[2]
        file = f"{local}, which exists" if source and os.path.isfile(local) else "that file"
        return (
            f"{source}: contains no module but the path of another file, {key} = {shortened(name)!r}: convert {file}."
        )
    message = f"{source}: contains no module but {description(root)}."
    if isinstance(root, (LuaTable, LuaTensor, LuaObject)):
        message += " It can be converted as data to .npz, .safetensors, .json or .pt."
    if _has_vectors(root):
        message += (
            " If this is a flat parameter vector, create the module and load the vector with "
            "dpnn_bridge.load_flat(module, vector)."
        )
    return message


def named_file(root: Any) -> tuple[str, str] | None:
    """Return the key and the path of a model file to which a table refers: ``("modelFile", "model_5.t7")``."""
    if not isinstance(root, (LuaTable, LuaObject)):
        return None
    texts = [(k, v) for k, v in root.items() if isinstance(k, str) and isinstance(v, str)]
    files = [(k, v) for k, v in texts if k in MODEL_FILE_KEYS]
    files += [(k, v) for k, v in texts if "model" in k.lower() and v.endswith(TORCH7)]
    return next(((format_path([k]), v) for k, v in files), None)


def description(value: Any) -> str:
    """Describe a value in one line: its type and, for a table or an object, the first entries."""
    if not isinstance(value, (LuaTable, LuaObject)):
        return type_of(value)
    fields = value.fields if isinstance(value, LuaObject) else value
    listed = [f"{format_path([k])} ({type_of(v)})" for k, v in list(fields.items())[:LISTED]]
    rest = ", …" if len(fields) > LISTED else ""
    return f"{type_of(value)}: {', '.join(listed)}{rest}" if listed else type_of(value)


def type_of(value: Any) -> str:
    """Describe the type of a value, and its size."""
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
    names = {str: "a string", bool: "a boolean", int: "a number", float: "a number", type(None): "nil"}
    return names.get(type(value), f"a {type(value).__name__}")


def _has_vectors(root: Any) -> bool:
    values = [root, *root.values()] if isinstance(root, LuaTable) else [root]
    return any(isinstance(v, LuaTensor) and len(v.shape) == 1 and v.dtype.kind == "f" for v in values)


def plain_entries(root: Any) -> Any:
    """Convert the entries of a checkpoint table besides modules to Python data: options, vocabulary, mean, losses.

    Tables become lists or dicts, and tensors become torch tensors. Objects, functions and tensors of more than
    :data:`LARGEST_KEPT` elements (optimizer states) are omitted. Returns None if the file is not a table.
    """
    if not isinstance(root, LuaTable):
        return None
    return _PlainData().plain(root)


#: maximum number of elements of a tensor that is kept
LARGEST_KEPT = 100_000
#: maximum number of elements read from a storage through several views, as a multiple of the storage's size
MAX_VIEWS = 4


class _PlainData:
    """Converter of tables to Python data; a table with several references is converted once."""

    def __init__(self) -> None:
        self._open: set[int] = set()
        self._done: dict[int, Any] = {}
        self._copied: dict[int, int] = {}

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
            copied = self._copied[id(value.storage)] = self._copied.get(id(value.storage), 0) + value.size
            if value.size > LARGEST_KEPT or copied > MAX_VIEWS * value.storage.size:
                return None
        return value.torch().clone()

    def _table(self, table: LuaTable) -> Any:
        items = {k: self.plain(v) for k, v in dict_items(table) if isinstance(k, (bool, int, float, str))}
        items = {k: v for k, v in items.items() if v is not None}
        is_array = not any(isinstance(k, bool) for k in items) and list(items) == list(range(1, len(items) + 1))
        return list(items.values()) if items and is_array else items
