"""Find the tensors of a model in a traced graph that has other names for them."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Iterator
from functools import cached_property

import torch
from torch import Tensor

from dpnn_bridge.compare.bits import byte_array
from dpnn_bridge.outputs.written import Written

#: elements by which similar tensors are found: of two that agree in half of their elements, one in 2**16 is missed
_SAMPLES = 16
#: an index of the elements at one position: value -> the tensors that have it there
_Index = dict[float, list[int]]


class RenamedTensors:
    """The tensors of a traced graph, found by their elements.

    Exporters rename tensors, transpose matrices, and store equal tensors once, under the name of the first. The time
    of a search does not grow with the number of tensors.

    Args:
        written: the content of the file.
    """

    def __init__(self, written: Written) -> None:
        self._named = written.tensors
        self._unnamed = [t.contiguous() for t in written.renamed if t.numel() > 1]  # a number may be any constant
        self._indices: dict[tuple[Hashable, int], _Index] = {}

    def find(self, ours: Tensor) -> Tensor | None:
        """Return the tensor that equals ``ours``, else one without a name in which most elements are equal.

        Args:
            ours: a tensor of the model.

        Returns:
            The tensor in the shape of ``ours``, or None.
        """
        ours = ours.detach().cpu()
        for form in _forms(ours):
            if (found := self._by_bits.get(_bits(form))) is not None:
                return _shaped(found, ours, transposed=form is not ours)
        same = self._named_by_bits.get((ours.shape, _bits(ours)))
        return same if same is not None else self._similar(ours)

    @cached_property
    def _by_bits(self) -> dict[Hashable, Tensor]:
        return {_bits(t): t for t in self._unnamed}

    @cached_property
    def _named_by_bits(self) -> dict[Hashable, Tensor]:
        return {(t.shape, _bits(t)): t for t in self._named.values()}

    @cached_property
    def _by_size(self) -> dict[Hashable, list[Tensor]]:
        groups: dict[Hashable, list[Tensor]] = defaultdict(list)
        for tensor in self._unnamed:
            groups[tensor.numel(), tensor.dtype].append(tensor.flatten())
        return dict(groups)

    def _similar(self, ours: Tensor) -> Tensor | None:
        """Return the tensor with most equal elements; the most frequent one, such as zero in a bias, tells nothing."""
        group = self._by_size.get((ours.numel(), ours.dtype), [])
        if not group:
            return None
        telling = ours != ours.flatten().mode().values
        alike = []
        for number, transposed in dict.fromkeys(self._sharing(ours, telling)):
            form = _shaped(group[number], ours, transposed)
            equal = form == ours
            if equal[telling].double().mean().item() > 0.5:
                alike.append((int(equal.sum()), form))
        return max(alike, key=lambda found: found[0])[1] if alike else None

    def _sharing(self, ours: Tensor, telling: Tensor) -> Iterator[tuple[int, bool]]:
        """Yield the tensors with an element of ``ours`` at its place, and whether they are transposed."""
        flat, telling = ours.flatten(), telling.flatten()
        drawn = torch.randint(len(flat), (64 * _SAMPLES,), generator=torch.Generator().manual_seed(0))
        positions = torch.cat([drawn[telling[drawn]], telling.nonzero().flatten()[:_SAMPLES]])[:_SAMPLES]
        for position, value in zip(positions.tolist(), flat[positions].tolist(), strict=True):
            for number in self._index(ours, position).get(value, ()):
                yield number, False
            if ours.dim() == 2:
                row, column = divmod(position, ours.shape[1])
                for number in self._index(ours, column * ours.shape[0] + row).get(value, ()):
                    yield number, True

    def _index(self, ours: Tensor, position: int) -> _Index:
        """Return which tensors as large as ``ours`` have which element at a position."""
        size = (ours.numel(), ours.dtype)
        if (size, position) not in self._indices:
            index = self._indices[size, position] = defaultdict(list)
            for number, theirs in enumerate(self._by_size[size]):
                index[theirs[position].item()].append(number)
        return self._indices[size, position]


def _forms(ours: Tensor) -> list[Tensor]:
    return [ours, ours.t()] if ours.dim() == 2 else [ours]


def _shaped(theirs: Tensor, ours: Tensor, transposed: bool) -> Tensor:
    """Return a tensor in the shape of ``ours``; a transposed one has the elements of ``ours.t()``."""
    return theirs.reshape(ours.shape[::-1]).t().contiguous() if transposed else theirs.reshape(ours.shape)


def _bits(tensor: Tensor) -> Hashable:
    """Return what is equal for tensors with the same bits, of any shape."""
    return tensor.dtype, hashlib.sha256(byte_array(tensor.contiguous()).data).digest()
