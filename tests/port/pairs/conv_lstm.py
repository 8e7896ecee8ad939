"""A step of a convolutional LSTM: one convolution over joined channels for the eight of the source."""

import torch
from corpus import EQUAL, randn
from torch import nn

model = "port/nn_conv_lstm.t7"
expect = EQUAL


class ConvLSTMCell(nn.Module):
    candidate = staticmethod(torch.tanh)

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 20, 3, padding=1)

    def forward(self, x, h, c):
        f, i, g, o = self.conv(torch.cat([h, x], 1)).chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * self.candidate(g)
        return torch.sigmoid(o) * torch.tanh(c), c


target = ConvLSTMCell


def example(seed):
    return tuple(randn(2, n, 6, 6, seed=10 * seed + n + k) for k, n in enumerate((3, 5, 5)))


def run_source(model, x):
    return model(list(x))
