"""Convert data without a model: tensors, tables and datasets of a ``.t7`` file.

The flat formats join nested keys with dots, ``train.mean`` or ``batches.1.x``; lists start at 1 as in Lua.
``.safetensors`` stores everything that is not a tensor as JSON in its metadata. ``.json`` and ``.pt`` keep the nesting:
tables with the keys 1 to n become lists, other tables and objects dicts. An object has its class under
``"torch class"``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dpnn_bridge.base.display import shortened
from dpnn_bridge.base.graph import key_text
from dpnn_bridge.conversion.budget import MAX_VALUES, PER_ENTRY, Budget
from dpnn_bridge.errors import ConversionError, ConversionLimitError
from dpnn_bridge.objects import LuaFunction, LuaObject, LuaStorage, LuaTable, LuaTensor

#: key of the class name of an object
CLASS = "torch class"
#: bytes that an element takes while it becomes text
_AS_TEXT = 512
#: bytes that a character of a text takes where a table that contains it occurs again
_PER_CHARACTER = 8
#: how deep tables may be nested
_DEEPEST = 200
#: characters of the names of all values, which repeat the key of a table for each of its entries
MAX_CHARACTERS = 1 << 28


@dataclass
class Data:
    """Data in the form that formats write.

    Attributes:
        lua: the Lua value.
        plain: the same as lists, dicts, numbers, strings and numpy arrays.
        tensors: how many.
        values: how many numbers, strings and booleans.
        tables: how many tables and objects that contain them.
        dropped: paths of functions, and of tables inside themselves or nested too deeply, which only ``.t7`` contains.
        ambiguous: keys of one table with the same text, such as ``1`` and ``"1"``, which only ``.t7`` distinguishes.
        characters: how many the names of all values have.
        met: ``id`` of tables and objects.
    """

    lua: Any = None
    plain: Any = None
    tensors: int = 0
    values: int = 0
    tables: int = 0
    dropped: list[str] = field(default_factory=list)
    ambiguous: list[str] = field(default_factory=list)
    characters: int = 0
    met: set[int] = field(default_factory=set)


def collect(value: Any, *, text: bool = False) -> Data:
    """Return a Lua value in the form that formats write.

    Args:
        value: the Lua value.
        text: whether it will become text.

    Raises:
        ConversionLimitError: it shows far more values than it contains.
    """
    found = Data(value)
    found.plain = _plain(value, "", found, (), Budget(value, _AS_TEXT if text else 0))
    return found


def _plain(value: Any, path: str, found: Data, above: tuple[int, ...], budget: Budget) -> Any:
    """Return lists, dicts, numbers, strings and numpy arrays."""
    most = MAX_VALUES + PER_ENTRY * budget.entries
    if found.tensors + found.values + found.tables > most:
        raise ConversionLimitError(f"more than {most:,} values: its tables are referenced too often")
    found.characters += len(path)
    if found.characters > MAX_CHARACTERS:
        raise ConversionLimitError(f"the names of all values have more than {MAX_CHARACTERS:,} characters")
    if isinstance(value, (LuaTensor, LuaStorage)):
        found.tensors += 1
        try:
            budget.show(value.size, value.dtype.itemsize)  # a view may repeat one element
        except ConversionLimitError as error:
            raise ConversionLimitError(str(error), path=path or "the file") from None
        return value.numpy()
    if isinstance(value, (LuaTable, LuaObject)) and id(value) not in above and len(above) < _DEEPEST:
        above = (*above, id(value))
        found.tables += 1
        budget.spend(0, "tables")
        fields = value.fields if isinstance(value, LuaObject) else value
        if id(value) in found.met:
            texts = [value.class_name if isinstance(value, LuaObject) else "", *fields.values()]
            repeated = sum(len(text) for text in texts if isinstance(text, (str, bytes)))
            budget.spend(repeated * _PER_CHARACTER, "memory", tensors=0)
        found.met.add(id(value))
        array = fields.as_list()
        if array and len(array) == len(fields) and not isinstance(value, LuaObject):
            return [_plain(v, f"{path}[{i}]", found, above, budget) for i, v in enumerate(array, 1)]
        items: dict[str, Any] = {CLASS: value.class_name} if isinstance(value, LuaObject) else {}
        for key, inner in fields.items():
            if not isinstance(key, (str, int, float, bool)):
                found.dropped.append(f"{path}: an entry whose key is a {type(key).__name__}")
                continue
            name = _text(str(key).lower() if isinstance(key, bool) else str(key))
            if name in items:
                found.ambiguous.append(f"two keys of {path or 'the table'} have the name {name!r}")
            plain = _plain(inner, (path + key_text(key)).removeprefix("."), found, above, budget)
            if plain is not None:
                items[name] = plain
        return items
    if isinstance(value, (LuaFunction, LuaTable, LuaObject)):
        what = "a table inside itself" if id(value) in above else f"a table nested more than {_DEEPEST} deep"
        what = "a Lua function" if isinstance(value, LuaFunction) else what
        found.dropped.append(f"{path or 'the file'}: {what}")
        return None
    found.values += value is not None
    return value.decode("latin-1") if isinstance(value, bytes) else value


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ``("a.b.1", leaf)`` for every leaf."""
    if isinstance(value, (list, dict)):
        items = value.items() if isinstance(value, dict) else enumerate(value, 1)
        for key, inner in items:
            yield from leaves(inner, f"{name}.{key}" if name else str(key))
    elif value is not None:
        yield name or "data", value


def flat(value: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, leaf in leaves(value):
        if name in found:
            raise ConversionError(f"two entries would have the name {name!r}; .pt and .json distinguish them")
        found[name] = leaf
    return found


def _text(value: str) -> str:
    """Escape the bytes of a string that are not UTF-8, since these formats contain text."""
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def cleaned(found: Data, array: Callable[[np.ndarray], Any]) -> Any:
    """Convert strings to a form that every format supports, and arrays to the format's form.

    Raises:
        ConversionError: two keys of a table would have one name.
    """
    if found.ambiguous:
        raise ConversionError(f"{found.ambiguous[0]}; .t7 distinguishes them, or select another part with key= (--key)")
    return _cleaned(found.plain, array)


def _cleaned(value: Any, array: Callable[[np.ndarray], Any]) -> Any:
    if isinstance(value, dict):
        return {k: _cleaned(v, array) for k, v in value.items()}
    if isinstance(value, list):
        return [_cleaned(v, array) for v in value]
    if isinstance(value, np.ndarray):
        return array(value)
    return _text(value) if isinstance(value, str) else value


def need_names(names: Iterable[str], suffix: str, possible: Callable[[str], bool]) -> None:
    """Raise a :class:`ConversionError` that names the first entry whose name a format cannot contain."""
    bad = next((name for name in names if not possible(name)), None)
    if bad is not None:
        raise ConversionError(
            f"{suffix} cannot store an entry named {shortened(repr(bad))}; use .pt or .json, or select "
            "another part with key="
            " (--key)"
        )
