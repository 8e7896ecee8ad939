"""Find the layers of a Lua model whose stored results later layers overwrote, because Torch7 reuses memory."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor

LayerT = TypeVar("LayerT", bound=Hashable)


def is_filled(value: Any) -> bool:
    """Return whether a result field of a Lua module has content: a tensor with elements, a number, or a table of both.

    The number 0 is not content: a criterion contains it before its first run, or if it does not store its loss.
    """
    return all(map(_is_filled_leaf, _parts(value)))


def _is_filled_leaf(value: Any) -> bool:
    if isinstance(value, LuaTensor):
        return value.size > 0
    if isinstance(value, LuaTable):
        return len(value) > 0
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value != 0


def _parts(value: Any) -> Iterator[Any]:
    """Yield a value and all values in its nested tables; a shared table is visited once."""
    seen: set[int] = set()
    stack = [value]
    while stack:
        value = stack.pop()
        yield value
        if isinstance(value, LuaTable) and id(value) not in seen:
            seen.add(id(value))
            stack.extend(reversed(list(value.values())))


def changed_inside(obj: LuaObject) -> Any:
    """Return the output of a module inside that a module changes in place, if it is in evaluation mode; or None."""
    if obj.class_name != "nn.ResidualDrop" or obj.get("train") is not False:
        return None
    inner = obj.get("net")
    return inner.get("output") if isinstance(inner, LuaObject) else None


def storages(value: Any) -> set[int]:
    """Return the ids of the storages of a Lua value's tensors."""
    return {id(t.storage) for t in lua_tensors(value) if t.storage is not None}


def overwritten(results: Iterable[tuple[LayerT, Any, Any]]) -> dict[LayerT, LayerT]:
    """Find the layers whose results later layers overwrote in Torch7's memory.

    The results of PyTorch are written one after another to copies of Torch7's storages, at the positions of the layers'
    buffers. A result that differs at the end was overwritten by a layer that computes in place or reuses memory. A
    layer that returns a view (``nn.View``) writes the values that are there already.

    Args:
        results: for each layer, in the order of the run: the layer, its result in PyTorch, its buffer in Lua.

    Returns:
        Each such layer -> the last layer that wrote to the storage.
    """
    memory: dict[int, np.ndarray] = {}
    writers: dict[int, list[LayerT]] = {}
    written: list[tuple[LayerT, int, np.ndarray, np.ndarray]] = []
    for layer, result, buffer in results:
        for value, tensor in zip(_values(result), lua_tensors(buffer), strict=False):
            if tensor.storage is None or value.size != tensor.size or not value.size:
                continue
            key = id(tensor.storage)
            if key not in memory:
                memory[key] = np.full(tensor.storage.size, np.nan)
            storage = memory[key]
            strides = tuple(s * storage.itemsize for s in tensor.stride)
            view = np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.shape, strides)
            value = value.reshape(tensor.shape)
            view[...] = value
            writers.setdefault(key, []).append(layer)
            written.append((layer, key, view, value))
    return {
        layer: next((w for w in reversed(writers[key]) if w != layer), layer)
        for layer, key, view, value in written
        if not np.array_equal(view, value, equal_nan=True)
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
