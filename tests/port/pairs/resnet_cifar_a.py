"""ResNet for CIFAR with shortcuts of type A: strided, channels padded with zeros."""

import torch.nn.functional as F
from corpus import EQUAL, randn
from torch import nn

model = "port/resnet_cifar_a.t7"
expect = EQUAL


class Shortcut(nn.Module):
    def __init__(self, planes):
        super().__init__()
        self.padding = (0, 0, 0, 0, 0, planes // 2)

    def forward(self, x):
        return F.pad(x[:, :, ::2, ::2], self.padding)


class Block(nn.Module):
    shortcut_of = Shortcut

    def __init__(self, cin, cout):
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(cout), nn.BatchNorm2d(cout)
        self.conv1 = nn.Conv2d(cin, cout, 3, cout // cin, 1, bias=False)
        self.conv2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
        self.shortcut = nn.Identity() if cin == cout else self.shortcut_of(cout)

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNet8(nn.Module):
    block = Block

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4)
        self.layer1 = self.block(4, 4)
        self.layer2 = self.block(4, 8)
        self.layer3 = self.block(8, 16)
        self.linear = nn.Linear(16, 10)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(F.avg_pool2d(x, x.size(3)).flatten(1))


target = ResNet8


def example(seed):
    return randn(2, 3, 32, 32, seed=seed)
