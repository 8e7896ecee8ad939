"""Find the tensors of a model in a traced graph in which they have other names."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Iterator

import torch
from torch import Tensor

from dpnn_bridge.base.cached import cached_property
from dpnn_bridge.compare.bits import byte_array
from dpnn_bridge.outputs.written import Written

#: number of elements that are compared to find similar tensors. A tensor of which half the elements are equal is missed
#: with a probability of 2**-16
_SAMPLES = 16
#: index of the elements at one position: value -> numbers of the tensors with this element
_Index = dict[float, list[int]]


class RenamedTensors:
    """Finds the tensors of a traced graph by their elements.

    Exporters rename tensors, transpose matrices, and store equal tensors once, under the name of the first one. The
    time of a search does not depend on the number of tensors.

    Args:
        written: the content of the file.
    """

    def __init__(self, written: Written) -> None:
        self._named = written.tensors
        self._unnamed = [t.contiguous() for t in written.renamed if t.numel() > 1]  # one element could be any constant
        self._indices: dict[tuple[Hashable, int], _Index] = {}

    def find(self, expected: Tensor) -> Tensor | None:
        """Return the tensor of the graph for a tensor of the model.

        Args:
            expected: the tensor of the model.

        Returns:
            An equal tensor, else a renamed tensor in which most elements are equal, else None. The tensor has the shape
            of ``expected``.
        """
        expected = expected.detach().cpu()
        for variant in _variants(expected):
            if (found := self._by_bits.get(_bits(variant))) is not None:
                return _shaped(found, expected, transposed=variant is not expected)
        equal = self._named_by_bits.get((expected.shape, _bits(expected)))
        return equal if equal is not None else self._similar(expected)

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

    def _similar(self, expected: Tensor) -> Tensor | None:
        """Return the renamed tensor with most equal elements, if more than half are equal.

        The most frequent element of ``expected`` is not counted: for example, many biases contain zeros.
        """
        group = self._by_size.get((expected.numel(), expected.dtype), [])
        if not group:
            return None
        counted = expected != expected.flatten().mode().values
        similar = []
        for number, transposed in dict.fromkeys(self._candidates(expected, counted)):
            tensor = _shaped(group[number], expected, transposed)
            equal = tensor == expected
            if equal[counted].double().mean().item() > 0.5:
                similar.append((int(equal.sum()), tensor))
        return max(similar, key=lambda found: found[0])[1] if similar else None

    def _candidates(self, expected: Tensor, counted: Tensor) -> Iterator[tuple[int, bool]]:
        """Yield the numbers of renamed tensors that share a sampled element, and whether they are transposed.

        Args:
            expected: the tensor of the model.
            counted: mask of the elements that may be sampled.
        """
        flat, counted = expected.flatten(), counted.flatten()
        drawn = torch.randint(len(flat), (64 * _SAMPLES,), generator=torch.Generator().manual_seed(0))
        positions = torch.cat([drawn[counted[drawn]], counted.nonzero().flatten()[:_SAMPLES]])[:_SAMPLES]
        for position, value in zip(positions.tolist(), flat[positions].tolist(), strict=True):
            for number in self._index(expected, position).get(value, ()):
                yield number, False
            if expected.dim() == 2:
                row, column = divmod(position, expected.shape[1])
                for number in self._index(expected, column * expected.shape[0] + row).get(value, ()):
                    yield number, True

    def _index(self, expected: Tensor, position: int) -> _Index:
        """Return the index at a position of the tensors with the size and dtype of ``expected``."""
        size = (expected.numel(), expected.dtype)
        if (size, position) not in self._indices:
            index = self._indices[size, position] = defaultdict(list)
            for number, tensor in enumerate(self._by_size[size]):
                index[tensor[position].item()].append(number)
        return self._indices[size, position]


def _variants(tensor: Tensor) -> list[Tensor]:
    return [tensor, tensor.t()] if tensor.dim() == 2 else [tensor]


def _shaped(found: Tensor, expected: Tensor, transposed: bool) -> Tensor:
    """Return a tensor in the shape of ``expected``, transposed if its elements have the order of ``expected.t()``."""
    return found.reshape(expected.shape[::-1]).t().contiguous() if transposed else found.reshape(expected.shape)


def _bits(tensor: Tensor) -> Hashable:
    """Return a key that is equal for tensors with the same dtype and bits, of any shape."""
    return tensor.dtype, hashlib.sha256(byte_array(tensor.contiguous()).data).digest()
