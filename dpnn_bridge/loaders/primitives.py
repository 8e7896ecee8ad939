"""Define the type codes of a .t7 file, and decode numbers and strings."""

from __future__ import annotations

import math

NIL, NUMBER, STRING, TABLE, TORCH, BOOLEAN, FUNCTION_6, FUNCTION_7, FUNCTION_8 = range(9)
#: Integers up to this limit are exact in a double; larger numbers stay floats.
LARGEST_EXACT = 1 << 53


def number(value: float) -> int | float:
    """Return a Lua number as an int if it is integral."""
    if value.is_integer() and -LARGEST_EXACT <= value <= LARGEST_EXACT and (value or math.copysign(1.0, value) > 0):
        return int(value)
    return value


def text(raw: bytes) -> str:
    """Return a Lua string; bytes that are not UTF-8 become surrogates."""
    return raw.decode("utf-8", "surrogateescape")
