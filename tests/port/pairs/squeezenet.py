"""SqueezeNet with bypasses."""

import torch
import torch.nn.functional as F
from corpus import EQUAL, randn
from torch import nn

model = "port/squeezenet.t7"
expect = EQUAL


class Fire(nn.Module):
    def __init__(self, cin, squeeze, expand, bypass=False):
        super().__init__()
        self.squeeze = nn.Conv2d(cin, squeeze, 1)
        self.expand1x1, self.expand3x3 = nn.Conv2d(squeeze, expand, 1), nn.Conv2d(squeeze, expand, 3, padding=1)
        self.bypass = bypass

    def forward(self, x):
        y = F.relu(self.squeeze(x))
        y = F.relu(self.join(self.expand1x1(y), self.expand3x3(y)))
        return x + y if self.bypass else y

    def join(self, small, large):
        return torch.cat([small, large], 1)


class SqueezeNet(nn.Module):
    fire = Fire
    margin = 1

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 7, 2),
            nn.ReLU(True),
            nn.MaxPool2d(3, 2),
            Fire(6, 2, 3),
            self.fire(6, 2, 3, bypass=True),
            Fire(6, 4, 6),
            nn.MaxPool2d(3, 2),
            Fire(12, 4, 6, bypass=True),
            Fire(12, 4, 9),
            Fire(18, 4, 9, bypass=True),
            Fire(18, 4, 9),
            nn.MaxPool2d(3, 2),
            Fire(18, 4, 9, bypass=True),
        )
        self.classifier = nn.Sequential(nn.Dropout(), nn.Conv2d(18, 10, 1, padding=self.margin), nn.ReLU())

    def forward(self, x):
        return F.log_softmax(self.classifier(self.features(x)).mean((2, 3)), 1)


target = SqueezeNet


def example(seed):
    return randn(2, 3, 113, 113, seed=seed)
