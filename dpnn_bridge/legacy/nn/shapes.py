"""Modules that reshape, permute, select, reduce, repeat and pad."""

from __future__ import annotations

import math
from typing import Any

import torch

from dpnn_bridge.legacy.module import Module


class Identity(Module):
    pass


class Contiguous(Module):
    pass


class Copy(Module):
    def __init__(self, intype: Any, outtype: Any, dontCast: bool = False) -> None:
        super().__init__(dontCast=dontCast, gradInput=intype(), output=outtype())
        self._type = self.output.type()


def sizes_of(args: tuple[Any, ...]) -> torch.Size:
    """Return the sizes from the arguments of a constructor: several integers, or one ``torch.Size``."""
    return args[0] if len(args) == 1 and isinstance(args[0], torch.Size) else torch.Size(args)


class View(Module):
    def __init__(self, *args: Any) -> None:
        super().__init__()
        self.resetSize(*args)

    def resetSize(self, *args: Any) -> Any:
        self.size = sizes_of(args)
        self.numElements = abs(math.prod(self.size))
        return self

    def __repr__(self) -> str:
        return f"{super().__repr__()}({', '.join(map(str, self.size))})"


class Reshape(Module):
    def __init__(self, *args: Any) -> None:
        super().__init__(size=sizes_of(args))
        self.nelement = math.prod(self.size)
        self.batchsize = torch.Size((1, *self.size))  # Torch7 stores the batch size in the first element

    def __repr__(self) -> str:
        return f"{super().__repr__()}({'x'.join(map(str, self.size))})"


class Transpose(Module):
    def __init__(self, *args: Any) -> None:
        super().__init__(permutations=args)


class Replicate(Module):
    def __init__(self, nf: int, dim: int = 0) -> None:
        assert dim >= 0
        super().__init__(nfeatures=nf, dim=dim)


class Squeeze(Module):
    def __init__(self, dim: int | None = None) -> None:
        super().__init__(dim=dim)


class Unsqueeze(Module):
    def __init__(self, dim: int) -> None:
        super().__init__(dim=dim)


class Select(Module):
    def __init__(self, dimension: int, index: int) -> None:
        super().__init__(dimension=dimension, index=index)


class Narrow(Module):
    def __init__(self, dimension: int, offset: int, length: int = 1) -> None:
        super().__init__(dimension=dimension, index=offset, length=length)


class _Reduction(Module):
    def __init__(self, dimension: int = 0) -> None:
        super().__init__(dimension=dimension)


class Max(_Reduction):
    pass


class Min(_Reduction):
    pass


class Sum(Module):
    def __init__(self, dimension: int = 0, sizeAverage: bool = False) -> None:
        super().__init__(dimension=dimension, sizeAverage=sizeAverage)


class Mean(Sum):
    def __init__(self, dimension: int = 0) -> None:
        super().__init__(dimension, True)


class Padding(Module):
    def __init__(self, dim: int, pad: int, value: float = 0, index: int = 0, nInputDim: int = 0) -> None:
        super().__init__(value=value, index=index, dim=dim, pad=pad, nInputDim=nInputDim, outputSize=torch.Size())


class _SpatialPadding(Module):
    def __init__(
        self, pad_l: int, pad_r: int | None = None, pad_t: int | None = None, pad_b: int | None = None
    ) -> None:
        super().__init__()
        self.pad_l = pad_l
        self.pad_r = pad_l if pad_r is None else pad_r
        self.pad_t = pad_l if pad_t is None else pad_t
        self.pad_b = pad_l if pad_b is None else pad_b

    def __repr__(self) -> str:
        return f"{super().__repr__()}(l={self.pad_l}, r={self.pad_r}, t={self.pad_t}, b={self.pad_b})"


class SpatialZeroPadding(_SpatialPadding):
    pass


class SpatialReflectionPadding(_SpatialPadding):
    pass


class SpatialReplicationPadding(_SpatialPadding):
    pass


class VolumetricReplicationPadding(Module):
    def __init__(
        self,
        pleft: int,
        pright: int | None = None,
        ptop: int | None = None,
        pbottom: int | None = None,
        pfront: int | None = None,
        pback: int | None = None,
    ) -> None:
        super().__init__()
        self.pleft = pleft
        self.pright = pright or pleft
        self.ptop = ptop or pleft
        self.pbottom = pbottom or pleft
        self.pfront = pfront or pleft
        self.pback = pback or pleft


class SpatialUpSamplingNearest(Module):
    def __init__(self, scale: int) -> None:
        super().__init__()
        if scale < 1 or scale % 1:
            raise ValueError(f"scale_factor must be a whole number above 0, not {scale}")
        self.scale_factor = scale
