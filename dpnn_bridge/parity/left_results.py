"""Find the results of Torch7's layers that an earlier use of a layer in place has overwritten.

A layer in place that runs several times stores only the memory of its last run. What it left of another layer's result
is therefore found by its values.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from dpnn_bridge.compare import nested

#: number of the nearest results that are compared with a stored one
_NEAREST = 4
#: numbers beyond it have no finite sums
_LARGEST = 1e150


class LeftResults:
    """The results that layers in place left in the memory of other layers.

    Args:
        results: pairs of the number of a layer and a result of it.
        agrees: returns whether two tensors agree within the tolerance.
    """

    def __init__(self, results: Iterable[tuple[int, Tensor]], agrees: Callable[[Tensor, Tensor], bool]) -> None:
        self._agrees = agrees
        self._weights: dict[int, Tensor] = {}
        self._by_size: dict[int, list[tuple[float, int, Tensor]]] = defaultdict(list)
        for i, value in results:
            self._by_size[value.numel()].append((self._key(value), i, value))
        for found in self._by_size.values():
            found.sort(key=lambda result: result[:2])

    def layer_of(self, value: Any, expected: Any) -> int | None:
        """Return the number of the layer that left a stored result; None if it is no such result.

        Args:
            value: the result of the layer, a tensor or a table.
            expected: the result that Torch7 stored. Some elements of a table may be results of the layer.
        """
        layers: list[int] = []
        for mine, stored in zip(nested.leaves(value), nested.leaves(expected), strict=False):
            if not isinstance(mine, Tensor) or not isinstance(stored, Tensor):
                return None
            if self._agrees(mine, stored):
                continue
            if (layer := self._find(stored)) is None:
                return None
            layers.append(layer)
        return layers[0] if layers else None

    def _find(self, stored: Tensor) -> int | None:
        results = self._by_size.get(stored.numel(), [])
        key = self._key(stored) if results else 0.0
        place = bisect_left(results, key, key=lambda result: result[0])
        near = sorted(results[max(place - _NEAREST, 0) : place + _NEAREST], key=lambda result: abs(result[0] - key))
        return next((i for _, i, v in near[:_NEAREST] if v.shape == stored.shape and self._agrees(v, stored)), None)

    def _key(self, tensor: Tensor) -> float:
        """Return the sum of the elements with random weights: it is nearly equal only for results that agree."""
        size = tensor.numel()
        if size not in self._weights:
            self._weights[size] = torch.randn(size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
        flat = tensor.detach().flatten().to("cpu", torch.float64).nan_to_num(0.0, 0.0, 0.0)
        return float(flat.clamp(-_LARGEST, _LARGEST) @ self._weights[size])
