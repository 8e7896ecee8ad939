"""Find the first value in which the data of two files differ."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from torch import Tensor

from dpnn_bridge.base.display import LONGEST_LINE, counted, described, shortened


def first_difference(expected: Any, found: Any, path: str = "") -> str:
    """Return the path of the first different value and both values; empty if there is none.

    Args:
        expected: nested lists and dicts of arrays, tensors, numbers and strings, not nested in themselves.
        found: content of another file. Only the parts that ``expected`` also contains are visited.
        path: path of both values. Indices start at 1, as in Lua.
    """
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in [*expected, *(key for key in found if key not in expected)]:
            inner = f"{path}.{key}" if path else str(key)
            if key not in expected or key not in found:
                return _text(inner, _shown(expected.get(key)), _shown(found.get(key)))
            if text := first_difference(expected[key], found[key], inner):
                return text
        return ""
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        parts = enumerate(zip(expected, found, strict=True), 1)
        return next((text for i, (a, b) in parts if (text := first_difference(a, b, f"{path}[{i}]"))), "")
    a, b = (value.numpy() if isinstance(value, Tensor) else value for value in (expected, found))
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and (a.shape, a.dtype) == (b.shape, b.dtype):
        return _in_arrays(a, b, path)
    return "" if (type(a), repr(a)) == (type(b), repr(b)) else _text(path, _shown(a), _shown(b))


def _in_arrays(a: np.ndarray, b: np.ndarray, path: str) -> str:
    """Return the first element whose bits differ in two arrays of the same shape and type."""
    if a.tobytes() == b.tobytes():
        return ""
    rows = [np.frombuffer(array.tobytes(), np.uint8).reshape(a.size, -1) for array in (a, b)]
    index = np.unravel_index(np.argmax((rows[0] != rows[1]).any(axis=1)), a.shape)
    where, values = path + "".join(f"[{i + 1}]" for i in index), (a[index], b[index])
    shown = [_shown(value.item()) for value in values]
    if shown[0] == shown[1]:  # NaNs
        shown = [f"{text} with the bits {_bits(value):#x}" for text, value in zip(shown, values, strict=True)]
    return _text(where, *shown)


def _bits(value: np.generic) -> int:
    return int.from_bytes(value.tobytes(), sys.byteorder)


def _text(path: str, expected: str, found: str) -> str:
    return f"{shortened(path, LONGEST_LINE // 2) or 'the value'}: expected {expected}, found {found}"


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, np.ndarray):
        whole = f"an array of shape {value.shape} and type {value.dtype}"
        return described(value.item()) if value.ndim == 0 else whole
    return f"a table with {counted(len(value), 'value')}" if isinstance(value, (list, dict)) else described(value)
