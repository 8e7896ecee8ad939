"""Siamese towers: the user calls one module twice."""

import torch
import torch.nn.functional as F
from corpus import EQUAL, randn
from torch import nn

model = "port/nn_siamese.t7"
expect = EQUAL


class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.compare = nn.Linear(14, 3)
        self.conv, self.fc = nn.Conv2d(1, 6, 5), nn.Linear(216, 7)

    def embed(self, x):
        return torch.tanh(self.fc(F.max_pool2d(F.relu(self.conv(x)), 2).flatten(1)))

    def forward(self, a, b):
        return F.log_softmax(self.compare(torch.cat([self.embed(a), self.embed(b)], dim=1)), dim=1)


target = Siamese


def example(seed):
    return randn(2, 1, 16, 16, seed=seed), randn(2, 1, 16, 16, seed=seed + 77)


def run_source(model, x):
    return model(list(x))
