"""Compare two object graphs: values, order, classes and sharing."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np

from dpnn_bridge.base.display import LONGEST_LINE, shortened
from dpnn_bridge.base.graph import key_text
from dpnn_bridge.loaders.writer import python_number
from dpnn_bridge.objects import LuaFunction, LuaObject, LuaStorage, LuaTable, LuaTensor, elements

_COMPOUND = (LuaTable, LuaObject, LuaTensor, LuaStorage, LuaFunction)
_CHUNK = 1 << 20

#: path of a value: the path of its parent and its label, joined only for messages, so that long keys are not copied
_Path: TypeAlias = "tuple[_Path, str] | None"


def difference(a: Any, b: Any, *, exact_nan: bool = True, shared: bool = True, ordered: bool = True) -> str | None:
    """Return the first difference between two graphs, as one line with its path; None if the graphs are equal.

    Args:
        a, b: Lua values.
        exact_nan: whether the bits of nan must be equal; ASCII files do not preserve them.
        shared: whether both graphs must share values at the same paths; files without references contain copies.
        ordered: whether the keys of tables must have the same order. Objects as keys always must.
    """
    # id of a value of the first graph -> its value in the second graph; if copies may replace a shared value, the key
    # contains the ids of both
    compared: dict[Any, Any] = {}
    partners: set[int] = set()  # ids of the values of the second graph
    stack: list[tuple[_Path, Any, Any]] = [(None, a, b)]
    while stack:
        path, a, b = stack.pop()
        if not isinstance(a, _COMPOUND):
            if not _same_scalar(a, b, exact_nan):
                return f"{_text(path) or 'the object'} is {_short(a)} in one and {_short(b)} in the other"
            continue
        if type(a) is not type(b):
            return f"{_text(path) or 'the object'} is {_short(a)} in one and {_short(b)} in the other"
        key = id(a) if shared else (id(a), id(b))
        if compared.get(key) is b:
            continue
        if shared and (key in compared or id(b) in partners):
            return f"{_text(path)} is shared in one and not in the other"
        compared[key] = b
        partners.add(id(b))
        found = _own_difference(a, b, exact_nan)
        if found:
            return f"{_text(path) or 'the object'}: {found}"
        stack.extend(reversed([((path, label), x, y) for label, x, y in _children(a, b, ordered)]))
    return None


def _same_scalar(a: Any, b: Any, exact_nan: bool) -> bool:
    a, b = python_number(a), python_number(b)
    if isinstance(a, bool) or isinstance(b, bool) or not isinstance(a, (int, float)) or not isinstance(b, (int, float)):
        return type(a) is type(b) and a == b
    if a != a and b != b and not exact_nan:
        return True
    return struct.pack("<d", a) == struct.pack("<d", b)


def _own_difference(a: Any, b: Any, exact_nan: bool) -> str | None:
    """Return a difference of two values of the same type, without their child values."""
    names: tuple[str, ...] = {
        LuaObject: ("class_name", "version"),
        LuaTensor: ("class_name", "shape", "stride", "offset"),
        LuaStorage: ("class_name", "size"),
        LuaFunction: ("type_code", "bytecode"),
    }.get(type(a), ())
    for name in names:
        x, y = getattr(a, name), getattr(b, name)
        if x != y:
            return f"{name} is {_short(x)} in one and {_short(y)} in the other"
    if isinstance(a, LuaTable) and len(a) != len(b):
        return f"{len(a)} entries in one and {len(b)} in the other"
    if isinstance(a, LuaObject) and len(a.header) != len(b.header):
        return f"{len(a.header)} values before the fields in one and {len(b.header)} in the other"
    if isinstance(a, LuaStorage) and not _same_elements(elements(a), elements(b), exact_nan):
        return "the elements differ"
    return None


def _same_elements(a: np.ndarray, b: np.ndarray, exact_nan: bool) -> bool:
    for start in range(0, len(a), _CHUNK):
        x, y = a[start : start + _CHUNK], b[start : start + _CHUNK]
        if exact_nan or a.dtype.kind != "f":
            if not np.array_equal(np.ascontiguousarray(x).view(np.uint8), np.ascontiguousarray(y).view(np.uint8)):
                return False
        elif not np.array_equal(x, y, equal_nan=True) or np.any((np.signbit(x) != np.signbit(y)) & ~np.isnan(x)):
            return False
    return True


def _children(a: Any, b: Any, ordered: bool) -> Iterable[tuple[str, Any, Any]]:
    """Yield label and both values of each pair of child values."""
    if isinstance(a, LuaTable):
        entries = (a.entries, b.entries) if ordered else _common_first(a.entries, b.entries)
        for (k, x), (m, y) in zip(*(e.items() for e in entries), strict=True):
            label = key_text(k)
            if k is not m:
                yield f"{label} (key)", k, m
            yield label, x, y
    elif isinstance(a, LuaObject):
        for i, (x, y) in enumerate(zip(a.header, b.header, strict=True)):
            yield f" (header {i})", x, y
        yield "", a.payload, b.payload
    elif isinstance(a, LuaFunction):
        yield ".upvalues", a.upvalues, b.upvalues
    elif isinstance(a, LuaTensor):
        yield ".storage", a.storage, b.storage


def _common_first(a: dict[Any, Any], b: dict[Any, Any]) -> Iterable[dict[Any, Any]]:
    """Return both dicts with their common keys first, in one order."""
    common = [key for key in a if key in b]
    return [{**{key: entries[key] for key in common}, **entries} for entries in (a, b)]


def _text(path: _Path) -> str:
    labels: list[str] = []
    while path is not None:
        path, label = path
        labels.append(label)
    return shortened("".join(reversed(labels)), LONGEST_LINE)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
