"""Reproduce the order of equal numbers and NaN of Torch7's quicksort and quickselect.

If all numbers differ, any sort returns the same order, and :func:`positions` uses PyTorch's. Both algorithms are
Sedgewick's versions: median of three; subfiles of up to ten elements are left for one insertion sort at the end.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_SMALL = 10
#: above this number of elements, equal numbers have PyTorch's order, because Torch7's order takes Python loops
EXACT_LIMIT = 1 << 16


def positions(x: Tensor, exact: Callable[[list[float]], list[int]], descending: bool = False) -> Tensor:
    """Return sorted positions along the last dimension; equal numbers and NaN in the order of ``exact``."""
    values, order = torch.sort(x, dim=-1, descending=descending, stable=True)
    special = (values[..., 1:] == values[..., :-1]).any(-1) | x.isnan().any(-1)
    if not bool(special.any()) or x.numel() > EXACT_LIMIT:
        return order
    rows, places = x.reshape(-1, x.shape[-1]), order.reshape(-1, x.shape[-1])
    for row in special.reshape(-1).nonzero().flatten().tolist():
        places[row] = torch.tensor(exact(rows[row].tolist()))
    return places.reshape(x.shape)


class _File:
    """Numbers and their positions, exchanged together."""

    def __init__(self, values: list[float], descending: bool) -> None:
        self.x = [-v for v in values] if descending else list(values)
        self.at = list(range(len(values)))

    def swap(self, a: int, b: int) -> None:
        self.x[a], self.x[b] = self.x[b], self.x[a]
        self.at[a], self.at[b] = self.at[b], self.at[a]

    def partition(self, left: int, right: int) -> tuple[int, int]:
        """Split around the median of three; return where the halves begin (right) and end (left)."""
        x = self.x
        self.swap((left + right) >> 1, left + 1)
        for a, b in ((left + 1, right), (left, right), (left + 1, left)):
            if x[a] > x[b]:
                self.swap(a, b)
        i, j, pivot = left + 1, right, x[left]
        while True:
            i += 1
            while x[i] < pivot:
                i += 1
            j -= 1
            while x[j] > pivot:
                j -= 1
            if j < i:
                break
            self.swap(i, j)
        self.swap(left, j)
        return i, j

    def insertion_sort(self) -> None:
        x, at, n = self.x, self.at, len(self.x)
        for i in range(n - 2, -1, -1):
            if x[i] > x[i + 1]:
                value, place = x[i], at[i]
                j = i + 1
                while True:
                    x[j - 1], at[j - 1] = x[j], at[j]
                    j += 1
                    if not (j < n and x[j] < value):
                        break
                x[j - 1], at[j - 1] = value, place


def sort_positions(values: list[float], descending: bool = False) -> list[int]:
    """Return 0-based positions of the sorted numbers."""
    file = _File(values, descending)
    waiting = [(0, len(values) - 1)] if len(values) - 1 > _SMALL else []
    while waiting:
        left, right = waiting.pop()
        i, j = file.partition(left, right)
        waiting += [(a, b) for a, b in ((left, j - 1), (i, right)) if b - a + 1 > _SMALL]
    file.insertion_sort()
    return file.at


def select_positions(values: list[float], k: int) -> list[int]:
    """Return 0-based positions after quickselect of the k-th smallest number (0-based)."""
    file = _File(values, False)
    left, right = 0, len(values) - 1
    while left < right:
        if right == left + 1:
            if file.x[left] > file.x[right]:
                file.swap(left, right)
            break
        i, j = file.partition(left, right)
        if j <= k:
            left = i
        if j >= k:
            right = j - 1
    return file.at
