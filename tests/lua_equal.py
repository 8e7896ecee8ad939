"""Structural equality of Lua values, for tests."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np

from dpnn_bridge.objects import LuaFunction, LuaObject, LuaStorage, LuaTable, LuaTensor

_COMPOUND = (LuaObject, LuaTable, LuaTensor, LuaStorage)


def differences(a: Any, b: Any, *, ignore: Collection[str] = (), limit: int = 20) -> list[str]:
    """Paths at which two Lua values differ; identity structure (what is the same object) counts as part of the value.

    Args:
        a, b: the values.
        ignore: names of object fields that do not count.
        limit: stop after so many.
    """
    found: list[str] = []
    partner: dict[int, Any] = {}
    stack: list[tuple[str, Any, Any]] = [("", a, b)]
    keyed: list[tuple[str, Any, Any]] = []
    while (stack or keyed) and len(found) < limit:
        if not stack:
            stack.extend(_keyed(*keyed.pop(), partner, found))
            continue
        path, x, y = stack.pop()
        numbers = all(isinstance(v, (int, float)) for v in (x, y))
        if type(x) is not type(y) and not numbers:
            found.append(f"{path}: {x!r:.60} is not {y!r:.60}")
            continue
        if isinstance(x, (*_COMPOUND, LuaFunction)):
            if id(x) in partner:
                if partner[id(x)] is not y:
                    found.append(f"{path}: another object than where it was met before")
                continue
            partner[id(x)] = y
        if isinstance(x, LuaObject):
            if (x.class_name, x.version) != (y.class_name, y.version):
                found.append(f"{path}: {x.class_name} V {x.version} is not {y.class_name} V {y.version}")
            if isinstance(x.payload, LuaTable):
                stack.extend(_items(path, x.payload, y.payload, found, ignore))
            elif x.payload != y.payload:
                found.append(f"{path}: payload differs")
            stack.extend((f"{path}.header", p, q) for p, q in zip(x.header, y.header, strict=False))
        elif isinstance(x, LuaTable):
            stack.extend(_items(path, x, y, found, ()))
            keyed.append((path, x, y))
        elif isinstance(x, LuaTensor):
            if x.class_name != y.class_name or x.shape != y.shape:
                found.append(f"{path}: {x!r} is not {y!r}")
            elif not np.array_equal(x.numpy(), y.numpy(), equal_nan=x.dtype.kind == "f"):
                found.append(f"{path}: elements differ")
        elif isinstance(x, LuaStorage):
            if x.class_name != y.class_name or not np.array_equal(x.numpy(), y.numpy()):
                found.append(f"{path}: storages differ")
        elif isinstance(x, LuaFunction):
            if x.bytecode != y.bytecode:
                found.append(f"{path}: bytecode differs")
        elif x != y and not (isinstance(x, float) and math.isnan(x) and math.isnan(y)):
            found.append(f"{path}: {x!r} is not {y!r}")
    return found


def _items(path: str, x: Any, y: Any, found: list[str], ignore: Collection[str]) -> list[tuple[str, Any, Any]]:
    simple, others = ({k for k in t if k not in ignore and not isinstance(k, _COMPOUND)} for t in (x, y))
    for k in simple ^ others:
        found.append(f"{path}.{k}: only in {'the first' if k in simple else 'the second'}")
    return [(f"{path}.{k}", x[k], y[k]) for k in simple & others]


def _keyed(path: str, x: Any, y: Any, partner: dict[int, Any], found: list[str]) -> list[tuple[str, Any, Any]]:
    """Entries whose keys are objects, in whatever order: a key stands for the object that it was paired with."""
    keys, others = ([k for k in t if isinstance(k, _COMPOUND)] for t in (x, y))
    if len(keys) != len(others):
        found.append(f"{path}: {len(keys)} compound keys, {len(others)}")
    pairs, taken = [], set()
    for k in keys:
        if id(k) in partner:
            other = partner[id(k)]
            taken.add(id(other))
            if other in y:
                pairs.append((f"{path}.<value of {k!r:.40}>", x[k], y[other]))
            else:
                found.append(f"{path}: the key {k!r:.40} is only in the first")
    unmet = zip((k for k in keys if id(k) not in partner), (k for k in others if id(k) not in taken), strict=False)
    for k, other in unmet:
        pairs += [(f"{path}.<key>", k, other), (f"{path}.<value>", x[k], y[other])]
    return pairs
