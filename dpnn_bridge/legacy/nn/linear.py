"""Linear layers and batch normalization."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dpnn_bridge.legacy.module import Module
from dpnn_bridge.legacy.nn.containers import MM, ParallelTable, Sequential
from dpnn_bridge.legacy.nn.shapes import Identity, sizes_of


class Linear(Module):
    def __init__(self, inputSize: int, outputSize: int, bias: bool = True) -> None:
        super().__init__()
        self._new_parameters(weight=(outputSize, inputSize), bias=(outputSize,) if bias else None)
        self.reset()

    def noBias(self) -> Any:
        self.bias = self.gradBias = None
        return self

    def _fan_in(self) -> float:
        return self.weight.size(1)

    def __repr__(self) -> str:
        without = " without bias" if self.bias is None else ""
        return f"{super().__repr__()}({self.weight.size(1)} -> {self.weight.size(0)}){without}"


class Bilinear(Module):
    def __init__(self, inputSize1: int, inputSize2: int, outputSize: int, bias: bool = True) -> None:
        super().__init__()
        self._new_parameters(weight=(outputSize, inputSize1, inputSize2), bias=(outputSize,) if bias else None)
        self.gradInput = [torch.Tensor(), torch.Tensor()]
        self.reset()

    def _fan_in(self) -> float:
        return self.weight.size(1)


class Add(Module):
    def __init__(self, inputSize: Any, scalar: bool = False) -> None:
        super().__init__()
        assert not scalar or inputSize == 1
        self.scalar = scalar
        self._new_parameters(bias=inputSize)
        self._ones = torch.ones(1)
        self.reset()

    def _fan_in(self) -> float:
        return self.bias.size(0)


class Mul(Module):
    def __init__(self) -> None:
        super().__init__()
        self._new_parameters(weight=1)
        self.reset()

    def _fan_in(self) -> float:
        return 1


class CMul(Module):
    def __init__(self, *args: Any) -> None:
        super().__init__(size=sizes_of(args))
        self._new_parameters(weight=self.size)
        self.reset()

    def _fan_in(self) -> float:
        return self.weight.nelement()


class Cosine(Module):
    def __init__(self, inputSize: int, outputSize: int) -> None:
        super().__init__()
        self._new_parameters(weight=(outputSize, inputSize))
        self.reset()

    def _fan_in(self) -> float:
        return self.weight.size(0)


class Euclidean(Module):
    def __init__(self, inputSize: int, outputSize: int) -> None:
        super().__init__()
        self._new_parameters(weight=(inputSize, outputSize))
        self.fastBackward = True
        self.reset()

    def _fan_in(self) -> float:
        return self.weight.size(0)


class WeightedEuclidean(Module):
    def __init__(self, inputSize: int, outputSize: int) -> None:
        super().__init__()
        self._new_parameters(weight=(inputSize, outputSize), diagCov=(inputSize, outputSize))
        self.fastBackward = False
        self.reset()

    def _fan_in(self) -> float:
        return self.weight.size(1)

    def reset(self, stdv: Any = None) -> Any:
        self.diagCov.fill_(1)
        return super().reset(stdv)

    def parameters(self) -> tuple[list[Tensor], list[Tensor]] | None:
        return self._listed(["weight", "diagCov"])


class LookupTable(Module):
    def __init__(
        self, nIndex: int, nOutput: int, paddingValue: int = -1, maxNorm: Any = None, normType: Any = None
    ) -> None:
        super().__init__()
        self._new_parameters(weight=(nIndex, nOutput))
        self.paddingValue = paddingValue
        self.maxNorm = maxNorm
        self.normType = normType
        self.shouldScaleGradByFreq = False
        self.reset()

    def reset(self, stdv: float = 1) -> Any:
        self.weight.normal_(0, 1 if stdv is None else stdv)
        return self

    def setPadding(self, paddingValue: int) -> Any:
        self.paddingValue = paddingValue
        return self

    def setMaxNorm(self, maxNorm: float) -> Any:
        self.maxNorm = maxNorm
        return self

    def setNormType(self, normType: float) -> Any:
        self.normType = normType
        return self

    def scaleGradByFreq(self) -> Any:
        self.shouldScaleGradByFreq = True
        return self


class PartialLinear(Module):
    def __init__(self, inputsize: int, outputsize: int, bias: bool = True) -> None:
        super().__init__()
        table = ParallelTable().add(Identity()).add(LookupTable(outputsize, inputsize))
        self.network = Sequential().add(table).add(MM(False, True))
        self._new_parameters(bias=(1, outputsize) if bias else None)
        self.inputsize = inputsize
        self.outputsize = outputsize
        self.allcolumns = torch.arange(outputsize)
        self.resetPartition()

    def setPartition(self, indices: Tensor) -> Any:
        self.partition = indices.long()
        return self

    def resetPartition(self) -> Any:
        self.partition = self.allcolumns
        return self

    def parameters(self) -> tuple[list[Tensor], list[Tensor]] | None:
        found = self.network.parameters()
        own = self._listed(["bias"] if self.bias is not None else [])
        assert found is not None
        return found if own is None else (found[0] + own[0], found[1] + own[1])


class BatchNormalization(Module):
    def __init__(self, nOutput: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True) -> None:
        assert nOutput != 0
        super().__init__()
        self.affine = affine
        self.eps = eps
        self.train = True
        self.momentum = momentum
        self.running_mean = torch.zeros(nOutput)
        self.running_var = torch.ones(nOutput)
        shape = (nOutput,) if affine else None
        self._new_parameters(weight=shape, bias=shape)
        self.reset()

    def reset(self, stdv: Any = None) -> Any:
        if self.weight is not None:
            self.weight.uniform_()
            self.bias.zero_()
        self.running_mean.zero_()
        self.running_var.fill_(1)
        return self


class SpatialBatchNormalization(BatchNormalization):
    pass


class VolumetricBatchNormalization(BatchNormalization):
    pass


class Normalize(Module):
    def __init__(self, p: float, eps: float = 1e-10) -> None:
        assert p > 0
        super().__init__(p=p, eps=eps)
