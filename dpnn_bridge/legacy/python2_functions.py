"""Functions and operators of Python 2 that translated files call."""

from __future__ import annotations

import builtins
import operator
from collections import UserList
from collections.abc import Callable, Iterable
from decimal import ROUND_HALF_UP, Context, Decimal
from functools import cmp_to_key
from itertools import zip_longest
from math import isfinite
from types import BuiltinMethodType, FunctionType
from typing import Any, SupportsFloat

import numpy as np
import torch
from torch import Tensor

_COMPARISONS = {f"__{name}__": getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")}
_DIVISIONS = {"__div__": "__truediv__", "__rdiv__": "__rtruediv__", "__idiv__": "__itruediv__"}
#: functions of Python 2 that Python 3 or numpy has too, and names that ``numpy.__all__`` did not have in numpy 1.16
_NOT_IN_STARS = (
    *("abs", "bool", "cmp", "filter", "map", "max", "min", "pow", "round"),
    *("acos", "acosh", "asin", "asinh", "astype", "atan", "atan2", "atanh", "bitwise_count", "bitwise_invert"),
    *("bitwise_left_shift", "bitwise_right_shift", "broadcast_shapes", "concat", "core", "cumulative_prod"),
    *("cumulative_sum", "dtypes", "exceptions", "f2py", "from_dlpack", "isdtype", "lib", "long", "matrix_transpose"),
    *("matvec", "permute_dims", "polynomial", "show_runtime", "strings", "test", "testing", "trapezoid", "typing"),
    *("ulong", "unique_all", "unique_counts", "unique_inverse", "unique_values", "unstack", "vecdot", "vecmat"),
)


def compared(a: Any, b: Any) -> int:
    """Return -1, 0 or 1, as ``cmp(a, b)`` of Python 2: None is less than numbers, and numbers than other types.

    Objects with ``__cmp__`` decide themselves. Lists and tuples are compared element by element, and dicts by their
    sizes, then by the smallest key that differs and its value.
    """
    for one, other, sign in ((a, b, 1), (b, a, -1)):
        if (decides := getattr(type(one), "__cmp__", None)) is not None:
            result = decides(one, other)
            if result is not NotImplemented:
                result = sign * int(result)
                return (result > 0) - (result < 0)
    if not any(map(_orders, (a, b))):
        if _are(list, a, b) or _are(tuple, a, b):
            pairs = (compared(*pair) for pair in zip(a, b, strict=False))
            return next(filter(None, pairs), compared(len(a), len(b)))
        if _are(dict, a, b):
            return compared(len(a), len(b)) or _compared_dicts(a, b)
    try:
        return 0 if a == b else bool(a > b) - bool(a < b)
    except TypeError:
        first, second = map(_type_order, (a, b))
        return (first > second) - (first < second)


def _are(kind: type, *values: Any) -> bool:
    return all(isinstance(value, kind) for value in values)


def _orders(value: Any) -> bool:
    """Return whether a value has comparisons of its own, written in Python."""
    return any(isinstance(getattr(type(value), name, None), FunctionType) for name in ("__lt__", "__gt__"))


def ordered(cls: type) -> type:
    """Give a class with ``__cmp__`` the comparisons that Python 2 derives from it.

    They replace those of ``int``, and those of ``dict`` but for ``==`` and ``!=``, because Python 2's have no others.
    """
    for name, function in _COMPARISONS.items():
        replaced = (object, int) if name in ("__eq__", "__ne__") else (object, int, dict)
        if getattr(cls, name) in [getattr(base, name) for base in replaced]:
            setattr(cls, name, _comparison(function))
    return cls


def divisible(cls: type) -> type:
    """Let ``/`` call ``__div__``, ``__rdiv__`` and ``__idiv__`` of a class."""
    for name, operator_name in _DIVISIONS.items():
        if name in vars(cls):
            setattr(cls, operator_name, vars(cls)[name])
    return cls


def star_imported(names: dict[str, Any], before: dict[str, Any]) -> None:
    """Undo what ``from module import *`` binds because numpy has more names today, or Python other functions.

    A file of the program that was translated has functions of Python 2 under their names.

    Args:
        names: the variables of a file after the import.
        before: a copy from before the import.
    """
    for name in _NOT_IN_STARS:
        new = names.get(name)
        others = *(getattr(m, name, None) for m in (np, builtins)), *PROVIDED.values()
        if new is None or new is before.get(name) or not any(new is other for other in others):
            continue
        if name in before:
            names[name] = before[name]
        else:
            del names[name]


def _comparison(function: Callable[[int, int], bool]) -> Callable[[Any, Any], Any]:
    def compare(self: Any, other: Any) -> Any:
        result = self.__cmp__(other)
        return result if result is NotImplemented else function(result, 0)

    return compare


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
    if method in (list.sort, UserList.sort):  # called with the list
        first, *rest = arguments
        method, arguments = method.__get__(first), tuple(rest)
    if getattr(method, "__func__", None) is UserList.sort:
        method = method.__self__.data.sort
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


def mapped(function: Callable[..., Any] | None, *values: Iterable[Any]) -> list[Any]:
    """Return ``map(function, *values)`` of Python 2: a list, which None fills where an iterable is shorter."""
    if len(values) == 1:
        return list(values[0]) if function is None else list(map(function, *values))
    rows = zip_longest(*values)
    return list(rows) if function is None else [function(*row) for row in rows]


def filtered(function: Callable[[Any], Any] | None, values: Iterable[Any]) -> Any:
    """Return ``filter(function, values)`` of Python 2: text or a tuple if ``values`` is, else a list."""
    kept = filter(function, values)
    return "".join(kept) if isinstance(values, str) else tuple(kept) if isinstance(values, tuple) else list(kept)


def rounded(number: SupportsFloat, ndigits: int = 0) -> float:
    """Return ``round(number, ndigits)`` of Python 2: a float, away from zero in the middle between two."""
    value = float(number)
    if not isfinite(value) or ndigits > 323:
        return value
    digits = Context(prec=1100, rounding=ROUND_HALF_UP)  # more than a float has
    return float(Decimal(value).quantize(Decimal(1).scaleb(-max(ndigits, -400)), context=digits))


def _is_integral(value: Any) -> bool:
    """Return whether a value is an integer or bool, or an array, tensor, scalar or list of them."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.dtype.kind in "bui"
    if isinstance(value, (list, tuple)):  # beside an array
        try:
            return np.asarray(value).dtype.kind in "bui"
        except ValueError:  # lists of several lengths
            return False
    if isinstance(value, Tensor):
        return not (value.is_floating_point() or value.is_complex())
    return isinstance(value, int)


def quotient(a: Any, b: Any) -> Any:
    """Return ``a / b`` as in Python 2: quotients of integers and bools are rounded down, also in numpy arrays.

    PyTorch before 0.5 rounded those of tensors toward zero. Its comparisons gave bytes, not bools.
    """
    if _has_objects(a) or _has_objects(b):
        return np.frompyfunc(quotient, 2, 1)(a, b)
    if not (_is_integral(a) and _is_integral(b)):
        return a / b
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        dividend, divisor = (
            x if not isinstance(x, Tensor) else x.byte() if x.dtype is torch.bool else x for x in (a, b)
        )
        return torch.div(torch.as_tensor(dividend), divisor, rounding_mode="trunc")
    return a // b


def _has_objects(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "O"


def divided(a: Any, b: Any) -> Any:
    """Return the value that ``a /= b`` assigns in Python 2."""
    if _has_objects(a):
        a[...] = quotient(a, b)
    elif not (_is_integral(a) and _is_integral(b)):
        a /= b
    elif isinstance(a, Tensor) and a.dtype is not torch.bool:
        a.div_(b, rounding_mode="trunc")
    elif isinstance(a, Tensor) or isinstance(b, Tensor):
        a = quotient(a, b)
    else:
        a //= b
    return a


#: functions of Python 2 that Python 3 does not have, or has with other results
PROVIDED: dict[str, Callable[..., Any]] = {"cmp": compared, "filter": filtered, "map": mapped, "round": rounded}
