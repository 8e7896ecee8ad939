"""Optical flow over a pyramid: three inputs, bilinear upsampling that aligns corners, as in SPyNet."""

import torch
import torch.nn.functional as F
from corpus import EQUAL, randn
from torch import nn

model = "port/nn_pyramid_flow.t7"
expect = EQUAL
notes = ("single precision",)
tolerance = 1e-6  # Torch7's bilinear upsampling computes its coefficients in single precision


class Level(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(6, 6, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(6, 4, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(4, 2, 5, padding=2),
        )


class Flow(nn.Module):
    scale, align = 2.0, True

    def __init__(self):
        super().__init__()
        self.levels = nn.ModuleList([Level(), Level()])

    def forward(self, first, second, flow):
        small = [F.avg_pool2d(x, 2) for x in (first, second)]
        flow = flow + self.levels[0](torch.cat([*small, flow], 1))
        up = self.upsample(flow)
        return up + self.levels[1](torch.cat([first, second, up], 1))

    def upsample(self, flow):
        return F.interpolate(flow, scale_factor=2, mode="bilinear", align_corners=self.align) * self.scale


target = Flow


def example(seed):
    return randn(2, 2, 16, 16, seed=seed), randn(2, 2, 16, 16, seed=seed + 50), randn(2, 2, 8, 8, seed=seed + 99)


def run_source(model, x):
    return model(list(x))
