"""Element-wise functions, softmax functions and noise."""

from __future__ import annotations

from typing import Any

import torch

from dpnn_bridge.legacy.module import Module


class Abs(Module):
    pass


class Exp(Module):
    pass


class Log(Module):
    pass


class LogSigmoid(Module):
    pass


class Sigmoid(Module):
    pass


class SoftSign(Module):
    pass


class Square(Module):
    pass


class Tanh(Module):
    pass


class SpatialSoftMax(Module):
    pass


class Sqrt(Module):
    def __init__(self, b: float = 0, eps: float = 0) -> None:
        super().__init__(eps=eps)


class Power(Module):
    def __init__(self, p: float) -> None:
        super().__init__(pow=p)


class TanhShrink(Module):
    def __init__(self) -> None:
        super().__init__(tanh=Tanh())


class _SoftMaximum(Module):
    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        if dim is not None:
            self.dim = dim

    def _in_pytorch(self) -> Any:
        """Build a softmax over ``dim``. Torch7 has no such argument: the number of dimensions determines ``dim``."""
        return self._of_torch(self.dim)

    _of_torch: Any


class SoftMax(_SoftMaximum):
    _of_torch = torch.nn.Softmax


class LogSoftMax(_SoftMaximum):
    _of_torch = torch.nn.LogSoftmax


class SoftMin(_SoftMaximum):
    _of_torch = torch.nn.Softmin


class _WithConstant(Module):
    def __init__(self, constant_scalar: float, inplace: bool = False) -> None:
        super().__init__(constant_scalar=constant_scalar, inplace=inplace)


class AddConstant(_WithConstant):
    pass


class MulConstant(_WithConstant):
    pass


class Threshold(Module):
    def __init__(self, threshold: float = 0, value: float = 0, inplace: bool = False) -> None:
        super().__init__(threshold=threshold, value=value, inplace=inplace)
        self.validateParameters()

    def validateParameters(self) -> None:
        if self.inplace and self.value > self.threshold:
            raise ValueError(
                f"in-place processing requires value ({self.value}) not to exceed the threshold ({self.threshold})"
            )


class ReLU(Threshold):
    def __init__(self, inplace: bool = False) -> None:
        super().__init__(0, 0, inplace)


class ReLU6(Module):
    def __init__(self, inplace: bool = False) -> None:
        super().__init__(inplace=inplace)


class ELU(Module):
    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        assert type(alpha) is float
        super().__init__(alpha=alpha, inplace=inplace)


class LeakyReLU(Module):
    def __init__(self, negval: float = 1 / 100, inplace: bool = False) -> None:
        super().__init__()
        if isinstance(negval, bool):
            negval, inplace = 1 / 100, negval
        self.negval = negval
        self.inplace = inplace and negval >= 0


class RReLU(Module):
    def __init__(self, lower: float = 1.0 / 8, upper: float = 1.0 / 3, inplace: bool = False) -> None:
        assert 0 <= lower <= upper
        super().__init__(lower=lower, upper=upper, inplace=inplace, noise=torch.Tensor(), train=True)


class PReLU(Module):
    def __init__(self, nOutputPlane: int = 0) -> None:
        super().__init__(nOutputPlane=nOutputPlane)
        self._new_parameters(weight=nOutputPlane or 1)
        self.weight.fill_(0.25)


class HardTanh(Module):
    def __init__(self, min_value: float = -1, max_value: float = 1, inplace: bool = False) -> None:
        assert max_value > min_value
        super().__init__(min_val=min_value, max_val=max_value, inplace=inplace)


class Clamp(HardTanh):
    def __init__(self, min_value: float, max_value: float) -> None:
        super().__init__(min_value, max_value)


class _Shrink(Module):
    def __init__(self, lambd: float = 0.5) -> None:
        super().__init__(lambd=lambd)


class HardShrink(_Shrink):
    pass


class SoftShrink(_Shrink):
    pass


class SoftPlus(Module):
    def __init__(self, beta: float = 1, threshold: float = 20) -> None:
        super().__init__(beta=beta, threshold=threshold)


class GradientReversal(Module):
    def __init__(self, lambd: float = 1) -> None:
        super().__init__(lambd=lambd)

    def setLambda(self, lambd: float) -> None:
        self.lambd = lambd


class L1Penalty(Module):
    def __init__(self, l1weight: float, sizeAverage: bool = False, provideOutput: bool = True) -> None:
        super().__init__(l1weight=l1weight, sizeAverage=sizeAverage, provideOutput=provideOutput)

    @property
    def loss(self) -> Any:
        """The penalty of the last input."""
        input = self._call.inputs[0].data
        return self.l1weight * input.abs().sum() / (input.nelement() if self.sizeAverage else 1)


class _Noise(Module):
    def __init__(self, p: float = 0.5) -> None:
        super().__init__(p=p, train=True, noise=torch.Tensor())

    def setp(self, p: float) -> None:
        self.p = p

    def __repr__(self) -> str:
        return f"{super().__repr__()}({self.p:.4f})"


class Dropout(_Noise):
    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__(p)
        self.inplace = inplace


class SpatialDropout(_Noise):
    pass


class VolumetricDropout(_Noise):
    pass
