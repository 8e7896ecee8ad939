"""Activations with arguments, and an nn.RReLU that draws nothing in evaluation mode."""

import torch.nn.functional as F
from corpus import EQUAL, randn
from torch import nn

model = "port/nn_activations.t7"
expect = EQUAL


class Net(nn.Module):
    beta = 2

    def __init__(self):
        super().__init__()
        sizes = [(3, 6, 3, 1, 1), (6, 6, 3), (6, 6, 1), (6, 6, 1), (6, 4, 1)]
        self.convs = nn.ModuleList([nn.Conv2d(*size) for size in sizes])
        self.rrelu = nn.RReLU(1 / 8, 1 / 3)

    def forward(self, x):
        x = F.hardtanh(self.convs[0](x))
        x = F.softplus(self.convs[1](x), beta=self.beta)
        x = self.rrelu(self.convs[2](x))
        x = F.relu6(self.convs[3](x))
        x = F.lp_pool2d(F.logsigmoid(self.convs[4](x)), 2, 2)
        return x.mean(2).amax(2)


target = Net


def example(seed):
    return randn(2, 3, 8, 8, seed=seed)
