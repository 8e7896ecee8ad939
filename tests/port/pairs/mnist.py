"""A LeNet ported through TensorFlow, whose flatten takes height, width, channels; its first Linear is `x @ w`."""

import torch
import torch.nn.functional as F
from corpus import EQUAL, randn
from torch import nn

model = "samples/torch-demos__mnist_convnet/model.t7"
expect = EQUAL
notes = ("permuted",)


class LeNet(nn.Module):
    stride = 3

    def __init__(self):
        super().__init__()
        self.w, self.b = nn.Parameter(torch.randn(576, 200) / 24), nn.Parameter(torch.zeros(200))
        self.c1, self.c2, self.out = nn.Conv2d(1, 32, 5), nn.Conv2d(32, 64, 5), nn.Linear(200, 10)

    def forward(self, x):
        x = F.max_pool2d(torch.tanh(self.c1(x)), 3, self.stride, 1)
        x = F.max_pool2d(torch.tanh(self.c2(x)), 2)
        x = x.permute(0, 2, 3, 1).reshape(len(x), -1)
        return F.log_softmax(self.out(torch.tanh(x @ self.w + self.b)), 1)


target = LeNet


def example(seed):
    return randn(2, 1, 32, 32, seed=seed)
