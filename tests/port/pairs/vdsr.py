"""VDSR: ten convolutions of one shape."""

from corpus import EQUAL, randn
from torch import nn

model = "port/nn_vdsr.t7"
expect = EQUAL


class ConvReLU(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.relu = nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(self.conv(x))


class VDSR(nn.Module):
    def __init__(self):
        super().__init__()
        self.residual_layer = self.body()
        self.input = nn.Conv2d(1, 6, 3, padding=1)
        self.output = nn.Conv2d(6, 1, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def body(self):
        return nn.Sequential(*(ConvReLU() for _ in range(10)))

    def forward(self, x):
        out = self.residual_layer(self.relu(self.input(x)))
        return self.output(out) + x


target = VDSR


def example(seed):
    return randn(2, 1, 12, 12, seed=seed)
