"""Network in network."""

import torch.nn.functional as F
from corpus import EQUAL, randn
from torch import nn

model = "port/cifar_nin.t7"
expect = EQUAL


class Block(nn.Sequential):
    def __init__(self, cin, cout, k=1, p=0):
        super().__init__(nn.Conv2d(cin, cout, k, padding=p), nn.BatchNorm2d(cout, eps=1e-3), nn.ReLU())


class NIN(nn.Module):
    def __init__(self):
        super().__init__()
        self.mlpconv1 = nn.Sequential(Block(3, 8, 5, 2), Block(8, 6), Block(6, 5))
        self.mlpconv2 = nn.Sequential(Block(5, 8, 5, 2), Block(8, 8), Block(8, 8))
        self.mlpconv3 = nn.Sequential(Block(8, 8, 3, 1), Block(8, 8), Block(8, 10))

    def forward(self, x):
        x = F.dropout(F.max_pool2d(self.mlpconv1(x), 3, 2, ceil_mode=True), 0.5, self.training)
        x = F.dropout(self.second_pool(self.mlpconv2(x)), 0.5, self.training)
        return self.mlpconv3(x).mean([2, 3])

    def second_pool(self, x):
        return F.avg_pool2d(x, 3, 2, ceil_mode=True)


target = NIN


def example(seed):
    return randn(2, 3, 32, 32, seed=seed)
