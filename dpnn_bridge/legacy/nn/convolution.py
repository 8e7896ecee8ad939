"""Convolutions in one, two and three dimensions, and weighted subsampling."""

from __future__ import annotations

import math
import random
from typing import Any

import torch
from torch import Tensor

from dpnn_bridge.legacy.module import Module


class _Convolution(Module):
    """Base of convolutions with ``noBias``."""

    nInputPlane: int

    def _fan_in(self) -> float:
        return math.prod(self.__dict__.get(k, 1) for k in ("kT", "kW", "kH")) * self.nInputPlane

    def noBias(self) -> Any:
        self.bias = self.gradBias = None
        return self

    def __repr__(self) -> str:
        sizes = "x".join(str(v) for k in ("kT", "kW", "kH") if (v := self.__dict__.get(k)) is not None)
        strides = "".join(f", {v}" for k in ("dT", "dW", "dH") if (v := self.__dict__.get(k)) is not None)
        padding = "".join(f", {v}" for k in ("padT", "padW", "padH") if (v := self.__dict__.get(k)))
        planes = f"{self.nInputPlane} -> {self.__dict__.get('nOutputPlane')}"
        return f"{super().__repr__()}({planes}, {sizes}{strides}{padding})"


class SpatialConvolution(_Convolution):
    def __init__(
        self,
        nInputPlane: int,
        nOutputPlane: int,
        kW: int,
        kH: int,
        dW: int = 1,
        dH: int = 1,
        padW: int = 0,
        padH: int | None = None,
    ) -> None:
        planes = {"nInputPlane": nInputPlane, "nOutputPlane": nOutputPlane}
        padH = padW if padH is None else padH
        super().__init__(**planes, kW=kW, kH=kH, dW=dW, dH=dH, padW=padW, padH=padH)
        self._new_parameters(weight=(nOutputPlane, nInputPlane, kH, kW), bias=(nOutputPlane,))
        self.reset()


class SpatialDilatedConvolution(SpatialConvolution):
    def __init__(
        self,
        nInputPlane: int,
        nOutputPlane: int,
        kW: int,
        kH: int,
        dW: int = 1,
        dH: int = 1,
        padW: int = 0,
        padH: int | None = None,
        dilationH: int = 1,
        dilationW: int | None = None,
    ) -> None:
        super().__init__(nInputPlane, nOutputPlane, kW, kH, dW, dH, padW, padH)
        self.dilationH = dilationH
        self.dilationW = dilationH if dilationW is None else dilationW


class SpatialConvolutionLocal(_Convolution):
    def __init__(
        self,
        nInputPlane: int,
        nOutputPlane: int,
        iW: int,
        iH: int,
        kW: int,
        kH: int,
        dW: int = 1,
        dH: int = 1,
        padW: int = 0,
        padH: int | None = None,
    ) -> None:
        planes = {"nInputPlane": nInputPlane, "nOutputPlane": nOutputPlane}
        padH = padW if padH is None else padH
        super().__init__(**planes, kW=kW, kH=kH, iW=iW, iH=iH, dW=dW, dH=dH, padW=padW, padH=padH)
        self.oW = (padW * 2 + iW - kW) // dW + 1
        self.oH = (padH * 2 + iH - kH) // dH + 1
        assert self.oW >= 1
        assert self.oH >= 1
        weight = (self.oH, self.oW, nOutputPlane, nInputPlane, kH, kW)
        self._new_parameters(weight=weight, bias=(nOutputPlane, self.oH, self.oW))
        self.reset()


class _Map(Module):
    """Convolution with a connection table: each row ``(input channel, output channel)`` has one kernel."""

    connTable: Tensor
    kW: int
    kH: int
    nOutputPlane: int

    class maps:  # noqa: N801 - PyTorch 0.4's name
        """Functions that return connection tables, with indices from 0."""

        @staticmethod
        def full(nin: int, nout: int) -> Tensor:
            """Connect every input channel with every output channel."""
            return torch.tensor([(i, j) for j in range(nout) for i in range(nin)], dtype=torch.get_default_dtype())

        @staticmethod
        def oneToOne(nfeat: int) -> Tensor:
            """Connect input channel i with output channel i."""
            return torch.arange(nfeat, dtype=torch.get_default_dtype()).view(-1, 1).repeat(1, 2)

        @staticmethod
        def random(nin: int, nout: int, nto: int) -> Tensor:
            """Connect every output channel with ``nto`` random input channels."""
            inputs: list[int] = []
            chunks = nin // nto
            while len(inputs) < nout * nto:
                inputs += torch.randperm(nin)[: chunks * nto].tolist()
            pairs = [(inputs[k], k // nto) for k in range(nout * nto)]
            return torch.tensor(pairs, dtype=torch.get_default_dtype())

    def __init__(self, conMatrix: Tensor, kW: int, kH: int, dW: int = 1, dH: int = 1) -> None:
        super().__init__()
        self.kW = kW
        self.kH = kH
        self.dW = dW
        self.dH = dH
        self.connTable = conMatrix
        self.nInputPlane = int(conMatrix.select(1, 0).max()) + 1
        self.nOutputPlane = int(conMatrix.select(1, 1).max()) + 1
        self._new_parameters(weight=(conMatrix.size(0), kH, kW), bias=(self.nOutputPlane,))
        self.reset()

    def reset(self, stdv: Any = None) -> Any:
        outputs = self.connTable.select(1, 1).long()
        inputs = torch.bincount(outputs, minlength=self.nOutputPlane).clamp(min=1)
        bounds = [
            stdv * math.sqrt(3) if stdv is not None else 1 / math.sqrt(self.kW * self.kH * int(n)) for n in inputs
        ]
        for k, plane in enumerate(outputs.tolist()):
            self.weight[k].uniform_(-bounds[plane], bounds[plane])
        for k, bound in enumerate(bounds):
            self.bias[k] = random.uniform(-bound, bound)
        return self


class SpatialConvolutionMap(_Map):
    pass


class SpatialFullConvolutionMap(_Map):
    pass


class SpatialFullConvolution(_Convolution):
    def __init__(
        self,
        nInputPlane: int,
        nOutputPlane: int,
        kW: int,
        kH: int,
        dW: int = 1,
        dH: int = 1,
        padW: int = 0,
        padH: int | None = None,
        adjW: int = 0,
        adjH: int = 0,
    ) -> None:
        if adjW > dW - 1 or adjH > dH - 1:
            raise ValueError("adjW and adjH must be smaller than dW and dH")
        planes = {"nInputPlane": nInputPlane, "nOutputPlane": nOutputPlane}
        padH = padW if padH is None else padH
        super().__init__(**planes, kW=kW, kH=kH, dW=dW, dH=dH, padW=padW, padH=padH, adjW=adjW, adjH=adjH)
        self._new_parameters(weight=(nInputPlane, nOutputPlane, kH, kW), bias=(nOutputPlane,))
        self.reset()


class SpatialSubSampling(Module):
    def __init__(self, nInputPlane: int, kW: int, kH: int, dW: int = 1, dH: int = 1) -> None:
        super().__init__(nInputPlane=nInputPlane, kW=kW, kH=kH, dW=dW, dH=dH)
        self._new_parameters(weight=nInputPlane, bias=nInputPlane)
        self.reset()

    def _fan_in(self) -> float:
        return self.kW * self.kH


class TemporalConvolution(Module):
    def __init__(self, inputFrameSize: int, outputFrameSize: int, kW: int, dW: int = 1) -> None:
        super().__init__(inputFrameSize=inputFrameSize, outputFrameSize=outputFrameSize, kW=kW, dW=dW)
        self._new_parameters(weight=(outputFrameSize, inputFrameSize * kW), bias=(outputFrameSize,))
        self.reset()

    def _fan_in(self) -> float:
        return self.kW * self.inputFrameSize


class TemporalSubSampling(Module):
    def __init__(self, inputFrameSize: int, kW: int, dW: int = 1) -> None:
        super().__init__(inputFrameSize=inputFrameSize, kW=kW, dW=dW)
        self._new_parameters(weight=inputFrameSize, bias=inputFrameSize)
        self.reset()

    def _fan_in(self) -> float:
        return self.kW


class VolumetricConvolution(_Convolution):
    def __init__(
        self,
        nInputPlane: int,
        nOutputPlane: int,
        kT: int,
        kW: int,
        kH: int,
        dT: int = 1,
        dW: int = 1,
        dH: int = 1,
        padT: int = 0,
        padW: int | None = None,
        padH: int | None = None,
    ) -> None:
        planes = {"nInputPlane": nInputPlane, "nOutputPlane": nOutputPlane}
        padW = padT if padW is None else padW
        padH = padW if padH is None else padH
        super().__init__(**planes, kT=kT, kW=kW, kH=kH, dT=dT, dW=dW, dH=dH, padT=padT, padW=padW, padH=padH)
        self._new_parameters(weight=(nOutputPlane, nInputPlane, kT, kH, kW), bias=(nOutputPlane,))
        self.reset()


class VolumetricFullConvolution(_Convolution):
    def __init__(
        self,
        nInputPlane: int,
        nOutputPlane: int,
        kT: int,
        kW: int,
        kH: int,
        dT: int = 1,
        dW: int = 1,
        dH: int = 1,
        padT: int = 0,
        padW: int = 0,
        padH: int = 0,
        adjT: int = 0,
        adjW: int = 0,
        adjH: int = 0,
    ) -> None:
        if adjW > dW - 1 or adjH > dH - 1 or adjT > dT - 1:
            raise RuntimeError("adjT, adjW and adjH must be smaller than dT, dW and dH")
        planes = {"nInputPlane": nInputPlane, "nOutputPlane": nOutputPlane}
        kernel, strides = {"kT": kT, "kW": kW, "kH": kH}, {"dT": dT, "dW": dW, "dH": dH}
        padding = {"padT": padT, "padW": padW, "padH": padH}
        super().__init__(**planes, **kernel, **strides, **padding, adjT=adjT, adjW=adjW, adjH=adjH)
        self._new_parameters(weight=(nInputPlane, nOutputPlane, kT, kH, kW), bias=(nOutputPlane,))
        self.reset()
