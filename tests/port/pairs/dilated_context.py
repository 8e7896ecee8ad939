"""A context module of dilated convolutions of one shape."""

from corpus import EQUAL, randn
from torch import nn

model = "port/nn_dilated_context.t7"
expect = EQUAL


class Context(nn.Module):
    dilations = (1, 1, 2, 4, 1)

    def __init__(self):
        super().__init__()
        self.final = nn.Conv2d(5, 3, 1)
        for i, d in enumerate(self.dilations):
            setattr(self, f"ctx{i}", nn.Conv2d(5, 5, 3, padding=d, dilation=d))
        self.activate = nn.LeakyReLU(0.1)

    def forward(self, x):
        for i in range(5):
            x = self.activate(getattr(self, f"ctx{i}")(x))
        return self.final(x)


target = Context


def example(seed):
    return randn(2, 5, 12, 12, seed=seed)
