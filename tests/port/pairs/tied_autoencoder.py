"""The decoder is the embedding's matrix: a parameter that two operations use."""

import torch
import torch.nn.functional as F
from corpus import EQUAL, indices
from torch import nn

model = "port/nn_tied_autoencoder.t7"
expect = EQUAL


def example(seed):
    return indices(12, 5, 3, seed=seed)


def run_source(model, x):
    return model(x + 1)


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(12))
        self.words = nn.Embedding(12, 9)

    def forward(self, x):
        bag = torch.tanh(self.pool(self.words(x)))
        return F.softmax(F.linear(bag, self.words.weight, self.bias), 1)

    def pool(self, x):
        return x.mean(1)


target = Bag
