"""Depthwise convolution, ReLU6 and padded average pooling."""

import torch.nn.functional as F
from corpus import EQUAL, randn
from torch import nn

model = "port/nn_depthwise.t7"
expect = EQUAL


class Mobile(nn.Module):
    groups, count = 1, True

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(192, 5)
        self.conv, self.bn1 = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.dw, self.bn2 = nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.BatchNorm2d(8)
        self.pw = nn.Conv2d(8, 12, 1, groups=self.groups)

    def forward(self, x):
        x = F.relu6(self.bn1(self.conv(x)))
        x = self.pw(F.hardtanh(self.bn2(self.dw(x)), 0, 6))
        return self.fc(F.avg_pool2d(x, 3, 2, 1, count_include_pad=self.count).flatten(1))


target = Mobile


def example(seed):
    return 2 * randn(2, 3, 16, 16, seed=seed)
