"""Change plain nested data, such as the headers and graphs of .pt and .safetensors files."""

from __future__ import annotations

import copy
from random import Random
from typing import Any

from .graphs import NUMBERS, STRINGS

#: replacements for a value
ODD: list[Any] = [None, True, False, [], {}, [[]], [0], [-1], [10**6], 10**400, -1, 2**62, 2**64, *NUMBERS, *STRINGS]


def edited(value: Any, random: Random) -> Any:
    """Return a copy in which one to three values are replaced, removed, repeated or moved."""
    root = [copy.deepcopy(value)]
    for _ in range(random.choice([1, 1, 2, 3])):
        positions = list(_positions(root))
        holder, key = random.choice(positions)
        kind = random.randrange(6)
        if kind == 0:
            other, name = random.choice(positions)
            holder[key] = copy.deepcopy(other[name])
        elif kind == 1 and holder is not root:
            del holder[key]
        elif kind == 2 and isinstance(holder, list) and holder is not root:
            holder[key:key] = [copy.deepcopy(holder[key])] * random.choice([1, 2, 50])
        elif kind == 3 and isinstance(holder, dict):
            holder[random.choice(STRINGS)] = copy.deepcopy(holder[key])
        elif kind == 4 and type(holder[key]) in (int, float):
            step = random.choice([-1, 1, 8, 0.5])
            holder[key] += step if abs(holder[key]) < 1 << 53 else int(step)  # no float is as large as some numbers
        else:
            holder[key] = copy.deepcopy(random.choice(ODD))
    return root[0]


def _positions(root: list[Any]) -> Any:
    """Yield the container and the key of every value."""
    stack: list[Any] = [root]
    while stack:
        holder = stack.pop()
        for key, value in holder.items() if isinstance(holder, dict) else enumerate(holder):
            yield holder, key
            if isinstance(value, (dict, list)) and value:
                stack.append(value)
