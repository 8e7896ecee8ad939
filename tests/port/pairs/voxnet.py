"""VoxNet: convolutions of volumes. Torch7's dropout of whole volumes scales by 1 - p when it evaluates."""

import torch.nn.functional as F
from corpus import EQUAL, randn
from torch import nn

model = "port/voxnet.t7"
expect = EQUAL


class VoxNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv3d(1, 4, 5, 2, 1), nn.Conv3d(4, 4, 3)
        self.dense = nn.Sequential(nn.Linear(32, 12), nn.ReLU(), nn.Dropout(0.4), nn.Linear(12, 6))

    def forward(self, x):
        x = self.keep(F.leaky_relu(self.conv1(x), 0.1), 0.8)
        x = self.keep(F.max_pool3d(F.leaky_relu(self.conv2(x), 0.1), 2), 0.7)
        return self.dense(x.reshape(len(x), -1))

    def keep(self, x, rate):
        return x * rate


target = VoxNet


def example(seed):
    return randn(3, 1, 16, 16, 16, seed=seed)
