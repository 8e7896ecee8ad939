"""Compare tensors of two networks that may hold the same numbers in another layout."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from typing import Generic, TypeVar

import torch
from torch import Tensor

from dpnn_bridge.base.storage import storage_id

#: largest difference of equal values, relative to the largest of them: what double precision leaves, and single
DOUBLE, SINGLE = 1e-10, 5e-6
#: largest difference that another eps or another small constant is likely to make
ALMOST = 1e-6
#: the same for sums over a tensor
SUMS = 1e-9
_SAMPLE = 256
_BINS = 1e7

T = TypeVar("T")


@dataclass(frozen=True)
class Fingerprint:
    """Sums over the elements of a tensor that do not depend on their order."""

    count: int
    total: float
    absolute: float
    squares: float

    @classmethod
    def of(cls, tensor: Tensor) -> Fingerprint:
        if not tensor.numel():
            return cls(0, 0.0, 0.0, 0.0)
        d = _unexpanded(tensor.detach())
        times = tensor.numel() // d.numel()
        d = d.double() if d.dtype != torch.float64 else d
        sums = torch.stack([d.sum(), torch.linalg.vector_norm(d, 1), torch.linalg.vector_norm(d) ** 2])
        return cls(tensor.numel(), *(sums * times).tolist())

    def matches(self, other: Fingerprint, tolerance: float = SUMS) -> bool:
        scale = max(self.absolute, other.absolute)
        return (
            self.count == other.count
            and abs(self.total - other.total) <= tolerance * scale
            and abs(self.absolute - other.absolute) <= tolerance * scale
            and abs(self.squares - other.squares) <= tolerance * max(self.squares, other.squares)
        )


def _unexpanded(tensor: Tensor) -> Tensor:
    """Return what ``expand`` repeated, once: a tensor of a few bytes may have any size."""
    for dim, stride in enumerate(tensor.stride()):
        if stride == 0 and tensor.shape[dim] > 1:
            tensor = tensor.narrow(dim, 0, 1)
    return tensor


class Table(Generic[T]):
    """Values by fingerprint."""

    def __init__(self) -> None:
        self._bins: dict[tuple[int, int], list[tuple[Fingerprint, T]]] = {}

    def add(self, fingerprint: Fingerprint, value: T) -> None:
        self._bins.setdefault(_bin(fingerprint), []).append((fingerprint, value))

    def find(self, fingerprint: Fingerprint, tolerance: float = SUMS) -> Iterator[T]:
        count, at = _bin(fingerprint)
        reach = max(1, math.ceil(tolerance * _BINS))
        for offset in range(-reach, reach + 1):
            for other, value in self._bins.get((count, at + offset), ()):
                if fingerprint.matches(other, tolerance):
                    yield value

    def __contains__(self, fingerprint: object) -> bool:
        return isinstance(fingerprint, Fingerprint) and any(True for _ in self.find(fingerprint))


def _bin(fingerprint: Fingerprint) -> tuple[int, int]:
    if not math.isfinite(fingerprint.absolute) or fingerprint.absolute <= 0:
        return fingerprint.count, -(2**62)
    return fingerprint.count, round(math.log(fingerprint.absolute) * _BINS)


class Fingerprints:
    """Fingerprints of the tensors of a run, worked out once for each state of a tensor."""

    def __init__(self) -> None:
        self._known: dict[int, Fingerprint] = {}
        self._places: dict[int, set[int]] = {}

    def of(self, key: int, tensor: Tensor) -> Fingerprint:
        """Return the fingerprint of a tensor. The key identifies the tensor as long as the tensor exists."""
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = Fingerprint.of(tensor)
            self._places.setdefault(storage_id(tensor), set()).add(key)
        return found

    def forget(self, *tensors: Tensor) -> None:
        """Drop what was worked out for memory that is about to change."""
        for tensor in tensors:
            for number in self._places.pop(storage_id(tensor), ()):
                self._known.pop(number, None)

    def drop(self, key: int) -> None:
        self._known.pop(key, None)


def difference(a: Tensor, b: Tensor) -> float:
    """Return the largest difference relative to the largest element; infinite for other shapes and NaN."""
    if a.shape != b.shape:
        return math.inf
    if not a.numel():
        return 0.0
    if torch.equal(a, b):
        return 0.0
    a, b = a.double(), b.double()
    worst = ((a - b).abs().max() / b.abs().max().clamp_min(1e-300)).item()
    if math.isfinite(worst):
        return worst
    same, finite = a.eq(b), b.isfinite()  # infinities may be equal, a NaN is equal to nothing
    scale = b[finite].abs().max() if bool(finite.any()) else torch.ones((), dtype=torch.float64)
    worst = (torch.where(same, 0.0, (a - b).abs()).max() / scale.clamp_min(1e-300)).item()
    return worst if math.isfinite(worst) else math.inf


class Reference:
    """A tensor that others are compared with; most others are told apart by a sample of their elements."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.step = max(1, tensor.numel() // _SAMPLE)
        self.sample = tensor.flatten()[:: self.step]

    @cached_property
    def scale(self) -> float:
        return self.tensor.abs().max().item() if self.tensor.numel() else 0.0

    def equals(self, other: Tensor, tolerance: float) -> bool:
        if other.shape != self.tensor.shape:
            return False
        sample = other.flatten()[:: self.step]
        if not torch.equal(sample, self.sample) and (sample - self.sample).abs().max().item() > tolerance * self.scale:
            return False
        return difference(other, self.tensor) <= tolerance


def matching_rows(rows: Tensor, others: Tensor, tolerance: float = DOUBLE) -> Tensor | None:
    """Return, for every row, the index of the equal row among others, or None if one has none."""
    if rows.shape[1] != others.shape[1] or not len(rows) or not len(others):
        return None
    rows, others = rows.double(), others.double()
    if len(rows) <= len(others) and difference(rows, others[: len(rows)]) <= tolerance:
        return torch.arange(len(rows))
    projected, order = (others @ _direction(others.shape[1])).sort()
    wanted = rows @ _direction(others.shape[1])
    at = torch.searchsorted(projected, wanted).clamp(0, len(projected) - 1)
    before = (at - 1).clamp_min(0)
    nearer = (projected[before] - wanted).abs() < (projected[at] - wanted).abs()
    found = order[torch.where(nearer, before, at)]
    return found if difference(rows, others[found]) <= tolerance else None


class RowIndex:
    """Finds the owners of rows that :func:`matching_rows` may accept, without a comparison with each owner's rows."""

    def __init__(self, owners: list[int], rows: list[Tensor]) -> None:
        self._all = set(owners)
        self._direction = _direction(rows[0].shape[1])
        projected = torch.cat([r.double() @ self._direction for r in rows])
        self._projected, order = projected.sort()
        self._owners = torch.tensor(owners).repeat_interleave(torch.tensor([len(r) for r in rows]))[order]

    def owners(self, rows: Tensor, tolerance: float) -> set[int]:
        """Return all owners whose rows may equal these within a tolerance, and few others."""
        if not rows.numel() or not bool(rows.double().isfinite().all()):
            return self._all
        rows = rows.double()
        sizes = rows.abs().amax(1)
        row = rows[sizes.argmax()]
        # equal rows differ by the tolerance in each element; the rest is for rounding
        margin = sizes.max() * (2 * tolerance + 1e-14 * len(row)) * self._direction.abs().sum()
        projected = row @ self._direction
        first = torch.searchsorted(self._projected, projected - margin)
        last = torch.searchsorted(self._projected, projected + margin, right=True)
        return set(self._owners[first:last].tolist())


def permutation(channels: Tensor, others: Tensor) -> Tensor | None:
    """Return the order in which other channels are these, both (channel, values); None if there is none or several.

    Equal channels, as dead ones after a ReLU, have the order that their neighbours suggest.
    """
    if channels.shape != others.shape or len(channels) < 2:
        return None
    direction = _direction(others.shape[1])
    a, b = channels @ direction, others @ direction
    order, other = a.argsort(), b.argsort()
    found = torch.empty_like(order)
    found[order] = other
    if difference(channels, others[found]) > DOUBLE:
        return None
    ties = b[other].diff().abs() <= DOUBLE * b.abs().max()
    return _untied(found, order, other, ties.tolist()) if bool(ties.any()) else found


def _untied(found: Tensor, order: Tensor, other: Tensor, ties: list[bool]) -> Tensor | None:
    """Put equal channels after or before their neighbours, as a concatenation of whole parts does.

    Args:
        found: the other channel for each channel.
        order, other: both sides sorted by value.
        ties: whether the next one in ``order`` has the same value.
    """
    at: list[int | None] = found.tolist()
    free: dict[int, set[int]] = {}
    first = 0
    for i in range(len(at)):
        if i == len(ties) or not ties[i]:
            group = set(other[first : i + 1].tolist())
            for place in order[first : i + 1].tolist() if len(group) > 1 else ():
                at[place], free[place] = None, group
            first = i + 1
    while free:
        settled = {i: w for i, group in free.items() if len(w := _suggested(at, i) & group) == 1}
        if not settled:
            return None
        for i, suggested in settled.items():
            group = free.pop(i)
            if not suggested <= group:
                return None  # two places want one channel
            at[i] = suggested.pop()
            group.discard(at[i])
    return torch.tensor(at)


def _suggested(at: list[int | None], place: int) -> set[int]:
    """Return the channels that continue the run of the neighbour before or after a place."""
    around = ((at[place - 1], 1) if place else (None, 0), (at[place + 1], -1) if place + 1 < len(at) else (None, 0))
    return {other + step for other, step in around if other is not None}


def _direction(size: int) -> Tensor:
    return torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def layouts(shape: Iterable[int], other: Iterable[int]) -> Iterator[tuple[int, ...]]:
    """Yield the orders of dimensions that turn one shape into the other, the given order first."""
    shape, other = tuple(shape), tuple(other)
    if len(shape) == len(other) <= 5:
        yield from (p for p in permutations(range(len(shape))) if tuple(shape[i] for i in p) == other)
