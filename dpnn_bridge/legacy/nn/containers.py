"""Containers, and modules whose inputs or outputs are tables."""

from __future__ import annotations

from typing import Any

import torch

from dpnn_bridge.legacy.module import Container, Module


class Sequential(Container):
    def __len__(self) -> int:
        return len(self.modules)

    def insert(self, module: Any, index: int) -> None:
        self.modules.insert(index, module)

    def remove(self, index: int = -1) -> None:
        del self.modules[index]

    def __repr__(self) -> str:
        chain = " -> ".join(["input", *(f"({i})" for i in range(len(self.modules))), "output"])
        first, _, rest = super().__repr__().partition("\n")
        return f"{first}\n  [{chain}]\n{rest}"


class Concat(Container):
    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.outputSize = torch.Size()
        self.dimension = dimension


class DepthConcat(Concat):
    pass


class Parallel(Container):
    def __init__(self, inputDimension: int, outputDimension: int) -> None:
        super().__init__()
        self.inputDimension = inputDimension
        self.outputDimension = outputDimension
        self.totalOutputSize: Any = None


class ConcatTable(Container):
    def __init__(self) -> None:
        super().__init__()
        self.output = []


class ParallelTable(Container):
    def __init__(self) -> None:
        super().__init__()
        self.output = []
        self.gradInput = []


class _OfTables(Module):
    """Base of modules whose input, and therefore ``gradInput``, is a table."""

    def __init__(self) -> None:
        super().__init__(gradInput=[])


class _OfPairs(Module):
    """Base of modules with two input tensors."""

    def __init__(self) -> None:
        super().__init__(gradInput=[torch.Tensor(), torch.Tensor()])


class CAddTable(_OfTables):
    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace


class CSubTable(_OfPairs):
    pass


class CMulTable(_OfTables):
    pass


class CDivTable(_OfTables):
    pass


class DotProduct(_OfPairs):
    pass


class CosineDistance(_OfPairs):
    pass


class PairwiseDistance(_OfTables):
    def __init__(self, p: int) -> None:
        assert p % 1 == 0
        super().__init__()
        self.norm = p


class MM(_OfPairs):
    def __init__(self, transA: bool = False, transB: bool = False) -> None:
        super().__init__()
        self.transA = transA
        self.transB = transB


class MV(_OfPairs):
    def __init__(self, trans: bool = False) -> None:
        super().__init__()
        self.trans = trans


class Index(_OfTables):
    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.dimension = dimension


class JoinTable(_OfTables):
    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.size = torch.Size()
        self.dimension = dimension


class SelectTable(_OfTables):
    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index


class NarrowTable(_OfTables):
    def __init__(self, offset: int, length: int = 1) -> None:
        super().__init__()
        self.offset = offset
        self.length = length
        self.output = []


class FlattenTable(_OfTables):
    def __init__(self) -> None:
        super().__init__()
        self.output = []
        self.input_map: list[Any] = []


class MixtureTable(_OfTables):
    def __init__(self, dim: int = 1) -> None:
        super().__init__()
        self.dim = dim
        self.size = torch.Size()
        self.batchSize = 0
        self.backwardSetup = False
        self.table = False


class MaskedSelect(Module):
    pass


class SplitTable(Module):
    def __init__(self, dimension: int) -> None:
        super().__init__(dimension=dimension)


class CriterionTable(Module):
    def __init__(self, criterion: Any) -> None:
        super().__init__(criterion=criterion, gradInput=[criterion.gradInput])
