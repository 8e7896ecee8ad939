"""Pooling and unpooling."""

from __future__ import annotations

from typing import Any

import torch

from dpnn_bridge.legacy.module import Module
from dpnn_bridge.legacy.nn.activations import MulConstant, Power, Sqrt, Square
from dpnn_bridge.legacy.nn.containers import Sequential


class _CeilMode(Module):
    """Base of pooling layers with ``ceil_mode``."""

    ceil_mode: bool

    def ceil(self) -> Any:
        self.ceil_mode = True
        return self

    def floor(self) -> Any:
        self.ceil_mode = False
        return self


class _SpatialPooling(_CeilMode):
    def __repr__(self) -> str:
        padding = f", {self.padW}, {self.padH}" if self.padW or self.padH else ""
        return f"{super().__repr__()}({self.kW}x{self.kH}, {self.dW}, {self.dH}{padding})"


class SpatialMaxPooling(_SpatialPooling):
    def __init__(self, kW: int, kH: int, dW: Any = None, dH: Any = None, padW: int = 0, padH: int = 0) -> None:
        super().__init__(kW=kW, kH=kH, dW=dW or kW, dH=dH or kH, padW=padW, padH=padH)
        self.ceil_mode = False
        self.indices = torch.LongTensor()


class SpatialAveragePooling(_SpatialPooling):
    def __init__(self, kW: int, kH: int, dW: int = 1, dH: int = 1, padW: int = 0, padH: int = 0) -> None:
        super().__init__(kW=kW, kH=kH, dW=dW, dH=dH, padW=padW, padH=padH)
        self.ceil_mode = False
        self.count_include_pad = True
        self.divide = True

    def setCountIncludePad(self) -> Any:
        self.count_include_pad = True
        return self

    def setCountExcludePad(self) -> Any:
        self.count_include_pad = False
        return self


class SpatialLPPooling(Sequential):
    def __init__(self, nInputPlane: int, pnorm: float, kW: int, kH: int, dW: Any = None, dH: Any = None) -> None:
        super().__init__()
        self.kW = kW
        self.kH = kH
        self.dW = dW or kW
        self.dH = dH or kH
        self.add(Square() if pnorm == 2 else Power(pnorm))
        self.add(SpatialAveragePooling(kW, kH, self.dW, self.dH))
        self.add(MulConstant(kW * kH))
        self.add(Sqrt() if pnorm == 2 else Power(1.0 / pnorm))


class SpatialAdaptiveMaxPooling(Module):
    def __init__(self, w: int, h: int) -> None:
        super().__init__(w=w, h=h)


class SpatialFractionalMaxPooling(Module):
    def __init__(self, poolSizeW: int, poolSizeH: int, arg1: float, arg2: float) -> None:
        assert poolSizeW >= 2
        assert poolSizeH >= 2
        super().__init__(poolSizeW=poolSizeW, poolSizeH=poolSizeH)
        self.randomSamples: Any = None
        self.newRandomPool = False
        sizes = arg1 >= 1 and arg2 >= 1
        assert sizes or (0 < arg1 < 1 and 0 < arg2 < 1)
        self.outW, self.outH = (arg1, arg2) if sizes else (None, None)
        self.ratioW, self.ratioH = (None, None) if sizes else (arg1, arg2)

    def fixPoolingRegions(self, val: Any = None) -> Any:
        self.newRandomPool = True if val is None else val
        return self


class SpatialMaxUnpooling(Module):
    def __init__(self, poolingModule: Any) -> None:
        assert isinstance(poolingModule, SpatialMaxPooling)
        assert (poolingModule.kH, poolingModule.kW) == (poolingModule.dH, poolingModule.dW)
        super().__init__(pooling=poolingModule)


class TemporalMaxPooling(Module):
    def __init__(self, kW: int, dW: Any = None) -> None:
        super().__init__(kW=kW, dW=dW or kW)


class VolumetricMaxPooling(_CeilMode):
    def __init__(
        self,
        kT: int,
        kW: int,
        kH: int,
        dT: Any = None,
        dW: Any = None,
        dH: Any = None,
        padT: int = 0,
        padW: int = 0,
        padH: int = 0,
    ) -> None:
        strides = {"dT": dT or kT, "dW": dW or kW, "dH": dH or kH}
        super().__init__(kT=kT, kW=kW, kH=kH, **strides, padT=padT, padW=padW, padH=padH)
        self.ceil_mode = False
        self.indices = torch.LongTensor()


class VolumetricAveragePooling(Module):
    def __init__(
        self,
        kT: int,
        kW: int,
        kH: int,
        dT: Any = None,
        dW: Any = None,
        dH: Any = None,
        padT: int = 0,
        padW: int = 0,
        padH: int = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        strides = {"dT": dT or kT, "dW": dW or kW, "dH": dH or kH}
        super().__init__(kT=kT, kW=kW, kH=kH, **strides, padT=padT, padW=padW, padH=padH)
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad

    def _in_pytorch(self) -> Any:
        """Build the layer of ``torch.nn``. Torch7's class has no padding."""
        sizes: Any = [tuple(getattr(self, f"{name}{d}") for d in "THW") for name in ("k", "d", "pad")]
        return torch.nn.AvgPool3d(*sizes, ceil_mode=self.ceil_mode, count_include_pad=self.count_include_pad)


class VolumetricMaxUnpooling(Module):
    def __init__(self, poolingModule: Any) -> None:
        assert isinstance(poolingModule, VolumetricMaxPooling)
        assert (poolingModule.kT, poolingModule.kH, poolingModule.kW) == (
            poolingModule.dT,
            poolingModule.dH,
            poolingModule.dW,
        )
        super().__init__(pooling=poolingModule)
