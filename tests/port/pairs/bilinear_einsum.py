"""A bilinear form by torch.einsum."""

import torch
import torch.nn.functional as F
from corpus import EQUAL, randn
from torch import nn

model = "port/nn_bilinear.t7"
expect = EQUAL


class Bilinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(6, 7), nn.Linear(5, 4)
        self.weight, self.bias = nn.Parameter(torch.randn(3, 7, 4)), nn.Parameter(torch.zeros(3))

    def forward(self, x, y):
        scores = torch.einsum("bi,oij,bj->bo", torch.tanh(self.left(x)), self.weight, torch.tanh(self.right(y)))
        return F.softmax(scores + self.bias, dim=-1)


target = Bilinear


def example(seed):
    return randn(4, 6, seed=seed), randn(4, 5, seed=seed + 10)


def run_source(model, x):
    return model(list(x))
