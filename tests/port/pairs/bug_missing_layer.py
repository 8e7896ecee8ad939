"""The user's body has one layer less."""

from corpus import Bug
from pairs.vdsr import VDSR, ConvReLU, example, model
from torch import nn

__all__ = ["example", "model"]
expect = Bug("vdsr", (("convolution", "Convolution", "conv"),), layer=("output", "residual_layer.9"))


class Net(VDSR):
    def body(self):
        return nn.Sequential(*(ConvReLU() for _ in range(9)))


target = Net
