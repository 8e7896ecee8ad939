"""DenseNet-BC for CIFAR, layers in Sequentials with names."""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from corpus import EQUAL, randn
from torch import nn

model = "port/densenet_bc.t7"
expect = EQUAL
GROWTH = 3


class DenseLayer(nn.Module):
    rate = 0.2

    def __init__(self, channels):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(channels), nn.Conv2d(channels, 4 * GROWTH, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(4 * GROWTH), nn.Conv2d(4 * GROWTH, GROWTH, 3, padding=1, bias=False)

    def forward(self, x):
        new = self.conv1(F.relu(self.norm1(x)))
        new = self.conv2(F.relu(self.norm2(F.dropout(new, self.rate, self.training))))
        return torch.cat([x, F.dropout(new, self.rate, self.training)], 1)


class Transition(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, channels // 2, 1, bias=False)

    def forward(self, x):
        return F.avg_pool2d(F.dropout(self.conv(F.relu(self.norm(x))), 0.2, self.training), 2)


class DenseNet(nn.Module):
    layer = DenseLayer

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(OrderedDict([("conv0", nn.Conv2d(3, 2 * GROWTH, 3, padding=1, bias=False))]))
        channels = 2 * GROWTH
        for block in range(3):
            for i in range(2):
                self.features.add_module(f"block{block}_layer{i}", self.layer(channels))
                channels += GROWTH
            if block < 2:
                self.features.add_module(f"transition{block}", Transition(channels))
                channels //= 2
        self.features.add_module("norm5", nn.BatchNorm2d(channels))
        self.classifier = nn.Linear(channels, 10)

    def forward(self, x):
        x = F.relu(self.features(x))
        return self.classifier(F.adaptive_avg_pool2d(x, (1, 1)).flatten(1))


target = DenseNet


def example(seed):
    return randn(2, 3, 32, 32, seed=seed)
