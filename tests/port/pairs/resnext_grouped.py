"""ResNeXt's form B to form C: one grouped convolution for all paths."""

from corpus import EQUAL
from pairs.resnext import ResNeXt, example, model
from torch import nn

__all__ = ["example", "model"]
expect = EQUAL


class Grouped(nn.Sequential):
    def __init__(self, cin, d, stride):
        super().__init__(
            nn.Conv2d(cin, 2 * d, 1, bias=False),
            nn.BatchNorm2d(2 * d),
            nn.ReLU(),
            nn.Conv2d(2 * d, 2 * d, 3, stride, 1, groups=2, bias=False),
            nn.BatchNorm2d(2 * d),
            nn.ReLU(),
        )


class Net(ResNeXt):
    inner = Grouped


target = Net
