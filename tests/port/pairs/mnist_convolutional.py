"""A LeNet whose classifier is two convolutions."""

import torch
from corpus import EQUAL
from pairs.mnist import example, model
from torch import nn

__all__ = ["example", "model"]
expect = EQUAL


class FCN(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 32, 5),
            nn.Tanh(),
            nn.MaxPool2d(3, 3, 1),
            nn.Conv2d(32, 64, 5),
            nn.Tanh(),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 200, 3),
            nn.Tanh(),
            nn.Conv2d(200, 10, 1),
        )

    def forward(self, x):
        return torch.log_softmax(self.layers(x)[:, :, 0, 0], 1)


target = FCN
