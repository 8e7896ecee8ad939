"""Convert data without a model: tensors, tables and datasets of a ``.t7`` file.

``.npz`` and ``.safetensors`` are flat: nested keys are joined with dots, as in ``train.mean`` or ``batches.1.x``, and
lists start at 1 as in Lua. ``.safetensors`` stores everything that is not a tensor as JSON in its metadata. ``.json``
and ``.pt`` keep the nesting: tables with the keys 1 to n become lists, other tables and objects become dicts. The dict
of an object contains its class under ``"torch class"``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dpnn_bridge.base.display import shortened
from dpnn_bridge.base.elements import lists_of
from dpnn_bridge.base.graph import key_text
from dpnn_bridge.conversion.budget import MAX_VALUES, PER_ENTRY, Budget
from dpnn_bridge.errors import ConversionError, ConversionLimitError
from dpnn_bridge.objects import LuaFunction, LuaObject, LuaStorage, LuaTable, LuaTensor

#: key for the class of an object in its dict
CLASS = "torch class"
#: bytes of memory for an element while it is converted to text
_AS_TEXT = 512
#: bytes of memory for a list, and for a space at the beginning of a line, while they are converted to text
_PER_LIST, _PER_SPACE = 128, 4
#: lists for each element, such as those of N x 1 labels, and levels, that cost nothing
_FREE_LISTS, _FREE_LEVELS = 2, 8
#: bytes of memory for a character of a string in a table that occurs several times
_PER_CHARACTER = 8
#: maximum depth of nested tables
_MAX_DEPTH = 200
#: maximum total length of the names of all values, which contain the keys of all tables around the value
MAX_CHARACTERS = 1 << 28


@dataclass
class Data:
    """Data to write, as a Lua value and as plain data.

    Attributes:
        lua: the Lua value.
        plain: the value as lists, dicts, numbers, strings and numpy arrays.
        tensors: number of tensors.
        values: how many numbers, strings and booleans there are.
        tables: number of tables and objects; a shared table counts each time.
        dropped: paths, with reasons, of values that only ``.t7`` can contain: functions, tables that contain themselves
            or are nested too deeply, keys of other types, objects whose content is not a table.
        ambiguous: keys of one table with the same text, such as ``1`` and ``"1"``, which only ``.t7`` distinguishes.
        characters: total length of the names of all values.
        visited: ``id`` of the tables and objects that were converted before.
        text: whether the output is text.
        options: options of the format, see :class:`~dpnn_bridge.outputs.format.ExportContext`.
    """

    lua: Any = None
    plain: Any = None
    tensors: int = 0
    values: int = 0
    tables: int = 0
    dropped: list[str] = field(default_factory=list)
    ambiguous: list[str] = field(default_factory=list)
    characters: int = 0
    visited: set[int] = field(default_factory=set)
    text: bool = False
    options: dict[str, Any] = field(default_factory=dict)


def collect(value: Any, *, text: bool = False) -> Data:
    """Convert a Lua value to plain data.

    Args:
        value: the Lua value.
        text: whether the output is text, which needs more memory.

    Raises:
        ConversionLimitError: shared tables and repeated elements make the data far larger than the file.
    """
    found = Data(value, text=text)
    found.plain = _plain(value, "", found, (), Budget(value, _AS_TEXT if text else 0))
    return found


def _plain(value: Any, path: str, found: Data, above: tuple[int, ...], budget: Budget) -> Any:
    """Convert one value to lists, dicts, numbers, strings and numpy arrays.

    Args:
        value: the value.
        path: path of the value.
        found: the result, whose counts are updated.
        above: ``id`` of the tables and objects around the value.
        budget: limit of the memory.
    """
    limit = MAX_VALUES + PER_ENTRY * budget.entries
    if found.tensors + found.values + found.tables > limit:
        raise ConversionLimitError(f"more than {limit:,} values: its shared tables are used too often")
    found.characters += len(path)
    if found.characters > MAX_CHARACTERS:
        raise ConversionLimitError(f"the names of all values have more than {MAX_CHARACTERS:,} characters")
    if isinstance(value, (LuaTensor, LuaStorage)):
        found.tensors += 1
        try:
            budget.show(value.size, value.dtype.itemsize)  # a view may repeat one element
            array = value.numpy()
            if found.text:
                lists = max(0, lists_of(array.shape) - _FREE_LISTS * array.size)
                spaces = (lists + array.size) * max(0, len(above) + array.ndim - _FREE_LEVELS)  # before each line
                budget.spend(lists * _PER_LIST + spaces * _PER_SPACE, "memory", tensors=0)
        except ConversionLimitError as error:
            raise ConversionLimitError(str(error), path=shortened(path) or "the file") from None
        return array
    if isinstance(value, (LuaTable, LuaObject)) and id(value) not in above and len(above) < _MAX_DEPTH:
        above = (*above, id(value))
        found.tables += 1
        budget.spend(0, "tables")
        fields = value.fields if isinstance(value, LuaObject) else value
        if id(value) in found.visited:
            texts = [value.class_name if isinstance(value, LuaObject) else "", *fields.values()]
            repeated = sum(len(text) for text in texts if isinstance(text, (str, bytes)))
            budget.spend(repeated * _PER_CHARACTER, "memory", tensors=0)
        found.visited.add(id(value))
        array = fields.as_list()
        if array and len(array) == len(fields) and not isinstance(value, LuaObject):
            return [_plain(v, f"{path}[{i}]", found, above, budget) for i, v in enumerate(array, 1)]
        items: dict[str, Any] = {CLASS: value.class_name} if isinstance(value, LuaObject) else {}
        if isinstance(value, LuaObject) and not isinstance(value.payload, (LuaTable, type(None))):
            found.dropped.append(f"{path or 'the file'}: the content of a {value.class_name}, which is not a table")
        for key, inner in fields.items():
            if not isinstance(key, (str, int, float, bool)):
                found.dropped.append(f"{path or 'the file'}: an entry whose key is a {type(key).__name__}")
                continue
            name = key_name(key)
            if name in items:
                found.ambiguous.append(f"two keys of {path or 'the table'} have the name {name!r}")
            plain = _plain(inner, (path + key_text(key)).removeprefix("."), found, above, budget)
            if plain is not None:
                items[name] = plain
        return items
    if isinstance(value, (LuaFunction, LuaTable, LuaObject)):
        reason = "a table inside itself" if id(value) in above else f"a table nested deeper than {_MAX_DEPTH} levels"
        reason = "a Lua function" if isinstance(value, LuaFunction) else reason
        found.dropped.append(f"{path or 'the file'}: {reason}")
        return None
    found.values += value is not None
    return value.decode("latin-1") if isinstance(value, bytes) else value


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value that is not a list or dict, with its name such as ``a.b.1``."""
    if isinstance(value, (list, dict)):
        items = value.items() if isinstance(value, dict) else enumerate(value, 1)
        for key, inner in items:
            yield from leaves(inner, f"{name}.{key}" if name else str(key))
    elif value is not None:
        yield name or "data", value


def flat(value: Any) -> dict[str, Any]:
    """Return the result of :func:`leaves` as a dict.

    Raises:
        ConversionError: two values would have the same name.
    """
    found: dict[str, Any] = {}
    for name, leaf in leaves(value):
        if name in found:
            raise ConversionError(f"two entries would have the name {name!r}; use .pt or .json, which distinguish them")
        found[name] = leaf
    return found


def key_name(key: str | float | bool) -> str:
    """Return the name of an entry of a table in the plain data."""
    return _text(str(key).lower() if isinstance(key, bool) else str(key))


def _text(value: str) -> str:
    """Escape the bytes of a string that are not UTF-8."""
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def cleaned(found: Data, array: Callable[[np.ndarray], Any]) -> Any:
    """Return ``found.plain`` with escaped strings and converted arrays.

    Args:
        found: the data.
        array: function that converts an array to the type that the format writes.

    Raises:
        ConversionError: two keys of a table would have the same name.
    """
    if found.ambiguous:
        raise ConversionError(
            f"{found.ambiguous[0]}; write .t7, which distinguishes them, or select another part with key= (--key)"
        )
    return _cleaned(found.plain, array)


def _cleaned(value: Any, array: Callable[[np.ndarray], Any]) -> Any:
    if isinstance(value, dict):
        return {k: _cleaned(v, array) for k, v in value.items()}
    if isinstance(value, list):
        return [_cleaned(v, array) for v in value]
    if isinstance(value, np.ndarray):
        return array(value)
    return _text(value) if isinstance(value, str) else value


def check_names(names: Iterable[str], suffix: str, is_valid: Callable[[str], bool]) -> None:
    """Check that a format can store all names.

    Raises:
        ConversionError: it cannot store a name; the message contains the first such name.
    """
    bad = next((name for name in names if not is_valid(name)), None)
    if bad is not None:
        raise ConversionError(
            f"{suffix} cannot store an entry named {shortened(repr(bad))}; use .pt or .json, or select another part "
            "with key= (--key)"
        )
