"""Attention with queries, keys and values from one Linear, which are not of one size."""

import torch.nn.functional as F
from corpus import EQUAL, randn
from torch import nn

model = "port/nn_attention.t7"
expect = EQUAL


class Attention(nn.Module):
    scale = 6**-0.5

    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 16), nn.Linear(4, 3)

    def forward(self, x):
        q, k, v = self.qkv(x).split([6, 6, 4], dim=-1)
        weights = F.softmax(q @ k.transpose(1, 2) * self.scale, dim=-1)
        return self.out(weights @ v)


target = Attention


def example(seed):
    return randn(3, 5, 8, seed=seed)
