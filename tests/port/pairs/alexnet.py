"""AlexNet in two towers; the thresholds of its classifier give 1e-6, and one Linear is a convolution."""

import torch
import torch.nn.functional as F
from corpus import EQUAL, randn
from torch import nn

model = "port/alexnet.t7"
expect = EQUAL


class Tower(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 11, 4, 2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(4, 5, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(5, 6, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(6, 6, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(6, 5, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
        )

    def forward(self, x):
        return self.body(x)


class AlexNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = Tower(), Tower()
        self.fc6 = nn.Conv2d(10, 12, 1)
        self.fc7, self.fc8 = nn.Linear(12, 12), nn.Linear(12, 10)

    def forward(self, x):
        x = torch.cat([self.left(x), self.right(x)], 1)
        x = self.squash(self.fc6(F.dropout(x, training=self.training)).flatten(1))
        x = self.squash(self.fc7(F.dropout(x, training=self.training)))
        return F.log_softmax(self.fc8(x), 1)

    def squash(self, x):
        return F.threshold(x, 0, 1e-6)


target = AlexNet


def example(seed):
    return randn(3, 3, 67, 67, seed=seed)
