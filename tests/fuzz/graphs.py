"""Traverse, use and change the values of a .t7 file."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from random import Random
from typing import Any

import numpy as np

from dpnn_bridge.conversion.registry import known_names
from dpnn_bridge.objects import LuaFunction, LuaObject, LuaStorage, LuaTable, LuaTensor

#: integers that are likely to expose faults
WHOLE = [0, 1, 2, 3, 4, 5, 7, 8, 9, 32, 33, 255, 256, 65536, 2**30, 2**31 - 1, -1, -2, -(2**31)]
#: numbers that are invalid in most fields
NUMBERS = [*WHOLE, 0.5, -0.0, 1e-300, 1e6, 1e18, 1e308, 2.0**53, math.nan, math.inf, -math.inf]
#: strings with a special meaning in a terminal, a page, a graph, a program or a path
STRINGS = [
    *("", "x", "nn.Linear", "torch.FloatTensor", "torch.CudaTensor", "modules", "../../x", "/etc/passwd", "a" * 300),
    *("\x1b[2J\x07", "[red]x[/]", "<script>x</script>", "</title>", '"; import os #', "'''", "\udcff", "\u202e", "%s"),
    *("{{x}}", "${x}", "a\nb", "\0", "1e309", "nan", "V 1", "C:\\x", "con.txt", "é", "x" * 3000, ".", ".."),
]


def walk(value: Any) -> Iterator[Any]:
    """Yield every value of a graph once."""
    stack, seen = [value], set()
    while stack:
        value = stack.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        yield value
        if isinstance(value, LuaTable):
            for pair in value.items():
                stack += pair
        elif isinstance(value, LuaObject):
            stack += [value.payload, *value.header]
        elif isinstance(value, LuaFunction):
            stack.append(value.upvalues)
        elif isinstance(value, LuaTensor):
            stack.append(value.storage)


def use(value: Any) -> None:
    """Read every storage of a graph, and the first and last element of every tensor."""
    for part in walk(value):
        if isinstance(part, LuaStorage):
            assert len(part.numpy()) == part.size
        elif isinstance(part, LuaTensor):
            array = part.numpy()
            if array.size:
                array[(0,) * array.ndim]
                array[(-1,) * array.ndim]


@functools.cache
def class_names() -> list[str]:
    """Return the Lua classes that can be converted."""
    return sorted(known_names())


def changed(root: Any, random: Random) -> Any:
    """Change one to four fields, classes or tensors of a graph in place; return the graph."""
    parts = list(walk(root))
    holders = [p for p in parts if isinstance(p, (LuaTable, LuaObject, LuaTensor))]
    for _ in range(random.choice([1, 1, 2, 4])):
        if not holders:
            return odd(parts, random)
        holder = random.choice(holders)
        if isinstance(holder, LuaTensor):
            _change_tensor(holder, parts, random)
        elif isinstance(holder, LuaObject) and random.randrange(3) == 0:
            _change_object(holder, parts, random)
        else:
            table = holder.payload if isinstance(holder, LuaObject) else holder
            if isinstance(table, LuaTable):
                _change_table(table, parts, random)
    return root


def _change_table(table: LuaTable, parts: list[Any], random: Random) -> None:
    keys = list(table.keys())
    key = random.choice(keys) if keys and random.randrange(4) else _key(random)
    kind = random.randrange(8)
    if kind == 0:
        table.pop(key, None)
    elif kind == 1 and keys:
        table[_key(random)] = table[random.choice(keys)]
    elif kind == 2:
        for i in range(random.choice([1, 30, 300])):
            table[len(keys) + i + 1] = table.get(1)
    else:
        table[key] = odd(parts, random)


def _key(random: Random) -> Any:
    key = random.choice([random.choice(STRINGS), random.choice(NUMBERS), True])
    return 1 if key != key else key


def _change_object(obj: LuaObject, parts: list[Any], random: Random) -> None:
    kind = random.randrange(4)
    if kind < 2:
        obj.class_name = random.choice(class_names()) if kind else random.choice(STRINGS) or "x"
    elif kind == 2:
        obj.version = random.choice([0, 1, 2, 7])
    else:
        obj.payload = odd(parts, random)


def _change_tensor(tensor: LuaTensor, parts: list[Any], random: Random) -> None:
    sizes = list(tensor.shape)
    kind = random.randrange(5)
    if kind == 0 and sizes:
        sizes[random.randrange(len(sizes))] = random.choice([0, 1, 2, 3, 5])
    elif kind == 1:
        sizes = sizes[1:] if random.randrange(2) else [1, *sizes]
    elif kind == 2 and sizes:  # repeated elements
        tensor.stride = (0,) * len(sizes)
        sizes = [random.choice([1, 3, 1000, 2**20]) for _ in sizes]
    elif kind == 3:
        storages = [p for p in parts if isinstance(p, LuaStorage) and p.dtype == tensor.dtype]
        tensor.storage = random.choice([None, *storages])
    else:
        sizes.reverse()
    tensor.shape = tuple(sizes)
    if len(tensor.stride) != len(sizes):
        tensor.stride = tuple(int(math.prod(sizes[i + 1 :])) for i in range(len(sizes)))


def odd(parts: list[Any], random: Random) -> Any:
    """Return a replacement for a value: another type, an extreme number, or another value of the graph."""
    kind = random.randrange(9)
    if kind == 0:
        return random.choice([None, True, False])
    if kind <= 2:
        return random.choice(NUMBERS)
    if kind == 3:
        return random.choice(STRINGS)
    if kind == 4:
        return LuaTable.from_list([random.choice(NUMBERS) for _ in range(random.choice([0, 1, 2, 20]))])
    if kind == 5:
        shape = random.choice([(), (0,), (1,), (2, 3), (3, 3, 3, 3), (1, 1, 1, 1, 1, 1, 1, 1)])
        dtype = random.choice([np.float32, np.float64, np.int64, np.uint8])
        return LuaTensor.from_numpy(np.full(shape or (1,), random.choice([0, 1, 5, 200]), dtype))
    if kind == 6:
        return LuaObject(random.choice(class_names()), LuaTable())
    if kind == 7:
        return LuaFunction(b"\x1bLJ", type_code=8)
    return random.choice(parts)
