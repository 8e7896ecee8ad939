"""Convolutions over time of three widths (Conv1d) and a highway network."""

import torch
import torch.nn.functional as F
from corpus import EQUAL, indices
from torch import nn

model = "port/tdnn_highway.t7"
expect = EQUAL


def example(seed):
    return indices(20, 5, 9, seed=seed)


def run_source(model, x):
    return model(x + 1)


class Highway(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.gate, self.plain = nn.Linear(size, size), nn.Linear(size, size)

    def forward(self, x):
        g = torch.sigmoid(self.gate(x) - 2)
        return g * F.relu(self.plain(x)) + (1 - g) * x


class CharCNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 6)
        self.convs = nn.ModuleList([nn.Conv1d(6, n, k) for n, k in ((4, 1), (5, 2), (7, 4))])
        self.highway = nn.Sequential(Highway(16), Highway(16))
        self.fc = nn.Linear(16, 8)

    def forward(self, x):
        x = self.embedding(x).transpose(1, 2)
        x = torch.cat([self.over_time(torch.tanh(conv(x))) for conv in self.convs], 1)
        return F.log_softmax(self.fc(self.highway(x)), 1)

    def over_time(self, x):
        return x.max(dim=2)[0]


target = CharCNN
