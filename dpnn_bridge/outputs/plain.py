"""Convert metadata to plain data and to JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import Tensor

from dpnn_bridge.base.elements import lists_of
from dpnn_bridge.base.storage import storage_elements
from dpnn_bridge.conversion.storable import problem_of
from dpnn_bridge.errors import ConversionError, ConversionLimitError, OptionError
from dpnn_bridge.outputs.pt_file import MAX_DEPTH

_SCALARS: tuple[Any, ...] = (bool, int, float, str, bytes)
#: maximum number of lists in JSON beyond two for each element of a tensor
_MAX_LISTS = 1 << 20
_EXPECTED = "expected numbers, strings, bytes, tensors, and lists and dicts of these"


def as_plain(value: Any) -> Any:
    """Convert metadata to Python's built-in types.

    Values of derived types (``numpy.float64``, ``torch.Size``, ``Counter``) become values of the built-in base type.
    Shared lists and dicts remain shared.

    Raises:
        OptionError: a value is not plain data or is empty bytes, contains itself, or is nested too deeply; or a key of
            a dict is neither a number nor a string.
    """
    done: dict[int, Any] = {}
    open_ids: set[int] = set()

    def plain(value: Any) -> Any:
        value = value.item() if isinstance(value, np.generic) else value
        if value is None:
            return None
        for kind in _SCALARS:
            if isinstance(value, kind):
                if kind is bytes and not value:
                    raise OptionError("metadata=: torch.load(weights_only=True) refuses empty bytes; use None or ''")
                return value if type(value) is kind else _base_value(kind, value)
        if isinstance(value, Tensor):
            return _tensor(value)
        if not isinstance(value, (dict, list, tuple)):
            raise OptionError(f"metadata=: {_EXPECTED}; found a {type(value).__name__}")
        if id(value) in open_ids or len(open_ids) > MAX_DEPTH:
            raise OptionError("metadata=: the values contain themselves, or are nested too deeply")
        if id(value) not in done:
            open_ids.add(id(value))
            if isinstance(value, dict):
                done[id(value)] = {_key(plain(k)): plain(v) for k, v in value.items()}
            else:
                done[id(value)] = (tuple if isinstance(value, tuple) else list)(map(plain, value))
            open_ids.discard(id(value))
        return done[id(value)]

    return plain(value)


def _base_value(kind: type, value: Any) -> Any:
    """Convert a value of a subclass to its base type; ``str`` would call the ``__str__`` of the subclass."""
    return str.__str__(value) if kind is str else kind.__new__(kind, value)


def _key(key: Any) -> Any:
    if not isinstance(key, (bool, int, float, str)):
        raise OptionError(f"metadata=: expected numbers or strings as keys of a dict; found a {type(key).__name__}")
    return key


def _tensor(value: Tensor) -> Tensor:
    if reason := problem_of(value):
        raise OptionError(f"metadata=: a tensor is {reason}")
    return unrepeated(value.detach())


def unrepeated(tensor: Tensor) -> Tensor:
    """Return a tensor whose elements do not share memory: a contiguous copy of an expanded tensor."""
    return tensor.contiguous() if tensor.numel() > storage_elements(tensor) else tensor


def _keys(value: Any) -> Iterator[list[Any]]:
    """Yield the keys of each dict that has keys other than strings; a shared dict is visited once."""
    stack, seen = [value], set[int]()
    while stack:
        value = stack.pop()
        if id(value) in seen or not isinstance(value, (dict, list, tuple)):
            continue
        seen.add(id(value))
        if isinstance(value, dict) and not all(isinstance(key, str) for key in value):
            yield [*value]
        stack += value.values() if isinstance(value, dict) else value


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object as a dict, for ``object_pairs_hook``; readers of JSON disagree about duplicate keys.

    Raises:
        ValueError: a key is a duplicate.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is a duplicate")
    return found


def json_text(metadata: Any, suffix: str) -> str:
    """Return metadata as JSON, with tensors as nested lists.

    Args:
        metadata: plain data.
        suffix: suffix of the file, for the message.

    Raises:
        ConversionLimitError: tensors have far more lists than elements: many sizes are 1, or one is 0.
        ConversionError: JSON cannot represent a value, or two keys of a dict, such as 1 and "1", are equal in JSON.
    """
    for keys in _keys(metadata):
        texts: dict[str, Any] = {}
        for key in keys:
            if (other := texts.setdefault(key if isinstance(key, str) else json.dumps(key), key)) is not key:
                reason = f"{suffix} stores metadata as JSON, in which the keys {other!r} and {key!r} are the same"
                raise ConversionError(f"{reason}; use .pt, which distinguishes them")

    lists = 0

    def value_of(value: Any) -> Any:
        nonlocal lists
        if isinstance(value, Tensor) and not value.is_complex():
            lists += max(0, lists_of(value.shape) - 2 * value.numel())
            if lists > _MAX_LISTS:
                sizes = "x".join(map(str, value.shape))
                raise ConversionLimitError(f"the metadata contain a tensor of size {sizes}: too many lists for JSON")
            return value.tolist()
        kind = f"tensor of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
        raise ConversionError(f"{suffix} stores metadata as JSON, which has no {kind}; use .pt, which can store it")

    return json.dumps(metadata, default=value_of)
