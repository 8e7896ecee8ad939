"""Compare tensors of two networks that may have the same elements in another layout."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Generic, TypeVar

import torch
from torch import Tensor

from dpnn_bridge.base.cached import cached_property
from dpnn_bridge.base.storage import storage_id

#: largest difference of equal values, relative to the largest value, in double and in single precision
DOUBLE, SINGLE = 1e-10, 5e-6
#: largest relative difference that a different eps, or another small constant, is likely to cause
ALMOST = 1e-6
#: largest relative difference of equal sums over a tensor
SUMS = 1e-9
#: maximum number of steps of a sequence that are compared one by one
_MAX_STEPS = 128
#: number of elements that are compared first
_SAMPLE = 256
#: number of tensors that are compared one by one
_FEW = 8
#: number of bins of a table for each factor e of the sum of absolute values
_BINS = 1e7
#: factor by which the squares of all numbers are finite
_TINY = 2.0**-600

T = TypeVar("T")


@dataclass(frozen=True)
class Fingerprint:
    """Sums over the elements of a tensor that do not depend on their order.

    If a sum overflows, the sums are those of the tensor times :data:`_TINY`.
    """

    count: int
    total: float
    absolute: float
    squares: float

    @classmethod
    def of(cls, tensor: Tensor) -> Fingerprint:
        if not tensor.numel():
            return cls(0, 0.0, 0.0, 0.0)
        if tensor.is_meta:  # without values, it matches no other tensor
            return cls(tensor.numel(), math.nan, math.nan, math.nan)
        d = unexpanded(tensor.detach())
        times = tensor.numel() // d.numel()
        d = d.double() if d.dtype != torch.float64 else d
        sums = _sums(d)
        if not sums.isfinite().all():
            sums = _sums(d * _TINY)
        return cls(tensor.numel(), *(sums * times).tolist())

    def matches(self, other: Fingerprint, tolerance: float = SUMS) -> bool:
        scale = max(self.absolute, other.absolute)
        return (
            self.count == other.count
            and abs(self.total - other.total) <= tolerance * scale
            and abs(self.absolute - other.absolute) <= tolerance * scale
            and abs(self.squares - other.squares) <= tolerance * max(self.squares, other.squares)
        )


def _sums(d: Tensor) -> Tensor:
    return torch.stack([d.sum(), torch.linalg.vector_norm(d, 1), torch.linalg.vector_norm(d) ** 2])


def size_of(tensor: Tensor) -> float:
    """Return the square root of the mean square of the elements, also if a square overflows or underflows."""
    largest = tensor.abs().max()
    if not float(largest):
        return 0.0
    return float(torch.linalg.vector_norm(tensor / largest) / tensor.numel() ** 0.5 * largest)


def dense(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Return tensors that can be compared; TypeError for sparse tensors."""
    found = list(tensors)
    for layout in {t.layout for t in found} - {torch.strided}:
        raise TypeError(f"tensors with layout {layout} cannot be compared; use dense tensors, as to_dense() returns")
    return found


def with_values(outputs: Iterable[Tensor]) -> list[Tensor]:
    """Return outputs that can be compared; TypeError for sparse tensors and for tensors on the meta device."""
    found = dense(outputs)
    if any(t.is_meta for t in found):
        raise TypeError("tensors on the meta device have no values to compare; return tensors on the CPU or a GPU")
    return found


def unexpanded(tensor: Tensor) -> Tensor:
    """Return a tensor without the repetitions of ``expand``: an expanded tensor of a few bytes may have any size."""
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
        distance = max(1, math.ceil(tolerance * _BINS))
        for offset in range(-distance, distance + 1):
            for other, value in self._bins.get((count, at + offset), ()):
                if fingerprint.matches(other, tolerance):
                    yield value


def _bin(fingerprint: Fingerprint) -> tuple[int, int]:
    if not math.isfinite(fingerprint.absolute) or fingerprint.absolute <= 0:
        return fingerprint.count, -(2**62)
    return fingerprint.count, round(math.log(fingerprint.absolute) * _BINS)


class Fingerprints:
    """A cache of the fingerprints of tensors, which is updated when a tensor changes in place."""

    def __init__(self) -> None:
        self._cache: dict[int, Fingerprint] = {}
        self._keys: dict[int, set[int]] = {}  # storage -> keys of the tensors that view it

    def of(self, key: int, tensor: Tensor) -> Fingerprint:
        """Return the fingerprint of a tensor. The key identifies the tensor while the tensor exists."""
        found = self._cache.get(key)
        if found is None:
            found = self._cache[key] = Fingerprint.of(tensor)
            self._keys.setdefault(storage_id(tensor), set()).add(key)
        return found

    def forget(self, *tensors: Tensor) -> None:
        """Remove the fingerprints of all tensors that share memory with these, which are about to change."""
        for tensor in tensors:
            for number in self._keys.pop(storage_id(tensor), ()):
                self._cache.pop(number, None)

    def drop(self, key: int) -> None:
        self._cache.pop(key, None)


def difference(a: Tensor, b: Tensor) -> float:
    """Return the largest difference relative to b's largest element; infinite for different shapes and for NaN."""
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
    same, finite = a.eq(b), b.isfinite()  # infinities may be equal; NaN is not equal to itself
    scale = b[finite].abs().max() if bool(finite.any()) else torch.ones((), dtype=torch.float64)
    worst = (torch.where(same, 0.0, (a - b).abs()).max() / scale.clamp_min(1e-300)).item()
    return worst if math.isfinite(worst) else math.inf


class _Reference:
    """A tensor to compare others with. A sample of elements is compared first, which rejects most other tensors."""

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
    """Return, for every row, the index of an equal row in ``others``; None if a row has no equal row."""
    if rows.shape[1] != others.shape[1] or not len(rows) or not len(others):
        return None
    rows, others = rows.double(), others.double()
    if len(rows) <= len(others) and difference(rows, others[: len(rows)]) <= tolerance:
        return torch.arange(len(rows))
    projected, order = (others @ _direction(others.shape[1])).sort()
    targets = rows @ _direction(others.shape[1])
    at = torch.searchsorted(projected, targets).clamp(0, len(projected) - 1)
    before = (at - 1).clamp_min(0)
    nearer = (projected[before] - targets).abs() < (projected[at] - targets).abs()
    found = order[torch.where(nearer, before, at)]
    return found if difference(rows, others[found]) <= tolerance else None


class RowIndex:
    """Finds the owners of rows that :func:`matching_rows` may accept, without comparing the rows of each owner.

    Args:
        owners: one number for each tensor of rows.
        rows: tensors (rows, columns).
    """

    def __init__(self, owners: list[int], rows: list[Tensor]) -> None:
        self._all = set(owners)
        self._direction = _direction(rows[0].shape[1])
        projected = torch.cat([r.double() @ self._direction for r in rows])
        self._projected, order = projected.nan_to_num(torch.inf).sort()  # a search among NaN finds nothing
        self._owners = torch.tensor(owners).repeat_interleave(torch.tensor([len(r) for r in rows]))[order]

    def owners(self, rows: Tensor, tolerance: float) -> set[int]:
        """Return all owners that may have rows equal to these within a tolerance, and few other owners."""
        if not rows.numel() or not bool(rows.double().isfinite().all()):
            return self._all
        rows = rows.double()
        sizes = rows.abs().amax(1)
        row = rows[sizes.argmax()]
        # equal rows differ by at most the tolerance in each element; the second term allows for rounding
        margin = sizes.max() * (2 * tolerance + 1e-14 * len(row)) * self._direction.abs().sum()
        projected = row @ self._direction
        first = torch.searchsorted(self._projected, projected - margin)
        last = torch.searchsorted(self._projected, projected + margin, right=True)
        return set(self._owners[first:last].tolist())


class References:
    """Tensors of rows, such as the inputs of a layer, among which :meth:`find` finds an equal one."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self._references = list(map(_Reference, tensors))
        self._by_shape: dict[torch.Size, list[int]] = {}
        for i, tensor in enumerate(tensors):
            self._by_shape.setdefault(tensor.shape, []).append(i)
        self._indices: dict[torch.Size, RowIndex] = {}

    def find(self, rows: Tensor, tolerance: float) -> int | None:
        """Return the position of the first tensor that equals these rows within a tolerance, or None."""
        owners = self._by_shape.get(rows.shape, [])
        if len(owners) > _FEW:
            owners = sorted(self._index(rows.shape).owners(rows, tolerance))
        return next((i for i in owners if self._references[i].equals(rows, tolerance)), None)

    def _index(self, shape: torch.Size) -> RowIndex:
        if shape not in self._indices:
            owners = self._by_shape[shape]
            self._indices[shape] = RowIndex(owners, [self._references[i].tensor for i in owners])
        return self._indices[shape]


def permutation(channels: Tensor, others: Tensor) -> Tensor | None:
    """Return the order in which the other channels equal these channels.

    Channels that are equal to each other, such as dead channels after a ReLU, are ordered like their neighbours.

    Args:
        channels, others: tensors (channels, values).

    Returns:
        Indices into ``others``; None if there is no order, or several.
    """
    if channels.shape != others.shape or len(channels) < 2:
        return None
    channels, others, direction = channels.double(), others.double(), _direction(others.shape[1])
    a, b = channels @ direction, others @ direction
    order, other = a.argsort(), b.argsort()
    found = torch.empty_like(order)
    found[order] = other
    if difference(channels, others[found]) > DOUBLE:
        return None
    ties = b[other].diff().abs() <= DOUBLE * b.abs().max()
    return _untied(found, order, other, ties.tolist()) if bool(ties.any()) else found


def _untied(found: Tensor, order: Tensor, other: Tensor, ties: list[bool]) -> Tensor | None:
    """Order equal channels so that each continues the order of its neighbours, as in a concatenation of blocks.

    Args:
        found: for each channel, the index of the other channel.
        order, other: indices that sort both sets of channels.
        ties: for each channel in ``order``, whether the next channel is equal.

    Returns:
        The order; None if the neighbours do not determine it.
    """
    at: list[int | None] = found.tolist()
    free: dict[int, set[int]] = {}
    first = 0
    for i in range(len(at)):
        if i == len(ties) or not ties[i]:
            group = set(other[first : i + 1].tolist())
            for channel in order[first : i + 1].tolist() if len(group) > 1 else ():
                at[channel], free[channel] = None, group
            first = i + 1
    while free:
        settled = {i: w for i, group in free.items() if len(w := _suggested(at, i) & group) == 1}
        if not settled:
            return None
        for i, suggested in settled.items():
            group = free.pop(i)
            if not suggested <= group:
                return None  # the neighbours of two channels suggest the same other channel
            at[i] = suggested.pop()
            group.discard(at[i])
    return torch.tensor(at)


def _suggested(at: list[int | None], channel: int) -> set[int]:
    """Return the other channels that continue the run of the neighbour before or after a channel."""
    before = at[channel - 1] if channel else None
    after = at[channel + 1] if channel + 1 < len(at) else None
    return {other + step for other, step in ((before, 1), (after, -1)) if other is not None}


def _direction(size: int) -> Tensor:
    return torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def dim_orders(shape: Iterable[int], other: Iterable[int]) -> Iterator[tuple[int, ...]]:
    """Yield the orders of dimensions that turn one shape into the other; the order of the shape first."""
    shape, other = tuple(shape), tuple(other)
    if len(shape) == len(other) <= 5:
        yield from (p for p in permutations(range(len(shape))) if tuple(shape[i] for i in p) == other)


def divisions(tensor: Tensor) -> Iterator[Sequence[Tensor]]:
    """Yield the possible divisions of a value into gates, channel groups, or steps of a sequence."""
    for dim in dict.fromkeys((tensor.dim() - 1, 1)):
        if 0 <= dim < tensor.dim() and tensor.shape[dim]:
            yield from (tensor.chunk(parts, dim) for parts in (2, 3, 4) if tensor.shape[dim] % parts == 0)
    if tensor.dim() > 2:
        yield from (tensor.unbind(dim) for dim in (0, 1) if 1 < tensor.shape[dim] <= _MAX_STEPS)
