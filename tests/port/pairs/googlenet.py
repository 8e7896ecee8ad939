"""GoogLeNet with an auxiliary classifier: two outputs, branches in a ModuleList."""

import torch
import torch.nn.functional as F
from corpus import EQUAL, randn
from torch import nn

model = "port/googlenet.t7"
expect = EQUAL


class Conv(nn.Conv2d):
    def forward(self, x):
        return F.relu(super().forward(x))


class Inception(nn.Module):
    def __init__(self, cin, n1, n3r, n3, n33r, n33, pool, proj):
        super().__init__()
        branches = [nn.Sequential(Conv(cin, n3r, 1), Conv(n3r, n3, 3, padding=1))]
        branches.append(nn.Sequential(Conv(cin, n33r, 1), Conv(n33r, n33, 3, padding=1), Conv(n33, n33, 3, padding=1)))
        if n1:
            branches.insert(0, Conv(cin, n1, 1))
        # zeros that count, as in the Lua code, which pads before it takes the maximum
        pooling = nn.Sequential(nn.ZeroPad2d(1), nn.MaxPool2d(3, 1)) if pool == "max" else nn.AvgPool2d(3, 1, 1)
        branches.append(nn.Sequential(pooling, Conv(cin, proj, 1)) if proj else pooling)
        self.branches = nn.ModuleList(branches)

    def forward(self, x):
        return torch.cat([branch(x) for branch in self.branches], 1)


class GoogLeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.aux = nn.ModuleDict({"conv": nn.Conv2d(16, 4, 1), "fc1": nn.Linear(16, 7), "fc2": nn.Linear(7, 10)})
        self.stem = nn.Sequential(Conv(3, 3, 7, 2, 3), nn.MaxPool2d(3, 2, ceil_mode=True), Conv(3, 3, 1))
        self.stem2 = nn.Sequential(Conv(3, 6, 3, 1, 1), nn.MaxPool2d(3, 2, ceil_mode=True))
        self.a3, self.c3 = Inception(6, 3, 3, 3, 3, 4, "avg", 2), Inception(12, 0, 4, 5, 3, 4, "max", 0)
        self.reduce3 = nn.Conv2d(21, 16, 2, 2)
        self.a4, self.e4 = Inception(16, 5, 3, 4, 4, 4, "avg", 3), Inception(16, 0, 4, 5, 4, 5, "max", 0)
        self.reduce4 = nn.Conv2d(26, 20, 2, 2)
        self.b5 = Inception(20, 6, 4, 5, 4, 5, "max", 4)
        self.fc = nn.Linear(20, 10)

    def forward(self, x):
        x = self.a4(self.reduce3(self.c3(self.a3(self.stem2(self.stem(x))))))
        y = self.b5(self.reduce4(self.e4(x)))
        y = F.log_softmax(self.fc(F.avg_pool2d(y, 2).flatten(1)), 1)
        z = self.aux["conv"](F.avg_pool2d(x, 2, 2, ceil_mode=True)).flatten(1)
        return y, F.log_softmax(self.aux["fc2"](F.relu(self.aux["fc1"](z))), 1)


target = GoogLeNet


def example(seed):
    return randn(2, 3, 64, 64, seed=seed)


def run_target(module, x):
    return torch.cat(module(x), 1)
