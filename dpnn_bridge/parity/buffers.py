"""Find which buffers of a Lua model still contain their results after a run. Torch7 reuses memory in later layers."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor

LayerT = TypeVar("LayerT", bound=Hashable)


def is_filled(value: Any) -> bool:
    """Return whether a result field of a Lua module has content: a tensor with elements, a number, a table of them.

    A criterion contains the number 0 before its first run, or if it does not store its loss.
    """
    return all(map(_is_filled_leaf, _parts(value)))


def _is_filled_leaf(value: Any) -> bool:
    if isinstance(value, LuaTensor):
        return value.size > 0
    if isinstance(value, LuaTable):
        return len(value) > 0
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value != 0


def _parts(value: Any) -> Iterator[Any]:
    """Yield a value and all in its nested tables; a shared table is visited once."""
    seen: set[int] = set()
    stack = [value]
    while stack:
        value = stack.pop()
        yield value
        if isinstance(value, LuaTable) and id(value) not in seen:
            seen.add(id(value))
            stack.extend(reversed(list(value.values())))


def is_restored(obj: LuaObject) -> bool:
    """Return whether backward undoes what forward wrote: some classes that compute in place restore their input."""
    return obj.class_name in ("nn.AddConstant", "nn.MulConstant") and bool(obj.get("inplace"))


def storages(value: Any) -> set[int]:
    """Identify the storages of a Lua value's tensors."""
    return {id(t.storage) for t in lua_tensors(value) if t.storage is not None}


def overwritten(results: Iterable[tuple[LayerT, Any, Any]]) -> dict[LayerT, LayerT]:
    """Return overwritten results: ``layer -> the layer that wrote there last``.

    Every layer's result, as computed here, goes to the place in memory that its buffer has in the file. What does not
    come back from there at the end was overwritten, by a layer that works in place or in borrowed memory. A layer that
    only looks at another's memory (``nn.View``) writes the existing values.

    Args:
        results: layers in the order in which they ran, each with its result here and its buffer in Lua.
    """
    memory: dict[int, np.ndarray] = {}
    writers: dict[int, list[LayerT]] = {}
    placed: list[tuple[LayerT, int, np.ndarray, np.ndarray]] = []
    for layer, ours, buffer in results:
        for value, tensor in zip(_values(ours), lua_tensors(buffer), strict=False):
            if tensor.storage is None or value.size != tensor.size or not value.size:
                continue
            key = id(tensor.storage)
            block = memory.setdefault(key, np.full(tensor.storage.size, np.nan))
            strides = tuple(s * block.itemsize for s in tensor.stride)
            place = np.lib.stride_tricks.as_strided(block[tensor.offset :], tensor.shape, strides)
            value = value.reshape(tensor.shape)
            place[...] = value
            writers.setdefault(key, []).append(layer)
            placed.append((layer, key, place, value))
    return {
        layer: next((w for w in reversed(writers[key]) if w != layer), layer)
        for layer, key, place, value in placed
        if not np.array_equal(place, value, equal_nan=True)
    }


def lua_tensors(value: Any) -> Iterator[LuaTensor]:
    """Return the tensors in a Lua value and its nested tables."""
    return (part for part in _parts(value) if isinstance(part, LuaTensor))


def _values(value: Any) -> Iterator[np.ndarray]:
    if isinstance(value, Tensor):
        yield value.detach().to("cpu", torch.float64).numpy()
    elif isinstance(value, (list, tuple, dict)):
        for v in value.values() if isinstance(value, dict) else value:
            yield from _values(v)
