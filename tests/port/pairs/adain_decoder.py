"""AdaIN's decoder with reflection padding."""

import torch.nn.functional as F
from corpus import EQUAL, randn
from torch import nn

model = "samples/AdaIN-style__decoder/model.t7"
expect = EQUAL


class Decoder(nn.Module):
    mode = "reflect"

    def __init__(self):
        super().__init__()
        sizes = ((24, 16), (16, 16), (16, 16), (16, 16), (16, 12), (12, 12), (12, 8), (8, 8), (8, 3))
        self.convs = nn.ModuleList([nn.Conv2d(a, b, 3, padding=1, padding_mode=self.mode) for a, b in sizes])

    def forward(self, x):
        for i, conv in enumerate(self.convs):
            x = conv(x)
            if i < 8:
                x = F.relu(x)
            if i in (0, 4, 6):
                x = F.interpolate(x, scale_factor=2, mode="nearest")
        return x


target = Decoder


def example(seed):
    return randn(1, 24, 8, 8, seed=seed)
