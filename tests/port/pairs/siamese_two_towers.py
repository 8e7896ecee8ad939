"""Siamese towers: the user has two modules, which get the same weights."""

import torch
import torch.nn.functional as F
from corpus import EQUAL
from pairs.siamese import example, model, run_source
from torch import nn

__all__ = ["example", "model", "run_source"]
expect = EQUAL


class Tower(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(216, 7), nn.Tanh())


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.right, self.left, self.compare = Tower(), Tower(), nn.Linear(14, 3)

    def forward(self, a, b):
        return F.log_softmax(self.compare(torch.cat([self.left(a), self.right(b)], dim=1)), dim=1)


target = Two
