"""waifu2x's upconv_7; the user crops the border that the Lua code's padding takes away."""

import itertools

import torch
import torch.nn.functional as F
from corpus import EQUAL
from torch import nn

model = "port/waifu2x_upconv_7.t7"
expect = EQUAL


class UpConv7(nn.Module):
    def __init__(self):
        super().__init__()
        widths = (3, 4, 6, 7, 8, 8, 10)
        self.body = nn.ModuleList([nn.Conv2d(a, b, 3) for a, b in itertools.pairwise(widths)])
        self.up = nn.ConvTranspose2d(10, 3, 4, stride=2, padding=3, bias=False)

    def forward(self, x):
        for conv in self.body:
            x = F.leaky_relu(conv(x), 0.1)
        return self.clip(self.up(x))

    def clip(self, x):
        return x.clamp(0, 1)


target = UpConv7


def example(seed):
    return torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def run_source(model, x):
    return model(x).view(2, 3, 20, 20)
