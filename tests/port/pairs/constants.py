"""Learned scales and shifts, as parameters of the user's module."""

import torch
import torch.nn.functional as F
from corpus import EQUAL, randn
from torch import nn

model = "port/nn_constants.t7"
expect = EQUAL


class Scaled(nn.Module):
    alpha = 0.7

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(9, 8), nn.Linear(8, 6), nn.Linear(6, 4)
        self.norm = nn.BatchNorm1d(6)
        self.scale, self.shift = nn.Parameter(torch.ones(8)), nn.Parameter(torch.zeros(8))
        self.gain, self.offset = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.zeros(6))

    def forward(self, x):
        x = F.relu(self.a(x) * self.scale + self.shift)
        x = self.norm(self.b(0.5 * (self.gain * x)))
        return torch.softmax(self.c(F.elu(x, self.alpha) + self.offset), -1)


target = Scaled


def example(seed):
    return randn(5, 9, seed=seed)
