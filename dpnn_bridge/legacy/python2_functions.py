"""Functions and operators of Python 2 that translated files call."""

from __future__ import annotations

from collections import UserList
from functools import cmp_to_key
from types import BuiltinMethodType
from typing import Any

import numpy as np


def compared(a: Any, b: Any) -> int:
    """Return -1, 0 or 1, as ``cmp(a, b)`` of Python 2: None is less than numbers, and numbers than other types.

    Objects with ``__cmp__`` decide themselves. Lists and tuples are compared element by element, and dicts by their
    sizes, then by the smallest key that differs and its value.
    """
    for one, other, sign in ((a, b, 1), (b, a, -1)):
        if (decides := getattr(type(one), "__cmp__", None)) is not None:
            result = sign * int(decides(one, other))
            return (result > 0) - (result < 0)
    if isinstance(a, (list, tuple)) and type(a) is type(b):
        pairs = (compared(*pair) for pair in zip(a, b, strict=False))
        return next(filter(None, pairs), compared(len(a), len(b)))
    if isinstance(a, dict) and isinstance(b, dict):
        return compared(len(a), len(b)) or _compared_dicts(a, b)
    try:
        return bool(a > b) - bool(a < b)
    except TypeError:
        first, second = map(_type_order, (a, b))
        return (first > second) - (first < second)


def _compared_dicts(a: dict[Any, Any], b: dict[Any, Any]) -> int:
    """Compare dicts of equal size."""
    keys = [
        min((k for k in one if k not in other or compared(one[k], other[k])), key=cmp_to_key(compared), default=None)
        for one, other in ((a, b), (b, a))
    ]
    return compared(*keys) or (compared(a[keys[0]], b[keys[1]]) if keys[0] in a else 0)


def _type_order(value: Any) -> tuple[int, str]:
    number = isinstance(value, (int, float, np.number, np.bool_))
    return (0, "") if value is None else (1, "") if number else (2, type(value).__name__)


def sort(values: Any, *arguments: Any, **named: Any) -> Any:
    """Call ``values.sort``; that of a list takes ``cmp``, ``key`` and ``reverse``, as in Python 2."""
    method = values.sort
    if getattr(method, "__func__", None) is UserList.sort:
        method = values.data.sort
    if method is list.sort:
        first, *rest = arguments
        return list.sort(first, **_sorting(*rest, **named))
    if isinstance(method, BuiltinMethodType) and isinstance(method.__self__, list):
        return method(**_sorting(*arguments, **named))
    return method(*arguments, **named)


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
