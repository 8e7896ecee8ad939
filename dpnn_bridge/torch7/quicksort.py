"""Reproduce the order of equal numbers and NaN of Torch7's quicksort and quickselect.

If all numbers differ, every sort returns the same order, and :func:`positions` uses PyTorch's sort. Both algorithms are
Sedgewick's versions: the pivot is the median of three elements, and parts of up to ten elements are sorted by one
insertion sort at the end.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dpnn_bridge.base.steps import spend_steps

_SMALL = 10
#: number of moves after which their steps are counted
_UNCOUNTED = 1000
#: above this number of elements, equal numbers have PyTorch's order, because Torch7's order takes Python loops
EXACT_LIMIT = 1 << 16


def positions(x: Tensor, exact: Callable[[list[float]], list[int]], descending: bool = False) -> Tensor:
    """Return the indices that sort a tensor along its last dimension.

    Args:
        x: the tensor.
        exact: returns the indices for a row with equal numbers or NaN, in the order of Torch7.
        descending: sort in descending order.
    """
    values, order = torch.sort(x, dim=-1, descending=descending, stable=True)
    special = (values[..., 1:] == values[..., :-1]).any(-1) | x.isnan().any(-1)
    if not bool(special.any()) or x.numel() > EXACT_LIMIT:
        return order
    rows, indices = x.reshape(-1, x.shape[-1]), order.reshape(-1, x.shape[-1])
    for row in special.reshape(-1).nonzero().flatten().tolist():
        indices[row] = torch.tensor(exact(rows[row].tolist()))
    return indices.reshape(x.shape)


class _Numbers:
    """Numbers with their original indices, which are swapped together."""

    def __init__(self, values: list[float], descending: bool) -> None:
        spend_steps(len(values))
        self.x = [-v for v in values] if descending else list(values)
        self.at = list(range(len(values)))

    def swap(self, a: int, b: int) -> None:
        self.x[a], self.x[b] = self.x[b], self.x[a]
        self.at[a], self.at[b] = self.at[b], self.at[a]

    def partition(self, left: int, right: int) -> tuple[int, int]:
        """Partition around the median of three; return the start of the right part and the end of the left part."""
        spend_steps(right - left)
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
        x, at, n, moves = self.x, self.at, len(self.x), 0
        for i in range(n - 2, -1, -1):
            if x[i] > x[i + 1]:
                value, index = x[i], at[i]
                j = i + 1
                while True:
                    x[j - 1], at[j - 1] = x[j], at[j]
                    j += 1
                    if not (j < n and x[j] < value):
                        break
                x[j - 1], at[j - 1] = value, index
                moves += j - i
                if moves > _UNCOUNTED:
                    spend_steps(moves)
                    moves = 0


def sort_positions(values: list[float], descending: bool = False) -> list[int]:
    """Return the indices, from 0, that sort the numbers."""
    numbers = _Numbers(values, descending)
    stack = [(0, len(values) - 1)] if len(values) - 1 > _SMALL else []
    while stack:
        left, right = stack.pop()
        i, j = numbers.partition(left, right)
        stack += [(a, b) for a, b in ((left, j - 1), (i, right)) if b - a + 1 > _SMALL]
    numbers.insertion_sort()
    return numbers.at


def select_positions(values: list[float], k: int) -> list[int]:
    """Return the indices, from 0, in their order after quickselect of the k-th smallest number (k from 0)."""
    numbers = _Numbers(values, False)
    left, right = 0, len(values) - 1
    while left < right:
        if right == left + 1:
            if numbers.x[left] > numbers.x[right]:
                numbers.swap(left, right)
            break
        i, j = numbers.partition(left, right)
        if j <= k:
            left = i
        if j >= k:
            right = j - 1
    return numbers.at
