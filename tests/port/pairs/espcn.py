"""ESPCN with slopes that are learned, one for each channel and one for all, and pixel shuffle."""

import torch
import torch.nn.functional as F
from corpus import EQUAL, randn
from torch import nn

model = "port/nn_espcn.t7"
expect = EQUAL


class ESPCN(nn.Module):
    slopes = 6

    def __init__(self):
        super().__init__()
        self.feature_maps = nn.Sequential(nn.Conv2d(1, 8, 5, padding=2), nn.Tanh(), nn.Conv2d(8, 6, 3, padding=1))
        self.act, self.slope = nn.PReLU(self.slopes), nn.Parameter(torch.tensor([0.1]))
        self.sub_pixel = nn.Conv2d(6, 12, 3, padding=1)

    def forward(self, x):
        x = self.sub_pixel(self.act(self.feature_maps(x)))
        return torch.sigmoid(F.pixel_shuffle(F.prelu(x, self.slope), 2))


target = ESPCN


def example(seed):
    return randn(2, 1, 8, 8, seed=seed)
