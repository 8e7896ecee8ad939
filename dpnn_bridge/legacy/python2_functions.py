"""Functions and operators of Python 2 that translated files call."""

from __future__ import annotations

from functools import cmp_to_key
from typing import Any

import numpy as np


def compared(a: Any, b: Any) -> int:
    """Return -1, 0 or 1, as ``cmp(a, b)`` of Python 2: None is less than numbers, and numbers than other types."""
    try:
        return (a > b) - (a < b)
    except TypeError:
        first, second = map(_type_order, (a, b))
        return (first > second) - (first < second)


def _type_order(value: Any) -> tuple[int, str]:
    return (0, "") if value is None else (1, "") if isinstance(value, (int, float)) else (2, type(value).__name__)


def sort(values: Any, *arguments: Any, **named: Any) -> Any:
    """Call ``values.sort``; a list takes ``cmp``, ``key`` and ``reverse``, as in Python 2."""
    if isinstance(values, list) and type(values).sort is list.sort:
        return values.sort(**_sorting(*arguments, **named))
    return values.sort(*arguments, **named)


def sorted_list(values: Any, *arguments: Any, **named: Any) -> list[Any]:
    """Sort with the arguments ``cmp``, ``key`` and ``reverse`` of Python 2."""
    return sorted(values, **_sorting(*arguments, **named))


def _sorting(cmp: Any = None, key: Any = None, reverse: Any = False) -> dict[str, Any]:
    if cmp is not None:
        by = cmp_to_key(cmp)
        return {"key": by if key is None else lambda value: by(key(value)), "reverse": reverse}
    return {"key": key, "reverse": reverse}


def _is_integral(value: Any) -> bool:
    """Return whether a value is an integer, or a numpy array or scalar of integers."""
    if isinstance(value, (np.ndarray, np.generic)):
        return np.issubdtype(value.dtype, np.integer)
    return isinstance(value, int)


def quotient(a: Any, b: Any) -> Any:
    """Return ``a / b`` as in Python 2: quotients of integers are rounded down, also in numpy arrays."""
    return a // b if _is_integral(a) and _is_integral(b) else a / b


def divided(a: Any, b: Any) -> Any:
    """Return the value that ``a /= b`` assigns in Python 2."""
    if _is_integral(a) and _is_integral(b):
        a //= b
    else:
        a /= b
    return a
