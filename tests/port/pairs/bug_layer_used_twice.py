"""One layer is used twice where the Lua code has two."""

from corpus import Bug
from pairs.vdsr import VDSR, ConvReLU, example, model
from torch import nn

__all__ = ["example", "model"]
expect = Bug(
    "vdsr",
    (("twice", "again", "called", "two layers", "uses"),),
    layer=("residual_layer.6.conv", "residual_layer.5.conv"),
)


class Net(VDSR):
    def body(self):
        layers = [ConvReLU() for _ in range(10)]
        layers[6] = layers[5]
        return nn.Sequential(*layers)


target = Net
