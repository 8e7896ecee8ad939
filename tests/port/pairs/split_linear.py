"""A Linear over a concatenation is split into two, and two whose sum is taken are joined into one."""

import torch
import torch.nn.functional as F
from corpus import EQUAL, randn
from torch import nn

model = "port/nn_two_inputs.t7"
expect = EQUAL
notes = ("split", "joined")


class Net(nn.Module):
    rate = 0.0

    def __init__(self):
        super().__init__()
        self.of_x, self.of_y = nn.Linear(6, 8), nn.Linear(5, 8, bias=False)
        self.joined = nn.Linear(13, 6)
        self.last_weight, self.last_bias = nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.zeros(4))

    def forward(self, x, y):
        h = torch.tanh(self.of_x(x) + self.of_y(y))
        h = torch.sigmoid(self.joined(F.dropout(torch.cat([h, y], 1), self.rate, self.training)))
        return F.log_softmax(h @ self.last_weight + self.last_bias, 1)


target = Net


def example(seed):
    return randn(4, 6, seed=seed), randn(4, 5, seed=seed + 44)


def run_source(model, x):
    return model(list(x))
