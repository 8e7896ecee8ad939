"""Structural equality of Lua values, for tests."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np

from dpnn_bridge.objects import LuaFunction, LuaObject, LuaStorage, LuaTable, LuaTensor


def differences(a: Any, b: Any, *, ignore: Collection[str] = (), limit: int = 20) -> list[str]:
    """Paths at which two Lua values differ; identity structure (what is the same object) counts as part of the value.

    Args:
        a, b: the values.
        ignore: names of object fields that do not count.
        limit: stop after so many.
    """
    found: list[str] = []
    pairs: dict[int, int] = {}
    stack: list[tuple[str, Any, Any]] = [("", a, b)]
    while stack and len(found) < limit:
        path, x, y = stack.pop()
        if type(x) is not type(y) and not (isinstance(x, (int, float)) and isinstance(y, (int, float))):
            found.append(f"{path}: {x!r:.60} is not {y!r:.60}")
            continue
        if isinstance(x, (LuaObject, LuaTable, LuaTensor, LuaStorage, LuaFunction)):
            if id(x) in pairs:
                if pairs[id(x)] != id(y):
                    found.append(f"{path}: another object than where it was met before")
                continue
            pairs[id(x)] = id(y)
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
    compound = [k for k in x if isinstance(k, (LuaObject, LuaTable, LuaTensor, LuaStorage))]
    others = [k for k in y if isinstance(k, (LuaObject, LuaTable, LuaTensor, LuaStorage))]
    if len(compound) != len(others):
        found.append(f"{path}: {len(compound)} compound keys, {len(others)}")
    pairs = [(f"{path}.<key {i}>", *kk) for i, kk in enumerate(zip(compound, others, strict=False))]
    pairs += [(f"{path}.<value {i}>", x[p], y[q]) for i, (p, q) in enumerate(zip(compound, others, strict=False))]
    simple = {k for k in x if k not in ignore} - set(compound)
    for k in simple ^ ({k for k in y if k not in ignore} - set(others)):
        found.append(f"{path}.{k}: only in {'the first' if k in simple else 'the second'}")
    pairs += [(f"{path}.{k}", x[k], y[k]) for k in simple if k in y]
    return pairs
